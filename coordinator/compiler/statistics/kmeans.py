"""k-means: one step of Lloyd's (1982) over the whole fleet a round.

With c the centres of the round, A_j the examples nearest to c_j, a device sums

    sums_j = sum over A_j of (x - c_j),    counts_j = |A_j|

and the next centre is c_j + mean(sums_j) / mean(counts_j), means over the devices: the mean of A_j
over all of them. Where A_j is empty on all, c_j stays. Differences to the centre, rather than x
itself, are small where x is large, and the smaller the nearer the end.

The loss is the mean squared distance to the nearest centre: k-means' own, the inertia an example.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import FLOAT, Array, Emitter, describe
from coordinator.compiler.options import statistics as options
from coordinator.compiler.statistics.places import averages, kept_on
from coordinator.compiler.statistics.statistic import Statistic, Step, Tensors

_HEADER = 1 << 16  # bytes that a file may have before its numbers


class _Nearest(NamedTuple):
    """Of each example: the nearest centre's number [batch], the way from it [batch, features], and
    the square of its length [batch]."""

    chosen: str
    way: str
    squares: str


class KMeans(Statistic):
    """Parameters: `centres` and `sums` [clusters, features], `counts` [clusters]."""

    counts = "counts"
    outputs: ClassVar[tuple[str, ...]] = ("cluster", "distance", "centres")

    def __init__(self, section: options.KMeans, folder: Path) -> None:
        self._section = section
        self._folder = folder

    def initial(self) -> dict[str, Array]:
        """Raises `CompileError` if the first centres cannot be used."""
        clusters, features = self._section.clusters, self._section.features
        if self._section.centres is None:
            rng = np.random.default_rng(1 if self._section.seed is None else self._section.seed)
            centres = rng.standard_normal((clusters, features), dtype=np.float32)
        else:
            shape = (clusters, *self._section.shape)
            centres = _centres_in(self._folder / self._section.centres, shape)
        return {
            "centres": centres.reshape(clusters, features),
            "sums": np.zeros((clusters, features), np.float32),
            "counts": np.zeros(clusters, np.float32),
        }

    def step(self, emit: Emitter, x: str, was: Tensors, first: str) -> Step:
        centres = emit.op("Where", first, self._centres(emit, was), was["centres"])
        near = self._nearest(emit, x, centres)
        numbers = emit.const(np.arange(self._section.clusters), np.int64)
        own = emit.op("Equal", emit.op("Unsqueeze", near.chosen, emit.ints(1)), numbers)
        member = emit.op("Cast", own, to=FLOAT)
        sums = emit.op("Gemm", member, near.way, transA=1)
        counts = emit.op("ReduceSum", member, emit.ints(0), keepdims=0)
        values = {
            "centres": centres,
            "sums": kept_on(emit, first, was["sums"], sums),
            "counts": kept_on(emit, first, was["counts"], counts),
        }
        return Step(emit.op("ReduceMean", near.squares, keepdims=0), values)

    def total(self, emit: Emitter, x: str, now: Tensors) -> str:
        near = self._nearest(emit, x, self._centres(emit, now))
        return emit.op("ReduceSum", near.squares, keepdims=0)

    def model(self, emit: Emitter, x: str, now: Tensors) -> dict[str, str]:
        centres = self._centres(emit, now)
        near = self._nearest(emit, x, centres)
        shape = emit.ints(self._section.clusters, *self._section.shape)
        return {
            "cluster": near.chosen,
            "distance": emit.op("Sqrt", near.squares),
            "centres": emit.op("Reshape", centres, shape),
        }

    def _centres(self, emit: Emitter, now: Mapping[str, str]) -> str:
        counts = emit.op("Unsqueeze", now["counts"], emit.ints(1))
        return emit.op("Add", now["centres"], averages(emit, now["sums"], counts))

    def _nearest(self, emit: Emitter, x: str, centres: str) -> _Nearest:
        """|x - c|^2 is least where |c|^2 / 2 - x c is: one matrix product for all centres. Both
        are seen from the centres' mean, or what they have in common would take the digits."""
        x = emit.op("Reshape", x, emit.ints(-1, self._section.features))
        middle = emit.op("ReduceMean", centres, emit.ints(0), keepdims=1)
        there, here = emit.op("Sub", centres, middle), emit.op("Sub", x, middle)
        squares = emit.op("ReduceSum", emit.op("Mul", there, there), emit.ints(1), keepdims=0)
        half = emit.op("Mul", squares, emit.const(0.5))
        scores = emit.op("Gemm", here, there, half, alpha=-1.0, transB=1)
        chosen = emit.op("ArgMin", scores, axis=1, keepdims=0)
        way = emit.op("Sub", x, emit.op("Gather", centres, chosen, axis=0))
        length = emit.op("ReduceSum", emit.op("Mul", way, way), emit.ints(1), keepdims=0)
        return _Nearest(chosen, way, length)


def _centres_in(path: Path, shape: tuple[int, ...]) -> Array:
    """The first centres, float32. Nothing in the file is run. Raises `CompileError`."""
    try:
        if path.stat().st_size > _HEADER + 8 * int(np.prod(shape)):
            raise CompileError(f"{path}: too large for centres of the shape {describe(shape)}")
        with path.open("rb") as file:
            found = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise CompileError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise CompileError(f"{path}: not a .npy file of numbers: {error}") from None
    if found.dtype.kind not in "fiu" or found.shape != shape:
        raise CompileError(
            f"{path}: {found.dtype} of shape {describe(found.shape)}; the first centres are "
            f"numbers of shape {describe(shape)}: statistics.clusters, statistics.shape"
        )
    with np.errstate(over="ignore"):
        centres = found.astype(np.float32)
    if not np.isfinite(centres).all():
        raise CompileError(f"{path}: a number is NaN, infinite or beyond float32")
    if len(np.unique(centres.reshape(len(centres), -1), axis=0)) < len(centres):
        raise CompileError(f"{path}: two centres are alike in float32: one would stay without any")
    return centres
