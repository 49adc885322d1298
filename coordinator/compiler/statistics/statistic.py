"""What every statistic says of itself; `plan` makes a plan's files of it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, NamedTuple

from coordinator.compiler.graph import Array, Emitter

Tensors = Mapping[str, str]
"""Tensors of a graph by their parameter's name, as they are in a place: without its axis."""


class Step(NamedTuple):
    """What a step gives: the mean loss of the batch, the parameters' new values, and what the next
    step is to know beside them."""

    loss: str
    values: dict[str, str]
    state: Tensors = MappingProxyType({})


class Statistic(ABC):
    """A statistic. `x` is always a tensor [batch, *shape], float32."""

    counts: ClassVar[str]
    """The parameter that counts examples: over all its elements, each is counted once."""

    outputs: ClassVar[tuple[str, ...]]
    """What its model gives."""

    state: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    """What a device keeps from step to step beside the parameters: shapes by name."""

    @abstractmethod
    def initial(self) -> dict[str, Array]:
        """Each parameter before the first round, as in a place. Nothing is counted yet."""

    @abstractmethod
    def step(self, emit: Emitter, x: str, was: Tensors, first: str) -> Step:
        """Add a batch to what `was`: the round's sums so far and the state or, where `first` (a
        scalar) says that this is the round's first step, the sums of the round before."""

    @abstractmethod
    def total(self, emit: Emitter, x: str, now: Tensors) -> str:
        """The sum of the loss over a batch."""

    @abstractmethod
    def model(self, emit: Emitter, x: str, now: Tensors) -> dict[str, str]:
        """What local programs get of an example, by `outputs`."""
