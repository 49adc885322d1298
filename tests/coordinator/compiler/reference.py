"""Operators in plain numpy, in any precision, where ONNX's own reference will not do.

It is wrong or incomplete in pools whose windows leave the pads, groups and output shapes of
transposed convolutions, GlobalLpPool; others it computes in float32.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

Array = np.ndarray


def _pads(auto: str, total: list[int]) -> list[int]:
    small = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total]
    return [*small, *(t - s for t, s in zip(total, small, strict=True))]


def _places(
    size: tuple[int, ...],
    kernel: list[int],
    strides: list[int] | None,
    dilations: list[int] | None,
    pads: list[int] | None,
    auto: str,
    ceil: int,
) -> list[list[Array]]:
    """For each axis, for each window, the places in padded X; pads are below 0 and beyond."""
    rank = len(kernel)
    s, d, p = strides or [1] * rank, dilations or [1] * rank, pads or [0] * 2 * rank
    extent = [(k - 1) * n + 1 for k, n in zip(kernel, d, strict=True)]
    if auto.startswith("SAME"):
        p = _pads(auto, [max((-(-size[i] // s[i]) - 1) * s[i] + extent[i] - size[i], 0)
                         for i in range(rank)])  # fmt: skip
    found = []
    for i in range(rank):
        room = size[i] + p[i] + p[i + rank] - extent[i]
        count = (-(-room // s[i]) if ceil else room // s[i]) + 1
        if ceil and (count - 1) * s[i] >= size[i] + p[i]:
            count -= 1  # a window that would begin in the pads after the end
        places = [np.arange(kernel[i]) * d[i] + w * s[i] - p[i] for w in range(count)]
        found.append([q[q < size[i] + p[i + rank]] for q in places])
    return found


def _windows(x: Array, places: list[list[Array]]) -> Iterator[tuple[Any, Array, int]]:
    """Each window's place, its elements [N, C, n], and how many places it has with the pads."""
    size = x.shape[2:]
    for where in product(*(range(len(p)) for p in places)):
        own = [p[w] for p, w in zip(places, where, strict=True)]
        inside = [q[(q >= 0) & (q < n)] for q, n in zip(own, size, strict=True)]
        part = x[(slice(None), slice(None), *np.ix_(*inside))]
        count = int(np.prod([len(q) for q in own]))
        yield (slice(None), slice(None), *where), part.reshape(*x.shape[:2], -1), count


class _Pool(OpRun):
    op_domain = ""

    def _run(  # type: ignore[no-untyped-def]
        self, x, auto_pad="NOTSET", ceil_mode=0, dilations=None, kernel_shape=None, pads=None,
        strides=None, **more,
    ):  # fmt: skip
        places = _places(
            x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad or "", ceil_mode or 0
        )
        y = np.empty((*x.shape[:2], *(len(p) for p in places)), x.dtype)
        for where, part, count in _windows(x, places):
            y[where] = self.of(part, count, **more)
        return (y,)


class MaxPool(_Pool):
    @staticmethod
    def of(part: Array, count: int, **_: Any) -> Array:
        return part.max(axis=-1)


class AveragePool(_Pool):
    @staticmethod
    def of(part: Array, count: int, count_include_pad: int = 0, **_: Any) -> Array:
        return part.sum(axis=-1) / (count if count_include_pad else part.shape[-1])


class LpPool(_Pool):
    @staticmethod
    def of(part: Array, count: int, p: int = 2, **_: Any) -> Array:
        return (np.abs(part) ** p).sum(axis=-1) ** (1 / p)


class GlobalLpPool(OpRun):
    op_domain = ""

    def _run(self, x, p=2):  # type: ignore[no-untyped-def]
        axes = tuple(range(2, x.ndim))
        return ((np.abs(x) ** p).sum(axis=axes, keepdims=True) ** (1 / p),)


