"""Numbers of any size, exactly, through a sum in fixed point.

The coordinator adds up changes in steps of 2^-32, and takes none beyond 2^38: squares of features
may be far below the one or above the other. So a number is carried as four, all zero but one: the
number times 2^40, 1, 2^-40 or 2^-80, whichever is the first below 2^34. Means of such fours, each
divided by its scale, add up to the mean of the numbers, in float32's digits from 1e-14 on.
"""

import numpy as np

from coordinator.compiler.graph import Emitter

SCALES = (2.0**40, 1.0, 2.0**-40, 2.0**-80)
_BELOW = 2.0**34
_FROM = (0.0, *[_BELOW * 2.0**-40] * (len(SCALES) - 1))


def widened(emit: Emitter, value: str, rank: int) -> str:
    """[4, *shape] of a number's [*shape] of that rank."""
    scaled = emit.op("Mul", value, _along_first(emit, SCALES, rank))
    size = emit.op("Abs", scaled)
    below = emit.op("Less", size, emit.const(_BELOW))
    above = emit.op("GreaterOrEqual", size, _along_first(emit, _FROM, rank))
    return emit.op("Where", emit.op("And", below, above), scaled, emit.const(0.0))


def narrowed(emit: Emitter, wide: str, rank: int) -> str:
    """What `widened` was made of."""
    parts = emit.op("Mul", wide, _along_first(emit, [1 / s for s in SCALES], rank))
    return emit.op("ReduceSum", parts, emit.ints(0), keepdims=0)


def _along_first(emit: Emitter, values: tuple[float, ...] | list[float], rank: int) -> str:
    return emit.const(np.reshape(values, (-1, *[1] * rank)))
