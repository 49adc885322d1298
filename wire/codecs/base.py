"""What a codec is."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from wire.checkpoint import Weights
from wire.plan import Parameter
from wire.tensors import Array, Spec


class Codec(Protocol):
    """Codes a delta, one float32 tensor a parameter, into named tensors and back."""

    @property
    def name(self) -> str:
        """The codec's name in a task file and on the wire."""

    def schema(self, parameters: tuple[Parameter, ...]) -> dict[str, Spec]:
        """The exact tensors of the coded form."""

    def encode(self, delta: Weights, rng: np.random.Generator) -> dict[str, Array]:
        """Code a finite delta. Raises `WireError` when a value is out of the codec's range."""

    def decode(self, coded: Mapping[str, Array], parameters: tuple[Parameter, ...]) -> Weights:
        """The delta, float32 and finite. Raises `WireError` for values no encoder makes."""
