"""What a command says, at each level, and that a pipe that was closed ends it."""

import os
import sys
from collections.abc import Iterator

import pytest

from icon_repro.engine import console


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Handlers and level of the logger are those from before the test again."""
    handlers, level = console.LOG.handlers[:], console.LOG.level
    yield
    console.LOG.handlers[:] = handlers
    console.LOG.setLevel(level)
    console.LOG.propagate = True


@pytest.mark.parametrize(
    "verbose, quiet, expected",
    [
        (False, False, "50% of it\nwarning: a clock\n"),
        (False, True, "warning: a clock\n"),
        (True, False, "50% of it\nwarning: a clock\nb/c: a log\n"),
    ],
)
def test_say_shows_what_belongs_to_the_level(
    capsys: pytest.CaptureFixture[str], verbose: bool, quiet: bool, expected: str
) -> None:
    console.set_level(verbose=verbose, quiet=quiet)
    console.say("50% of it")
    console.say("warning: a clock")
    console.LOG.debug("%s: a log", "b/c")
    assert capsys.readouterr().out == expected


def test_say_to_a_closed_pipe_is_the_error_that_print_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        console.set_level(verbose=False, quiet=False)
        with pytest.raises(BrokenPipeError):
            console.say("x")
        monkeypatch.undo()
        with pytest.raises(BrokenPipeError):
            stream.close()
