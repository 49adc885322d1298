"""Matrix products. The training build writes their gradients as Gemm and MatMul."""

from coordinator.compiler.graph import Emitter, Node
from coordinator.compiler.operators.registry import lowering, operator

operator("Gemm", weights=(0, 1, 2))
operator("MatMul", weights=(0, 1))


@lowering("FusedMatMul")
def fused_matmul(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """alpha * A' B', either transposed in its last two axes if so said."""
    operands = []
    for name, flag in zip(node.inputs, ("transA", "transB"), strict=True):
        if node.attributes.get(flag):
            rank = len(emit.graph.shape(name))
            name = emit.op("Transpose", name, perm=[*range(rank - 2), rank - 1, rank - 2])
        operands.append(name)
    product = emit.op("MatMul", *operands)
    alpha = float(node.attributes.get("alpha", 1.0))
    return [product if alpha == 1.0 else emit.op("Mul", product, emit.const(alpha))]
