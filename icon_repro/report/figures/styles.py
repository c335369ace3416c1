"""Give each method of an experiment one colour, one marker and one dash, in every figure and on the page.

In: the experiment's methods in their order.  Out: ``Style``.
The first twelve differ in colour and in marker; further ones repeat a colour with another marker.
Source: Okabe and Ito (2008) and Tol's muted scheme, told apart with any common colour blindness.
Known gap: more than 144 methods repeat styles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#332288", "#882255", "#7F7F00", "#8C564B", "#117733", "#AA4466"),
)
ON_DARK = (  # the same in the same order, for a dark ground
    *("#4FA8E0", "#FF8A3D", "#35C99C", "#E59CC5", "#F2B93B", "#8CCDF5"),
    *("#9C8CF0", "#D9508F", "#C2C23C", "#C7897C", "#58B574", "#E88A8A"),
)
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*", "<", ">", "h", "p")
HATCHES = ("", "//", "..", "xx", "--", "++")
DASHES: tuple[Any, ...] = (
    *("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)), (0, (3, 1)), (0, (8, 2, 2, 2)), (0, (1, 1))),
    *((0, (4, 1, 1, 1)), (0, (10, 2)), (0, (2, 2, 6, 2)), (0, (6, 1, 2, 1, 2, 1))),
)
QUIET = "#777777"  # of what the others are compared with


@dataclass(frozen=True)
class Style:
    """How a method is drawn."""

    colour: str
    marker: str
    dash: Any
    hatch: str


def style(place: int) -> Style:
    """The style of the method, or of the series, at a place."""
    again = place // len(MARKERS)
    return Style(
        COLOURS[place % len(COLOURS)],
        MARKERS[(place + again) % len(MARKERS)],
        DASHES[(place + again) % len(DASHES)],
        HATCHES[place % len(HATCHES)],
    )


def style_of(method: str, methods: Sequence[str], otherwise: int) -> Style:
    """The style of ``method``; of what is none of ``methods`` that of the place ``otherwise``."""
    return style(methods.index(method) if method in methods else otherwise)
