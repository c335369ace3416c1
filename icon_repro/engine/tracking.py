"""Send copies of runs to Weights & Biases, online or offline; what is stored here never depends on it.

In: descriptions of runs.  Out: W&B's files in a folder, or runs on its server; a note of what has been logged.
Offline unless WANDB_API_KEY or a netrc entry is there; keys are never read or stored here.
A process of its own (``engine.wandb_sender``) does the sending: no step waits for it, no worker imports wandb, and one
that is silent for ``tracking.silence_s`` is ended. What wasn't logged is logged by the next report.
Known gap: none.
"""

import contextlib
import netrc
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from icon_repro.engine import wandb_sender
from icon_repro.engine.options import TrackingConfig, WandbMode
from icon_repro.engine.records import read_json, write_json

_MODES = {"online": "online", "offline": "offline", "disabled": "disabled", "run": "online", "dryrun": "offline"}
_HOSTS = ("api.forge.coreweave.com", "api.wandb.ai")  # where wandb 0.31 and older ones log in by default
_LOG = "sender.log"  # what wandb prints
_END_S = 5.0


class TrackingError(ValueError):
    """The environment asks for something that W&B doesn't know."""


def wandb_mode(cfg: TrackingConfig) -> str:
    """``online``, ``offline`` or ``disabled``; WANDB_MODE in the environment wins over ``auto``.

    Raises:
        TrackingError: WANDB_MODE has another value.
    """
    if cfg.wandb is not WandbMode.auto:
        return cfg.wandb.value
    if given := os.environ.get("WANDB_MODE"):
        if given not in _MODES:
            raise TrackingError(f"WANDB_MODE={given!r} (environment): must be one of {', '.join(_MODES)}.")
        return _MODES[given]
    return "online" if os.environ.get("WANDB_API_KEY") or _in_netrc() else "offline"


def _in_netrc() -> bool:
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        entries = netrc.netrc(path) if path.is_file() else None
    except (netrc.NetrcParseError, OSError):
        return False
    server = urlsplit(os.environ.get("WANDB_BASE_URL", "")).netloc
    return entries is not None and any(entries.authenticators(host) for host in ([server] if server else _HOSTS))


@dataclass(frozen=True)
class Upload:
    """An artifact: small files of a step, and which files it has in all."""

    name: str
    type: str
    version: str  # an alias of W&B: two steps of one name are told apart
    files: Mapping[str, str]  # name -> path
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class TrackedRun:
    """One run of W&B."""

    id: str
    name: str
    job_type: str
    state: str  # what of it can be logged; the same state isn't logged twice
    config: Mapping[str, Any]
    summary: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()  # {step, metrics}
    tables: Mapping[str, tuple[list[str], list[list[str]]]] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    uploads: Sequence[Upload] = ()
    uses: Sequence[str] = ()  # name:version of artifacts of other runs


class Logged:
    """What has been logged of an experiment, and where to; kept in ``<folder>/<name>-runs.json``."""

    def __init__(self, cfg: TrackingConfig, name: str, folder: Path) -> None:
        self.mode = wandb_mode(cfg)
        self._place = f"{self.mode} {cfg.entity}/{cfg.project}"
        self._path = folder / f"{name}-runs.json"
        self._runs: dict[str, Any] = read_json(self._path) if self._path.is_file() else {}

    def has(self, run: str, state: str) -> bool:
        """Whether ``run`` has been logged in that state."""
        return self._of(run).get("state") == state

    def new(self, run: str, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What the server doesn't have of a history {step, metrics}; offline all, as only the last copy is kept."""
        last = self._of(run).get("step", 0) if self.mode == "online" else 0
        return [row for row in history if row["step"] > last]

    def add(self, runs: Sequence[TrackedRun]) -> None:
        if not runs:
            return
        if self._path.is_file():  # another process may have logged something meanwhile
            self._runs = read_json(self._path)
        for run in runs:
            step = max([self._of(run.id).get("step", 0), *(row["step"] for row in run.history)])
            self._runs[run.id] = {"place": self._place, "state": run.state, "step": step}
        write_json(self._path, self._runs)

    def _of(self, run: str) -> Mapping[str, Any]:
        noted: Mapping[str, Any] = self._runs.get(run, {})
        return noted if noted.get("place") == self._place else {}


def send(cfg: TrackingConfig, name: str, runs: Sequence[TrackedRun], logged: Logged, folder: Path) -> str:
    """Log ``runs``, in order. A failing or silent W&B loses nothing that is stored here, and raises nothing.

    Args:
        name: of the experiment: the runs' group.
        folder: where W&B keeps its files.

    Returns:
        One line on what was done.
    """
    if logged.mode == "disabled":
        return "W&B: disabled"
    if not runs:
        return f"W&B: nothing new ({logged.mode})"
    words = list[dict[str, str]]()
    problem = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        common = {"mode": logged.mode, "project": cfg.project, "entity": cfg.entity, "group": name}
        more = {"folder": str(folder.absolute()), "silence_s": cfg.silence_s}
        with tempfile.TemporaryDirectory(dir=folder) as place:
            write_json(Path(place) / "job.json", {**common, **more, "runs": [asdict(run) for run in runs]})
            try:
                problem = _log_all(Path(place), folder, logged.mode, cfg.silence_s, len(runs))
            finally:
                words = wandb_sender.words(Path(place))
    except OSError as error:
        problem = f"{type(error).__name__}: {error}"
    finally:
        done = [run for run in runs if {"done": run.id} in words]
        with contextlib.suppress(OSError):  # they are logged again, as the same runs
            logged.add(done)
    problem = next((word["failed"] for word in words if "failed" in word), problem)
    if not problem and len(done) < len(runs):
        problem = f"its process ended without a word; see {folder / _LOG}"
    if problem:
        return f"warning: W&B: {len(done)} of {len(runs)} runs logged ({problem}); action=report logs the rest"
    hint = f"; send them with: wandb sync {folder / 'wandb'}/offline-run-*" if logged.mode == "offline" else ""
    return f"W&B: {len(done)} runs logged ({logged.mode}){hint}"


def _log_all(place: Path, folder: Path, mode: str, silence_s: float, runs: int) -> str:
    """Have a process log the job in ``place``; returns what is wrong if it hung.

    The process ends itself when W&B is silent for ``silence_s``; what it can't end is ended here. Nothing of it stays.
    """
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (package, os.environ.get("PYTHONPATH")) if p)
    data = os.environ.get("WANDB_DATA_DIR", str(folder.absolute() / "data"))
    environment = {**os.environ, "PYTHONPATH": path, "WANDB_DATA_DIR": data}
    if mode == "offline":
        environment.pop("WANDB_API_KEY", None)
    command = [sys.executable, "-m", wandb_sender.__name__, str(place)]
    with (folder / _LOG).open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    try:
        code = process.wait((runs + 1) * silence_s + _END_S)
    except subprocess.TimeoutExpired:
        code = -signal.SIGALRM
    finally:  # what is left (W&B's own service) has nothing more to do
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return f"nothing came from it for {silence_s:g} s (tracking.silence_s)" if code == -signal.SIGALRM else ""