class GlobalMaxPool(OpRun):
    op_domain = ""

    def _run(self, x):  # type: ignore[no-untyped-def]
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class ConvTranspose(OpRun):
    op_domain = ""

    def _run(  # type: ignore[no-untyped-def]
        self, x, w, b=None, auto_pad="NOTSET", dilations=None, group=1, kernel_shape=None,
        output_padding=None, output_shape=None, pads=None, strides=None,
    ):  # fmt: skip
        kernel, size = w.shape[2:], x.shape[2:]
        rank = len(kernel)
        s, d = strides or [1] * rank, dilations or [1] * rank
        p, extra = pads or [0] * 2 * rank, output_padding or [0] * rank
        full = [(size[i] - 1) * s[i] + (kernel[i] - 1) * d[i] + 1 + extra[i] for i in range(rank)]
        if (auto_pad or "").startswith("SAME"):
            output_shape = [min(n * m, f) for n, m, f in zip(size, s, full, strict=True)]
        if output_shape:
            p = _pads(auto_pad or "", [f - n for f, n in zip(full, output_shape, strict=True)])
        each = w.shape[1]
        y = np.zeros((x.shape[0], each * group, *full), x.dtype)
        for g, c in product(range(group), range(w.shape[0] // group)):
            channel = g * (w.shape[0] // group) + c
            for tap in product(*(range(k) for k in kernel)):
                at = [
                    slice(t * d[i], t * d[i] + (size[i] - 1) * s[i] + 1, s[i])
                    for i, t in enumerate(tap)
                ]
                for m in range(each):
                    y[(slice(None), g * each + m, *at)] += x[:, channel] * w[(channel, m, *tap)]
        kept = [slice(p[i], full[i] - p[i + rank]) for i in range(rank)]
        y = y[(slice(None), slice(None), *kept)]
        return (y if b is None else y + b.reshape(-1, *[1] * rank),)


class Erf(OpRun):
    """The reference evaluator's own rounds to float32."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (np.vectorize(math.erf, otypes=["d"])(x),)


class Gelu(OpRun):
    """The reference evaluator's own is a function body, and so rounds to float32 with its Erf."""

    op_domain = ""

    def _run(self, x: Array, approximate: str = "none") -> tuple[Array]:
        if approximate == "tanh":
            inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
            return (0.5 * x * (1 + np.tanh(inner)),)
        return (0.5 * x * (1 + np.vectorize(math.erf, otypes=["d"])(x / np.sqrt(2))),)


class LpNormalization(OpRun):
    """The reference evaluator's own takes no absolute values."""

    op_domain = ""

    def _run(self, x: Array, axis: int = -1, p: int = 2) -> tuple[Array]:
        return (x / (np.abs(x) ** p).sum(axis=axis, keepdims=True) ** (1 / p),)


class MeanVarianceNormalization(OpRun):
    """The reference evaluator's own is a function body with float32 constants."""

    op_domain = ""

    def _run(self, x: Array, axes: Sequence[int] = (0, 2, 3)) -> tuple[Array]:
        centred = x - x.mean(axis=tuple(axes), keepdims=True)
        return (centred / (x.std(axis=tuple(axes), keepdims=True) + 1e-9),)


class GroupNormalization(OpRun):
    """The reference evaluator's own is a function body that computes in float32."""

    op_domain = ""

    def _run(
        self,
        x: Array,
        scale: Array,
        bias: Array,
        epsilon: float = 1e-5,
        num_groups: int = 1,
        stash_type: int = 1,
    ) -> tuple[Array]:
        groups = x.reshape(len(x), num_groups, -1)
        centred = groups - groups.mean(axis=2, keepdims=True)
        hat = centred / np.sqrt(groups.var(axis=2, keepdims=True) + epsilon)
        channels = (-1, *[1] * (x.ndim - 2))
        return (hat.reshape(x.shape) * scale.reshape(channels) + bias.reshape(channels),)


OPERATORS: list[type[OpRun]] = [
    AveragePool,
    ConvTranspose,
    Erf,
    Gelu,
    GlobalLpPool,
    GlobalMaxPool,
    GroupNormalization,
    LpNormalization,
    LpPool,
    MaxPool,
    MeanVarianceNormalization,
]
