"""Gradients scaled down to a norm, all of them together, as `torch.nn.utils.clip_grad_norm_` does.

Their Euclidean norm over all trained weights is n; with n above the limit, each is multiplied by
limit / (n + 1e-6) (Pascanu et al., 2013). What is clipped is the gradient of all that is minimised,
a proximal term included, and before the optimiser sees it.
"""

from collections.abc import Mapping

from coordinator.compiler.graph import Emitter

_SMALLEST = 1e-6  # PyTorch's, which keeps a norm of zero from being divided by


def clipped(
    emit: Emitter, limit: float, seed: str | None, gradients: Mapping[str, str]
) -> dict[str, str]:
    """The gradients, clipped, and then multiplied by `seed` (None for 1).

    Those that come in are without it: their norm is held against the limit.
    """
    squares = [emit.op("ReduceSumSquare", g, keepdims=0) for g in gradients.values()]
    norm = emit.op("Sqrt", emit.op("Sum", *squares))
    part = emit.op("Div", emit.const(limit), emit.op("Add", norm, emit.const(_SMALLEST)))
    factor = emit.op("Min", part, emit.const(1.0))
    if seed is not None:
        factor = emit.op("Mul", factor, seed)
    return {w: emit.op("Mul", g, factor) for w, g in gradients.items()}
