"""The operators that can be trained through: one small entry each, by family.

An entry says which of an operator's inputs are weights, how it is rewritten before
differentiation if need be, and how the gradient operators that only the training build knows are
lowered to standard ones. `registry.py` says how to write one; importing this package fills its
tables.
"""

from coordinator.compiler.operators import (
    activation,
    arithmetic,
    batch_norm,
    conv,
    dropout,
    einsum,
    exponential,
    gather,
    linear,
    norm,
    pool,
    recurrent,
    reduce,
    resize,
    shape,
    slicing,
    transposed,
)
from coordinator.compiler.operators.registry import (
    EXPANSIONS,
    GRADIENTS,
    INFERENCE,
    LOWERINGS,
    OPERATORS,
    TRAINING,
    supported,
)

__all__ = [
    "EXPANSIONS",
    "GRADIENTS",
    "INFERENCE",
    "LOWERINGS",
    "OPERATORS",
    "TRAINING",
    "activation",
    "arithmetic",
    "batch_norm",
    "conv",
    "dropout",
    "einsum",
    "exponential",
    "gather",
    "linear",
    "norm",
    "pool",
    "recurrent",
    "reduce",
    "resize",
    "shape",
    "slicing",
    "supported",
    "transposed",
]
