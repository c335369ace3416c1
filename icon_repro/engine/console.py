"""Say what a command does, on standard output, at the level that was asked for.

In: lines for the user.  Out: those of the level: with ``quiet`` warnings alone, with ``verbose`` details too.
What a command was asked to show (a plan, a state) is printed, and doesn't come through here.
"""

import logging
import sys

LOG = logging.getLogger("icon_repro")


class _Stdout(logging.StreamHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Let a closed pipe and a full disk end the command as they do with print; logging would go on."""
        raise  # called while the error is handled


def set_level(*, verbose: bool, quiet: bool) -> None:
    """Show what belongs to the level; lines stand as they are, without time or name."""
    LOG.handlers[:] = [_Stdout(sys.stdout)]
    LOG.disabled = False  # Hydra disables the loggers that it did not set up
    LOG.propagate = False
    LOG.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


def say(text: str) -> None:
    """Show a line; one that starts with ``warning:`` is shown with ``quiet`` too."""
    LOG.log(logging.WARNING if text.startswith("warning:") else logging.INFO, "%s", text)
