"""Checkpoints: every trained weight of a plan, float32, as canonical safetensors.

A checkpoint carries no metadata, so the same weights are the same bytes and the same digest.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from wire import tensors
from wire.errors import Rule, WireError
from wire.plan import Parameter

Weights = dict[str, npt.NDArray[np.float32]]
"""Trained weights, or deltas of them, by parameter name."""

FLOAT32 = np.dtype("<f4")


def schema(parameters: tuple[Parameter, ...]) -> dict[str, tensors.Spec]:
    """What a checkpoint of these parameters must hold."""
    return {p.name: tensors.Spec(FLOAT32, p.shape) for p in parameters}


def size_limit(parameters: tuple[Parameter, ...]) -> int:
    """Bytes that a checkpoint of these parameters may have, at most."""
    return tensors.size_limit(schema(parameters))


def write(weights: Mapping[str, npt.NDArray[np.float32]]) -> bytes:
    """The canonical bytes of a checkpoint."""
    return tensors.write(weights)


def read(data: bytes, parameters: tuple[Parameter, ...]) -> Weights:
    """The weights in a checkpoint, as read-only views of `data`. Raises `WireError`."""
    if len(data) > size_limit(parameters):
        raise WireError(
            Rule.TOO_LARGE, f"a checkpoint of {len(data)} bytes; at most {size_limit(parameters)}"
        )
    found, _ = tensors.read(data, schema(parameters))
    return found
