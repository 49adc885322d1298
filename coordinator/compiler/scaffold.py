"""SCAFFOLD's client (Karimireddy et al., 2020): gradients corrected by two control variates.

A device follows g - c_i + c: c is the server's control variate, the mean gradient of the whole
fleet, and c_i its own, the mean of its uncorrected gradients over its last round (option II of the
paper, which for plain SGD says the same). All of it is kept times the learning rate, as the change
that a step makes, which costs nothing: the optimiser's seed is the rate already.

    control/<w>   given with the model, -rate c; see `coordinator.aggregation.scaffold`
    own/<w>       rate c_i: the last round's gradient/<w>
    gradient/<w>  the mean of rate g over this round's steps so far
"""

from collections.abc import Mapping
from typing import NamedTuple

from coordinator.compiler.graph import FLOAT32, Emitter, TensorType
from coordinator.compiler.state import State

_MEAN = "gradient"


class Corrected(NamedTuple):
    """By weight: its corrected gradient, and the new tensor that is to hold the server's control
    variate; and the state that this needs."""

    gradients: dict[str, str]
    controls: dict[str, str]
    state: list[State]


def corrected(emit: Emitter, gradients: Mapping[str, str]) -> Corrected:
    """Correct each weight's gradient, which has been multiplied by the learning rate."""
    before = emit.name()
    number = emit.op("Add", before, emit.const(1.0))
    part = emit.op("Div", emit.const(1.0), number)
    found = Corrected({}, {}, [State("corrected_step", None, (), before, number)])
    for w, gradient in gradients.items():
        own, control, mean = emit.name(), emit.name(), emit.name()
        for tensor in (own, control):
            emit.graph.types[tensor] = TensorType(FLOAT32, emit.graph.shape(w))
        found.gradients[w] = emit.op("Sub", gradient, emit.op("Add", own, control))
        found.controls[w] = control
        moved = emit.op("Mul", emit.op("Sub", gradient, mean), part)
        shape = emit.graph.fixed(w, slice(None))
        found.state.append(State(_MEAN, w, shape, mean, emit.op("Add", mean, moved)))
        found.state.append(State("own", w, shape, own, None, carried=_MEAN))
    return found
