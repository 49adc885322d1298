"""FedProx's client term (Li et al., 2020): what keeps a device near the model that it started from.

The loss gains mu / 2 |w - base|^2, so each gradient gains mu (w - base). This is added to the
gradient itself, before the optimiser: velocity and moments hold it like the rest.
"""

from collections.abc import Mapping

from coordinator.compiler.graph import FLOAT32, Emitter, TensorType


def pulled(
    emit: Emitter, mu: float, seed: str | None, gradients: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Add the term to each weight's gradient.

    Returns the gradients, and the new tensor that is to hold each weight's base. `seed` is what the
    gradients are multiplied by, None for 1. `fuse.py` puts the sum into a dense layer's matrix
    product, which makes the gradient.
    """
    strength = emit.const(mu)
    if seed is not None:
        strength = emit.op("Mul", seed, strength)
    sums, bases = {}, {}
    for w, gradient in gradients.items():
        base = base_of(emit, w)
        drift = emit.op("Sub", w, base)
        sums[w] = emit.op("Add", gradient, emit.op("Mul", drift, strength))
        bases[w] = base
    return sums, bases


def base_of(emit: Emitter, weight: str) -> str:
    """A new tensor for a weight's base. One that no gradient moves has it too, and no pull."""
    base = emit.name()
    emit.graph.types[base] = TensorType(FLOAT32, emit.graph.shape(weight))
    return base
