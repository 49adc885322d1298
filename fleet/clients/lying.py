"""Devices that lie."""

from enum import StrEnum
from typing import Any

import numpy as np

from fleet.clients.device import Device
from fleet.clients.forging import forge
from wire import compression
from wire.checkpoint import Weights
from wire.digest import digest_of
from wire.messages import Assignment


class Lie(StrEnum):
    """What a lying device says. The value is the code of the coordinator's refusal, after it a
    word where two lies share one."""

    WRONG_NAMES = "wrong_names"
    WRONG_SHAPE = "wrong_shape"
    WRONG_DTYPE = "wrong_dtype"
    NOT_FINITE = "not_finite"
    INFINITE = "not_finite infinity"
    WRONG_BASE = "wrong_base"
    WRONG_PLAN = "wrong_base plan"
    OTHER_UPDATE = "wrong_base assignment"
    WRONG_CODEC = "wrong_codec"
    NO_EXAMPLES = "bad_message none"
    ABSURD_EXAMPLES = "bad_message examples"
    WRONG_DIGEST = "restart_upload"
    OVERSIZE = "too_large"
    BOMB = "too_large bomb"
    NOT_COMPRESSED = "bad_compression"
    CUT_SHORT = "bad_compression cut"
    TRUNCATED = "truncated"
    NO_TENSORS = "bad_format"
    TOO_FAR = "too_far"

    @property
    def code(self) -> str:
        """The code of the refusal."""
        return self.value.split()[0]


class LyingDevice(Device):
    """Delivers what breaks a rule of the wire, chosen by `lie`."""

    lie: Lie = Lie.NOT_FINITE

    async def deliver(self, assignment: Assignment, data: bytes) -> None:
        digest = digest_of(b"other bytes") if self.lie is Lie.WRONG_DIGEST else digest_of(data)
        async with self._connect() as transport:
            await transport.upload(assignment.id, data, digest)

    def write(
        self, assignment: Assignment, delta: Weights, examples: int = 10, **changes: Any
    ) -> bytes:
        forged = _LIES.get(self.lie)
        if forged is not None:
            return forge(assignment, delta, examples, **(forged | changes))
        honest = super().write(assignment, delta, examples, **changes)
        plain = compression.decompress(honest, 1 << 30)
        match self.lie:
            case Lie.WRONG_NAMES:
                return forge(assignment, {f"{k}?": v for k, v in delta.items()}, examples)
            case Lie.WRONG_SHAPE:
                return forge(assignment, {k: np.ravel(v)[:-1] for k, v in delta.items()}, examples)
            case Lie.WRONG_DTYPE:
                return forge(assignment, {k: v.astype("<f8") for k, v in delta.items()}, examples)
            case Lie.NOT_FINITE | Lie.INFINITE:
                bad = np.float32("nan" if self.lie is Lie.NOT_FINITE else "inf")
                return forge(assignment, {k: v + bad for k, v in delta.items()}, examples)
            case Lie.TOO_FAR:
                far = np.float32(1e30)
                return forge(assignment, {k: np.full_like(v, far) for k, v in delta.items()})
            case Lie.OVERSIZE:
                return honest + bytes(assignment.upload_limit)
            case Lie.BOMB:
                return compression.compress(bytes(8 * assignment.upload_limit))
            case Lie.NOT_COMPRESSED:
                return plain
            case Lie.CUT_SHORT:
                return honest[:-1]
            case Lie.TRUNCATED:
                return compression.compress(plain[:-1])
            case Lie.NO_TENSORS:
                return compression.compress((8).to_bytes(8, "little") + b"[[[[[[[[")
        return honest


class FlippedDevice(Device):
    """Sends its change the other way round and `scale` times as large: no rule of the wire is
    broken, so every update counts, against the model."""

    scale: float = 10.0

    def write(
        self, assignment: Assignment, delta: Weights, examples: int = 10, **changes: Any
    ) -> bytes:
        flipped = {name: values * np.float32(-self.scale) for name, values in delta.items()}
        return super().write(assignment, flipped, examples, **changes)


_OTHER = digest_of(b"another")
_LIES: dict[Lie, dict[str, Any]] = {
    Lie.WRONG_BASE: {"base": _OTHER},
    Lie.WRONG_PLAN: {"plan": _OTHER},
    Lie.OTHER_UPDATE: {"assignment": "somebody-else"},
    Lie.WRONG_CODEC: {"codec": "float64"},
    Lie.NO_EXAMPLES: {"examples": 0},
    Lie.ABSURD_EXAMPLES: {"examples": 1 << 60},
}
