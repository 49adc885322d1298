"""Where a round's sums go: each parameter has two places, and rounds take turns.

A device sends its parameters' change, in float32. Sums written over those of the round before would
be rounded to the size of the old ones: after squares of 1e12, one of 1 would be lost. So a round
writes where there are zeros, and leaves zeros where it read: what it sends is exact, and what was
there goes exactly.

Which place is full shows in the counts: every device has an example, so that those of the full one
are 1 in all, at least. Before the first round both are empty, and the first one is read. At a
round's first step (`step` is 0) the other place is the one to write; from then on it is the full
one, and the step goes on with it.
"""

from collections.abc import Mapping

import numpy as np

from coordinator.compiler.graph import INT64, Emitter

PLACES = 2
_HALF = 0.5  # between a count of none and one of an example a device


class Places:
    """The parameters of a graph, by name, each of shape [2, ...]; `counts` names the counts'."""

    def __init__(self, emit: Emitter, parameters: Mapping[str, str], counts: str) -> None:
        self._emit = emit
        self._parameters = parameters
        second = emit.op("Gather", parameters[counts], emit.const(1, np.int64), axis=0)
        full = emit.op("Greater", emit.op("ReduceSum", second, keepdims=0), emit.const(_HALF))
        self._full = emit.op("Cast", full, to=INT64)

    def read(self) -> dict[str, str]:
        """What is in the full place."""
        emit = self._emit
        return {
            name: emit.op("Gather", tensor, self._full, axis=0)
            for name, tensor in self._parameters.items()
        }

    def written(self, first: str, values: Mapping[str, str]) -> dict[str, str]:
        """The parameters after a step that made these values, zeros in the other place. `first` is
        whether it is the round's first step, a scalar."""
        emit = self._emit
        one = emit.const(1, np.int64)
        place = emit.op("Where", first, emit.op("Sub", one, self._full), self._full)
        chosen = emit.op("Equal", emit.const(np.arange(PLACES), np.int64), place)
        zero = emit.const(0.0)
        found = {}
        for name, value in values.items():
            rank = len(emit.graph.types[self._parameters[name]].shape or ())
            mask = emit.op("Reshape", chosen, emit.ints(PLACES, *[1] * (rank - 1)))
            found[name] = emit.op("Where", mask, value, zero)
        return found


def counted(emit: Emitter, counts: str) -> str:
    """Whether anything was counted, of each count.

    A mean over devices is at least 1e-6 where any of them counted something, as a round has a
    million devices at most. What is less are crumbs that fixed point leaves of what was there.
    """
    return emit.op("Greater", counts, emit.const(1e-7))


def averages(emit: Emitter, sums: str, counts: str) -> str:
    """Sums by their counts, which broadcast; 0 where nothing was counted."""
    return emit.op("Div", sums, emit.op("Where", counted(emit, counts), counts, emit.const(np.inf)))


def kept_on(emit: Emitter, first: str, kept: str, added: str) -> str:
    """A running sum: what was added now, and what was there unless this is the first step."""
    return emit.op("Add", emit.op("Where", first, emit.const(0.0), kept), added)
