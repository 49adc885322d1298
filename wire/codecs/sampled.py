"""What the codecs have in common that send one weight in eight, others each time."""

from abc import abstractmethod

from wire.codecs.base import Delta, Few
from wire.plan import Parameter

_ONE_IN = 8
_FEWEST = 64  # are always sent: a small model is sent as it is


class Sampled(Delta):
    """A delta of which some weights were sent. The model is one flat vector, its parameters in the
    order of their names; no weight changed by more than `largest`."""

    largest: float

    def __init__(self, parameters: tuple[Parameter, ...]) -> None:
        super().__init__(parameters)
        self.starts: dict[str, int] = {}
        self.size = 0
        for p in sorted(parameters, key=lambda p: p.name):
            self.starts[p.name] = self.size
            self.size += p.size

    def bound(self, name: str) -> float:
        return self.largest

    @abstractmethod
    def few_of_all(self) -> Few:
        """The weights that were sent, of the whole vector; the indices in any order. Made when it
        is asked for, and not kept: to sum it takes less time than stretch by stretch."""


def taken(size: int) -> int:
    """How many of `size` weights are sent."""
    return min(size, max(_FEWEST, -(-size // _ONE_IN)))
