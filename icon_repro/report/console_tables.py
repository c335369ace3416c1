"""Tables for a terminal: plain columns where they fit, else each line of the table as some lines.

In: header and cells, the width of the terminal.  Out: lines of at most that width; never wider than ``WIDEST``.
"""

import shutil
import textwrap
from collections.abc import Sequence

WIDEST = 100  # columns


def terminal_width() -> int:
    """Columns of the terminal, at most ``WIDEST``; that many where there is none."""
    return min(WIDEST, max(20, shutil.get_terminal_size((WIDEST, 24)).columns))


def fitted(header: Sequence[str], cells: Sequence[Sequence[str]], width: int, names: int = 1) -> list[str]:
    """The table as lines of at most ``width`` columns.

    Args:
        names: how many of the first columns say what a line is about; they stand without their titles where the table
            doesn't fit.
    """
    widths = [max(len(row[i]) for row in [header, *cells]) for i in range(len(header))]
    if sum(widths) + 2 * (len(widths) - 1) <= width:
        rule = ["-" * one for one in widths]
        padded = ([cell.ljust(w) for cell, w in zip(row, widths, strict=True)] for row in [header, rule, *cells])
        return ["  ".join(row).rstrip() for row in padded]
    lines: list[str] = []
    for row in cells:
        rest = "; ".join(f"{title} {cell}" for title, cell in zip(header[names:], row[names:], strict=True))
        text = f"{', '.join(row[:names])}: {rest}"
        lines += textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=True)
    return lines
