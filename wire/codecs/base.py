"""What a codec is, and what it decodes to."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from wire.checkpoint import Weights
from wire.plan import Parameter
from wire.tensors import Array, Spec

Vector32 = npt.NDArray[np.float32]


class Few(NamedTuple):
    """A stretch of weights of which few changed: where, no place twice, and by how much."""

    indices: npt.NDArray[np.intp]
    values: Vector32


class Delta(Mapping[str, Vector32]):
    """A delta in its coded form: the change of each parameter, float32, is made when it is asked
    for, by two threads together if they like. Whoever takes it stretch by stretch needs no room for
    all of it, but of those that are `Sampled`."""

    def __init__(self, parameters: tuple[Parameter, ...]) -> None:
        self._parameters = {p.name: p for p in parameters}

    @abstractmethod
    def stretch(self, name: str, start: int, stop: int, room: Vector32) -> Vector32:
        """The weights from `start` to `stop` of a flattened parameter, written to `room`, which is
        of shape [stop - start]."""

    @abstractmethod
    def bound(self, name: str) -> float:
        """No weight of a parameter changed by more than this."""

    def few(self, name: str, start: int, stop: int) -> Few | None:
        """The same stretch (its first weight has index 0), ascending, when most of it is zero."""
        return None

    def __getitem__(self, name: str) -> Vector32:
        p = self._parameters[name]
        return self.stretch(name, 0, p.size, np.empty(p.size, np.float32)).reshape(p.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)


class Codec(Protocol):
    """Codes a delta, one float32 tensor a parameter, into named tensors and back."""

    @property
    def name(self) -> str:
        """The codec's name in a task file and on the wire."""

    def schema(self, parameters: tuple[Parameter, ...]) -> dict[str, Spec]:
        """The exact tensors of the coded form."""

    def encode(self, delta: Weights, rng: np.random.Generator) -> dict[str, Array]:
        """Code a finite delta. Raises `WireError` when a value is out of the codec's range."""

    def decode(
        self, coded: Mapping[str, Array], parameters: tuple[Parameter, ...]
    ) -> Mapping[str, Vector32]:
        """The delta, float32 and finite; a `Delta` where that spares memory. Raises `WireError` for
        values no encoder makes."""
