"""Resize: each axis is a linear map of its own, whatever the mode.

So the gradient along an axis is the transposed map. What the map is, the runtime tells: it resizes
the unit matrix.
"""

import numpy as np

from coordinator.compiler import runtime
from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import Array, Emitter, Node, Shape
from coordinator.compiler.operators.along import product, spread
from coordinator.compiler.operators.registry import expansion, lowering, operator

operator("Resize", note="all modes but `tf_crop_and_resize`; constant scales or sizes")


@expansion("Resize")
def plain(emit: Emitter, node: Node) -> list[str]:
    """The same with constant scales or sizes, and the batch and all that stays left out."""
    where = emit.graph.where(node)
    if node.attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise CompileError(f"{where} crops by a region of interest; that is not supported")
    shape = emit.graph.shape(node.inputs[0])
    made = emit.graph.shape(node.outputs[0])
    axes = [i for i, (n, m) in enumerate(zip(shape, made, strict=True)) if n != m]
    if not axes:
        return [node.inputs[0]]
    if any(isinstance(shape[i], str) or isinstance(made[i], str) for i in axes):
        raise CompileError(f"{where} must have known sizes, and leave the batch as it is")
    return [_along(emit, node, shape, made)]


def _along(emit: Emitter, node: Node, shape: Shape, made: Shape) -> str:
    """All axes at once where the factors are given, so that the batch may vary."""
    attributes = {k: v for k, v in node.attributes.items()
                  if k not in ("axes", "keep_aspect_ratio_policy")}  # fmt: skip
    factors = emit.graph.constants.get(node.input(2))
    if factors is not None and factors.size and len(factors) == len(shape):
        return emit.op("Resize", node.inputs[0], "", emit.const(factors), **attributes)
    axes = _axes(emit, node, shape)
    if factors is not None and factors.size:
        scales = np.ones(len(shape), np.float32)
        scales[axes] = factors
        return emit.op("Resize", node.inputs[0], "", emit.const(scales), **attributes)
    # Sizes: factors that give exactly these; the gradient needs to know them too.
    ratios = np.array(
        [1.0 if n == m else int(m) / int(n) for n, m in zip(shape, made, strict=True)], np.float64
    )
    return emit.op("Resize", node.inputs[0], "", emit.const(_exact(ratios, shape, made)),
                   **attributes)  # fmt: skip


def _axes(emit: Emitter, node: Node, shape: Shape) -> list[int]:
    axes = node.integers("axes", range(len(shape)))
    return [a % len(shape) for a in axes]


def _exact(ratios: Array, shape: Shape, made: Shape) -> Array:
    """float32 factors whose product with the length, rounded down, is the length wanted."""
    scales: Array = ratios.astype(np.float32)
    for i, (n, m) in enumerate(zip(shape, made, strict=True)):
        while isinstance(n, int) and isinstance(m, int) and n * float(scales[i]) < m:
            scales[i] = np.nextafter(scales[i], np.float32(np.inf))
    return scales


@lowering("ResizeGrad")
def resize_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX: the transposed map of each axis applied to dY, the last axis first."""
    dx = node.inputs[0]
    shape = emit.graph.shape(forward.inputs[0])
    scales = emit.graph.constants[forward.inputs[2]]
    factors = [_whole(forward, shape, axis, scales[axis]) for axis in range(len(shape))]
    if (pooled := _by_pooling(emit, dx, shape, factors)) is not None:
        return [pooled]
    made = list(emit.graph.shape(forward.outputs[0]))
    for axis in reversed(range(len(shape))):
        if scales[axis] == 1:
            continue
        now = (*made[:axis], *shape[axis:])
        made_of = _map(forward, shape, axis, scales[axis])
        if np.isin(made_of, (0, 1)).all() and (made_of.sum(axis=1) == 1).all():
            dx = spread(emit, dx, now, axis, made_of.argmax(axis=1))
        else:
            dx = product(emit, dx, now, axis, made_of.T)
    return [dx]


def _map(forward: Node, shape: Shape, axis: int, scale: float) -> Array:
    """The axis's map, [length in Y, length in X]."""
    length = shape[axis]
    assert isinstance(length, int)
    scales = np.array([1, 1, scale, 1], np.float32)
    node = Node("Resize", ("x", "", "s"), ("y",), forward.attributes)
    unit = np.eye(length, dtype=np.float32)[None, None]
    return np.asarray(runtime.result(node, {"x": unit, "s": scales})[0, 0])


def _whole(forward: Node, shape: Shape, axis: int, scale: float) -> int | None:
    """The factor if each element is repeated so many times, else None."""
    if scale == 1:
        return 1
    length = shape[axis]
    if forward.attributes.get("mode", "nearest") != "nearest" or scale != int(scale):
        return None
    assert isinstance(length, int)
    repeated = np.repeat(np.eye(length), int(scale), axis=0)
    found = _map(forward, shape, axis, scale)
    return int(scale) if np.array_equal(found, repeated) else None


def _by_pooling(emit: Emitter, dy: str, shape: Shape, factors: list[int | None]) -> str | None:
    """The sum over each block of equal elements, as a pooling: the fastest."""
    kernel = [f for f in factors[2:] if f is not None]
    if not 3 <= len(shape) <= 5 or len(kernel) < len(shape) - 2 or factors[:2] != [1, 1]:
        return None
    mean = emit.op("AveragePool", dy, kernel_shape=kernel, strides=kernel)
    return emit.op("Mul", mean, emit.const(float(np.prod(kernel))))
