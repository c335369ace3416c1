"""A headless Chromium, spoken to over pipes by its DevTools protocol: no port, no library.

Source: Chromium's ``--remote-debugging-pipe``: JSON messages that end in a zero byte, to descriptor 3 and from 4.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_PATIENCE_S = 60


def program() -> str:
    """Where Chromium is; skips the test where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no Chromium ({', '.join(NAMES)}); as root on Debian: apt-get install chromium-headless-shell")
    return found


class Browser:
    """One page of a headless Chromium; the errors that it tells of and the addresses that it asks for are kept."""

    def __init__(self, profile: Path) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._last, self._buffer, self._session = 0, b"", ""
        command = [
            program(),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-pipe",
            "--no-first-run",
        ]
        command += [f"--user-data-dir={profile}", "--window-size=1280,900", "--hide-scrollbars", "about:blank"]
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        moved = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *command]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(moved, stdout=quiet, stderr=quiet, pass_fds=(theirs_in, theirs_out))
        os.close(theirs_in)
        os.close(theirs_out)
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(_PATIENCE_S)
        os.close(self._in)
        os.close(self._out)

    def open(self, path: Path) -> None:
        """Show a file and wait until it is loaded."""
        self._send("Page.navigate", url=path.absolute().as_uri())
        self._until("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """The value of an expression on the page."""
        given = self._send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in given, given["exceptionDetails"]
        return given["result"].get("value")

    def prefer(self, scheme: str) -> None:
        """dark or light."""
        self._send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def resize(self, width: int, height: int) -> None:
        """Size of the window, in CSS pixels; below 500 a phone's."""
        sizes = {"width": width, "height": height, "deviceScaleFactor": 1}
        self._send("Emulation.setDeviceMetricsOverride", **sizes, mobile=width < 500)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        picture = self._send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(picture["data"]))

    def _send(self, method: str, **given: Any) -> Any:
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": given}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        found = self._until(self._last)
        assert "error" not in found, f"{method}: {found['error']}"
        return found["result"]

    def _until(self, wanted: int | str) -> dict[str, Any]:
        """Read on to the answer of a number, or to an event of a name."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            message, zero, rest = self._buffer.partition(b"\0")
            if not zero:
                ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
                data = os.read(self._in, 1 << 20) if ready else b""
                assert data, f"Chromium doesn't answer ({wanted}), exit status {self._process.poll()}"
                self._buffer += data
                continue
            self._buffer = rest
            found: dict[str, Any] = json.loads(message)
            self._note(found)
            if wanted in (found.get("id"), found.get("method")):
                return found

    def _note(self, event: dict[str, Any]) -> None:
        name, given = event.get("method"), event.get("params", {})
        if name == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(given["exceptionDetails"]))
        elif name == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(given["args"]))
        elif name == "Log.entryAdded" and given["entry"]["level"] in ("error", "warning"):
            self.errors.append(given["entry"]["text"])
        elif name == "Network.requestWillBeSent" and not given["request"]["url"].startswith(("data:", "about:")):
            self.requests.append(given["request"]["url"])
