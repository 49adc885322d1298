"""Small weights in one vector, so that an optimiser's many operators run once for all of them.

ONNX Runtime spends about a microsecond on an operator whatever its size, and AdamW has eleven for
each weight: of a small network's step, biases took a tenth.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from coordinator.compiler.graph import FLOAT32, Emitter, TensorType

SMALL = 1 << 13
"""Elements of a weight that is joined with others, at most: more cost more to copy than they
save."""


@dataclass(frozen=True)
class Together:
    """Weights and their gradients, small ones joined: `gradients` has an entry for each weight that
    is not, and one for the vector of those that are, `vector`, if there is one.

    `members` are the shapes of what it is made of, in order.
    """

    gradients: dict[str, str]
    vector: str
    members: dict[str, tuple[int, ...]]

    def apart(self, emit: Emitter, values: Mapping[str, str]) -> dict[str, str]:
        """A value for each weight, given one for each entry of `gradients`."""
        found = {w: value for w, value in values.items() if w != self.vector}
        if self.members:
            sizes = emit.ints(*(math.prod(shape) for shape in self.members.values()))
            parts = emit.ops("Split", (values[self.vector], sizes), len(self.members), axis=0)
            for (w, shape), part in zip(self.members.items(), parts, strict=True):
                found[w] = part if len(shape) == 1 else emit.op("Reshape", part, emit.ints(*shape))
        return found


def join(emit: Emitter, gradients: Mapping[str, str]) -> Together:
    """Join small weights, and their gradients, if there are several."""
    shapes = {w: emit.graph.fixed(w, slice(None)) for w in gradients}
    small = {w: shape for w, shape in shapes.items() if math.prod(shape) <= SMALL}
    if len(small) < 2:
        return Together(dict(gradients), "", {})
    vector = emit.op("Concat", *(_flat(emit, w, small[w]) for w in small), axis=0)
    size = sum(math.prod(shape) for shape in small.values())
    emit.graph.types[vector] = TensorType(FLOAT32, (size,))
    joined = emit.op("Concat", *(_flat(emit, gradients[w], small[w]) for w in small), axis=0)
    rest = {w: g for w, g in gradients.items() if w not in small}
    return Together(rest | {vector: joined}, vector, small)


def _flat(emit: Emitter, tensor: str, shape: tuple[int, ...]) -> str:
    return tensor if len(shape) == 1 else emit.op("Reshape", tensor, emit.ints(-1))
