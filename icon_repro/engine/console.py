"""Say what a command does, on standard output, at the level that was asked for.

In: lines for the user.  Out: those of the level: with ``quiet`` warnings alone, with ``verbose`` details too.
What a command was asked to show (a plan, a state) is printed, and doesn't come through here. In a step's own process
nothing sets a level and standard output is the step's log, which so has every line but details.
"""

import logging

LOG = logging.getLogger("icon_repro")


class _Stdout(logging.Handler):
    """Prints to what is standard output now; a closed pipe and a full disk end the command, as they do with print."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), flush=True)


LOG.addHandler(_Stdout())
LOG.setLevel(logging.INFO)


def set_level(*, verbose: bool, quiet: bool) -> None:
    """Show what belongs to the level; lines stand as they are, without time or name."""
    LOG.handlers[:] = [_Stdout()]
    LOG.disabled = False  # Hydra disables the loggers that it did not set up
    LOG.propagate = False
    LOG.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


def say(text: str) -> None:
    """Show a line; one that starts with ``warning:`` is shown with ``quiet`` too."""
    LOG.log(logging.WARNING if text.startswith("warning:") else logging.INFO, "%s", text)
