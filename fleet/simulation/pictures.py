"""Pictures of results, each as a PNG and an SVG, all in one style. Needs matplotlib.

    curves(Path("accuracy"), {"federated": [(0, 0.1), (1, 0.8)]},
           x="round", y="accuracy, test", title="Digits", goal=0.97)

writes `accuracy.png` and `accuracy.svg`. The same figures make the same files, whatever the day. No
display is needed, and nothing of matplotlib's own state is changed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fleet.simulation.style import DOTS, FAINT, GOAL, HATCHES, PENS, SIZE, STYLE
from wire.files import naming

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]
"""(x, y) from left to right; a y that is not a number is a gap."""
Band = Sequence[tuple[float, float, float]]
"""(x, lower, upper) from left to right."""

_FEW = 25  # points, up to which a line shows them
_FAINTEST = 0.4
_MANY = 2000  # points of faint lines, above which they are dots in the SVG, too
_COLOURS = 64  # of a PNG: more make it three times as large, and nobody sees them


class PictureError(RuntimeError):
    """No picture can be drawn; one line that says why, and what to do."""


def curves(
    path: Path,
    lines: Mapping[str, Points],
    *,
    x: str,
    y: str,
    title: str,
    goal: float | None = None,
    bands: Mapping[str, Band] | None = None,
    faint: Sequence[Points] = (),
    log: bool = False,
) -> None:
    """Lines by name. `x` and `y` are the axes' labels, with units.

    `goal`: a level that the lines are to reach. `bands`: areas, each in the colour of the line of
    its name. `faint`: thin grey lines behind, such as each device's. `log`: a logarithmic y axis.
    Raises `PictureError` where matplotlib is missing, `OSError`.
    """
    with _axes(path, x, y, title) as axes:
        if faint:
            _draw_faint(axes, faint)
        for place, (name, points) in enumerate(lines.items()):
            pen = PENS[place % len(PENS)]
            if bands and name in bands:
                at, lower, upper = zip(*bands[name], strict=True)
                axes.fill_between(at, lower, upper, color=pen.colour, alpha=0.15, linewidth=0)
            marker = "o" if len(points) <= _FEW else ""
            axes.plot(
                *_columns(points),
                label=name,
                color=pen.colour,
                linestyle=pen.dashes,
                marker=marker,
                markersize=2.5,
                zorder=3,
            )
        _finish(axes, goal, log)


def bars(
    path: Path,
    heights: Mapping[str, float | Mapping[str, float]],
    *,
    y: str,
    title: str,
    x: str = "",
    goal: float | None = None,
) -> None:
    """A bar for each name with its value above it, or a group of bars, by their names. `x` may say
    what the names are; `goal`: a level that the bars are to reach.
    Raises `PictureError` where matplotlib is missing, `OSError`.
    """
    groups = {n: v if isinstance(v, Mapping) else {"": v} for n, v in heights.items()}
    series = list(dict.fromkeys(key for group in groups.values() for key in group))
    width = (0.5 if len(series) == 1 else 0.7) / max(1, len(series))
    with _axes(path, x, y, title) as axes:
        for place, key in enumerate(series):
            there = [(at, group[key]) for at, group in enumerate(groups.values()) if key in group]
            shift = (place - (len(series) - 1) / 2) * width
            drawn = axes.bar(
                [at + shift for at, _ in there],
                [value for _, value in there],
                width * 0.9,
                label=key,
                color=PENS[place % len(PENS)].colour,
                hatch=HATCHES[place % len(HATCHES)],
                edgecolor="white",
            )
            axes.bar_label(drawn, fmt="{:.4g}", fontsize=8, padding=2)
        axes.set_xticks(range(len(groups)), list(groups))
        axes.tick_params(axis="x", length=0)
        axes.margins(y=0.12)
        _finish(axes, goal, log=False)


def histogram(
    path: Path, values: Sequence[float], *, x: str, y: str, title: str, mark: float | None = None
) -> None:
    """How often values occur, such as the gains of all devices; `mark` is a line at one of them.
    Raises `PictureError` where matplotlib is missing, `OSError`."""
    with _axes(path, x, y, title) as axes:
        number = min(40, max(5, math.ceil(math.sqrt(len(values)))))
        axes.hist(values, bins=number, color=PENS[0].colour, rwidth=0.92)
        if mark is not None:
            axes.axvline(mark, color=GOAL, linewidth=0.9, linestyle=(0, (4, 3)))


@contextmanager
def _axes(path: Path, x: str, y: str, title: str) -> Iterator["Axes"]:
    """Axes to draw on, which are then written."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ModuleNotFoundError:
        raise PictureError(
            "pictures need matplotlib: pip install 'lamplighter[simulation]'"
        ) from None
    with matplotlib.rc_context(cast(Any, STYLE)):
        figure = Figure(figsize=SIZE, dpi=DOTS, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.set(xlabel=x, ylabel=y)
        axes.set_title(title)
        axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
        yield axes
        path.parent.mkdir(parents=True, exist_ok=True)
        png, svg = (path.with_name(path.name + suffix) for suffix in (".png", ".svg"))
        with naming(png):
            _write_png(figure, png)
        # No date and no version of matplotlib: a picture changes when its figures do.
        metadata = {"Date": None, "Creator": None}
        with naming(svg):
            figure.savefig(svg, dpi=DOTS, metadata=metadata)


def _write_png(figure: "Figure", path: Path) -> None:
    from PIL import Image

    canvas: Any = figure.canvas  # its type does not tell that it has pixels
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture.quantize(_COLOURS, dither=Image.Dither.NONE).save(path, dpi=(DOTS, DOTS), optimize=True)


def _draw_faint(axes: "Axes", faint: Sequence[Points]) -> None:
    from matplotlib.collections import LineCollection

    many = sum(map(len, faint)) > _MANY
    alpha = max(_FAINTEST, min(1.0, 8 / len(faint)))
    lines = LineCollection(faint, colors=FAINT, linewidths=0.6, alpha=alpha, zorder=1)
    lines.set_rasterized(many)  # an SVG of a hundred sawteeth has megabytes
    axes.add_collection(lines)
    axes.autoscale_view()


def _finish(axes: "Axes", goal: float | None, log: bool) -> None:
    if goal is not None:
        axes.axhline(goal, color=GOAL, linewidth=0.9, linestyle=(0, (4, 3)), zorder=2)
        axes.annotate(
            f"{goal:g}", (1, goal), xycoords=("axes fraction", "data"), xytext=(3, 0),
            textcoords="offset points", va="center", fontsize=8, color=GOAL,
        )  # fmt: skip
    if log:
        axes.set_yscale("log")
    handles, names = axes.get_legend_handles_labels()
    if len([name for name in names if name]) > 1:
        _name(cast("Figure", axes.figure), handles, names)


def _name(figure: "Figure", handles: Sequence["Artist"], names: Sequence[str]) -> None:
    """Below the axes, where it hides nothing, in as many columns as the picture is wide: a legend
    that is wider takes its room from the axes, and is cut off."""
    canvas: Any = figure.canvas
    for columns in range(min(len(names), 4), 0, -1):
        legend = figure.legend(handles, names, loc="outside lower right", ncols=columns)
        width = legend.get_window_extent(canvas.get_renderer()).width
        if columns == 1 or width <= figure.bbox.width:
            return
        legend.remove()


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [at for at, _ in points], [value for _, value in points]
