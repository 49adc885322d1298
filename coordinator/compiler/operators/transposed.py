"""Transposed convolution: what a convolution's gradient does, as a layer.

X is [N, C, ...], W [C, M / group, ...], Y [N, M, ...].
"""

from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import Emitter, Node
from coordinator.compiler.operators.conv import Slid, weight_gradient
from coordinator.compiler.operators.registry import expansion, lowering, operator
from coordinator.compiler.operators.windows import Windows, spatial, with_explicit_pads

operator(
    "ConvTranspose",
    weights=(1, 2),
    note="one to three spatial axes, of fixed lengths; output padding below the stride",
)


@expansion("ConvTranspose")
def explicit(emit: Emitter, node: Node) -> list[str]:
    """The same with its kernel, strides, dilations, pads and output padding written out."""
    size = spatial(emit.graph, node.inputs[0], node)
    kernel = emit.graph.fixed(node.inputs[1], slice(2, None))
    rank = len(kernel)
    bare = Windows(
        kernel,
        node.integers("strides", [1] * rank),
        node.integers("dilations", [1] * rank),
        (0,) * rank,
        (0,) * rank,
    )
    extra = list(node.integers("output_padding", [0] * rank))
    before, after = _pads(node, bare, size, extra)
    if any(e >= s for e, s in zip(extra, bare.strides, strict=True)):
        # ONNX Runtime leaves such places as they were in memory.
        raise CompileError(
            f"{emit.graph.where(node)} pads its output by as much as its "
            "stride, or more; use a larger stride or less padding"
        )
    windows = Windows(kernel, bare.strides, bare.dilations, before, after)
    attributes = with_explicit_pads(node, windows)
    attributes.pop("output_shape", None)
    attributes["output_padding"] = extra
    return [emit.op("ConvTranspose", *node.inputs, **attributes)]


def _pads(
    node: Node, windows: Windows, size: tuple[int, ...], extra: list[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What is cut off before and after; `extra` grows where more is asked for than there is."""
    rank = windows.rank
    auto = node.attributes.get("auto_pad", "NOTSET")
    wanted = node.integers("output_shape", ())[-rank:]
    if not wanted and auto in ("SAME_UPPER", "SAME_LOWER"):
        # Of a window below its stride there is less, and nothing is added: as ONNX and its runtime.
        most = [n + e for n, e in zip(windows.covered(size), extra, strict=True)]
        wanted = tuple(min(n * s, m) for n, s, m in zip(size, windows.strides, most, strict=True))
    if not wanted:
        pads = node.integers("pads", [0] * 2 * rank) if auto in ("NOTSET", "") else (0,) * 2 * rank
        return pads[:rank], pads[rank:]
    before, after = [], []
    for i, (full, length) in enumerate(zip(windows.covered(size), wanted, strict=True)):
        total = full + extra[i] - length
        extra[i] += max(-total, 0)
        total = max(total, 0)
        before.append(total // 2 if auto == "SAME_UPPER" else total - total // 2)
        after.append(total - before[-1])
    return tuple(before), tuple(after)


@lowering("ConvTransposeGrad")
def conv_transpose_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX is the convolution of dY by W; dW that of a convolution from Y to X."""
    dy, x, w = node.inputs[:3]
    rank = len(emit.graph.shape(x)) - 2
    pads = forward.integers("pads", ())
    windows = Windows(
        forward.integers("kernel_shape", ()),
        forward.integers("strides", ()),
        forward.integers("dilations", ()),
        pads[:rank],
        pads[rank:],
    )
    dx = _dx(emit, forward, windows, dy) if node.output(0) else ""
    slid = Slid(forward.outputs[0], x, w, (dy, x))
    dw = weight_gradient(emit, forward, windows, slid) if node.output(1) else ""
    db = ""
    if node.output(2):
        db = emit.op("ReduceSum", dy, emit.ints(0, *range(2, rank + 2)), keepdims=0)
    return [dx, dw, db][: len(node.outputs)]


def _dx(emit: Emitter, forward: Node, windows: Windows, dy: str) -> str:
    return emit.op(
        "Conv",
        dy,
        forward.inputs[1],
        group=forward.attributes.get("group", 1),
        **windows.attributes,
    )
