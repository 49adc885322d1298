"""Pictures: of two kinds, small, the same for the same figures, and with what they are to say."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fleet.simulation import pictures

pytest.importorskip("matplotlib")

LINE = [(float(n), 1 - 0.9**n) for n in range(30)]
SAWTEETH = [[(n / 9, float((n + k) % 9)) for n in range(90)] for k in range(80)]

Draw = Callable[[Path], None]
DRAWN: dict[str, Draw] = {
    "curves": lambda path: pictures.curves(
        path, {"test": LINE, "mean": LINE[::2]}, x="round", y="accuracy", title="T", goal=0.9
    ),
    "bands": lambda path: pictures.curves(
        path,
        {"mean": LINE},
        x="round",
        y="accuracy",
        title="T",
        bands={"mean": [(x, y - 0.1, y) for x, y in LINE]},
        log=True,
    ),
    "sawteeth": lambda path: pictures.curves(
        path, {"mean": LINE}, x="round", y="loss", title="T", faint=SAWTEETH
    ),
    "bars": lambda path: pictures.bars(
        path, {"a": 1.0, "b": 2.0}, y="RMSE, cycles", title="T", goal=1.5
    ),
    "groups": lambda path: pictures.bars(
        path, {"a": {"x": 1.0, "y": 2.0}, "b": {"y": 3.0}}, y="accuracy", title="T"
    ),
    "histogram": lambda path: pictures.histogram(
        path, list(np.random.default_rng(1).normal(size=99)), x="gain", y="devices", title="T"
    ),
}


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_a_picture_is_two_small_files_that_depend_on_its_figures_alone(
    draw: Draw, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        draw(tmp_path / "new" / name)
    for suffix in (".png", ".svg"):
        first, second = (tmp_path / "new" / f"{n}{suffix}" for n in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()
    png, svg = (tmp_path / "new" / f"first{suffix}" for suffix in (".png", ".svg"))
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert png.stat().st_size < 100_000
    assert b"</svg>" in svg.read_bytes()
    assert b"dc:date" not in svg.read_bytes()
    assert svg.stat().st_size < 300_000


def test_other_figures_are_another_picture(tmp_path: Path) -> None:
    for name, goal in (("a", 0.5), ("b", 0.6)):
        pictures.curves(tmp_path / name, {"t": LINE}, x="x", y="y", title="T", goal=goal)
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("names", [2, 4, 7])
def test_the_names_of_lines_take_no_room_from_them(names: int, tmp_path: Path) -> None:
    lines = {f"{n}: of a length that tells": LINE for n in range(names)}
    pictures.curves(tmp_path / "a", lines, x="x", y="y", title="T")
    dark = np.asarray(Image.open(tmp_path / "a.png").convert("L")) < 128
    assert not dark[:, [0, -1]].any()  # nothing is cut off
    assert dark.sum(axis=0).argmax() < 0.15 * dark.shape[1]  # the y axis is at the left
    assert dark.sum(axis=1).argmax() > 0.6 * dark.shape[0]  # and the x axis below


def test_a_dot_in_a_name_is_kept(tmp_path: Path) -> None:
    pictures.bars(tmp_path / "rate-0.1", {"a": 1.0}, y="y", title="T")
    assert (tmp_path / "rate-0.1.png").exists()


def test_nothing_of_matplotlibs_state_changes(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    DRAWN["bars"](tmp_path / "a")
    assert dict(matplotlib.rcParams) == before


def test_without_matplotlib_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(pictures.PictureError, match=r"pip install 'lamplighter\[simulation\]'"):
        DRAWN["bars"](tmp_path / "a")
