"""Progress: plain lines for a log, a bar on a terminal."""

import contextlib
import io
import os
import re
import time

import pytest

from icon_repro.engine.progress import Progress


@pytest.mark.parametrize("terminal", [None, io.StringIO()], ids=["none", "no_tty"])
def test_progress_without_terminal_prints_plain_lines(
    terminal: io.StringIO | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("score/x", 4, "pair", terminal) as progress:
        for _ in range(4):
            progress.advance(1, tokens=100)
    output, error = capsys.readouterr()
    (line,) = output.splitlines()
    assert re.match(r"score/x: 4/4 pair \(100%\), [\d.]+ pair/s, [\d,]+ tokens/s, 0 s left$", line)
    assert error == "" and (terminal is None or terminal.getvalue() == "")


def test_progress_line_halfway_gives_rate_and_time_left() -> None:
    progress = Progress("x", 10, "row", None)
    progress.advance(5, tokens=1000)
    line = progress.line(progress._started + 10)
    assert "5/10 row (50%)" in line and "0.50 row/s" in line and "100 tokens/s" in line and "10 s left" in line


def test_progress_line_with_the_devices_peak_says_which_share_is_reached() -> None:
    progress = Progress("x", 10, "pair", None)
    progress.peak(4e12, 2e9)  # 2,000 tokens/s at most
    assert "peak" not in progress.line(progress._started + 10)
    progress.advance(5, tokens=1000)
    assert "100 tokens/s (5% of peak)" in progress.line(progress._started + 10)


def test_progress_line_before_the_first_unit_has_no_estimate() -> None:
    assert "left" not in Progress("x", 0, "row", None).line(time.monotonic())


def test_progress_on_terminal_draws_a_bar_and_removes_it() -> None:
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal, Progress("score/x", 3, "pair", terminal) as progress:
        for _ in range(2):
            time.sleep(0.12)  # longer than the time between two drawings
            progress.advance()
    drawn = b""
    with contextlib.suppress(OSError):  # Linux: the other end is closed and everything has been read
        while block := os.read(master, 65536):
            drawn += block
    os.close(master)
    shown = drawn.decode().split("\r")
    assert any("score/x" in text and "2/3" in text and "pair" in text for text in shown)
    assert not shown[-1].strip()
