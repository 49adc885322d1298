"""How our pictures look: one restrained style, on paper and on a screen, in colour and without."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Pen(NamedTuple):
    """What tells a line from the others, by hue and, where there is none, by its dashes."""

    colour: str
    dashes: str | tuple[int, tuple[float, ...]]


PENS: Sequence[Pen] = (
    Pen("#0072B2", "-"),
    Pen("#D55E00", (0, (6, 2))),
    Pen("#009E73", (0, (2, 1.5))),
    Pen("#CC79A7", (0, (7, 2, 1.5, 2))),
    Pen("#E69F00", (0, (10, 3))),
    Pen("#56B4E9", (0, (4, 1.5, 1, 1.5, 1, 1.5))),
    Pen("#000000", (0, (1, 1.5))),
)
"""Okabe and Ito's colours, which all kinds of eyes tell apart."""

HATCHES: Sequence[str] = ("", "//", "..", "\\\\", "xx", "--", "oo")
"""What tells bars from others where there is no colour."""
FAINT = "#9a9a9a"
"""Of what is there for its shape alone: each of many devices."""
GOAL = "#444444"

SIZE = (6.0, 3.6)
"""Inches; half a page's width of text stays readable."""
DOTS = 150
"""An inch."""

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.xmargin": 0.02,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "hatch.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "path.simplify_threshold": 0.5,
    "savefig.facecolor": "white",
    # The same picture is the same file: names in an SVG are drawn from this, not by chance.
    "svg.hashsalt": "lamplighter",
    "svg.fonttype": "path",
}
