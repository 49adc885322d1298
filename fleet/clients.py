"""Fake devices over real HTTP, for our tests and for yours: they upload what they are told to.

    async with AdminClient(url, admin_token) as admin:
        token = await admin.token(uses=2, lifetime=60)
    honest = await Device.enroll(url, token)
    await honest.serve({"w": np.ones((64, 10), "<f4")})
    liar = await LyingDevice.enroll(url, token, lie=Lie.NOT_FINITE)
    with pytest.raises(Rejected, match="not_finite"):
        await liar.serve({"w": np.ones((64, 10), "<f4")})

One class a behaviour, and `serve` is one round of it: check in, take an assignment, do what that
device does with it. The steps of an upload are methods too, for what no class here does. A
coordinator that says no raises `Rejected`, one that does not answer `Offline`, both from
`edge_agent.errors`.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from enum import StrEnum
from typing import Any, Self

import msgspec
import numpy as np

from edge_agent.errors import Offline
from edge_agent.transport import Transport
from wire import PROTOCOL_VERSIONS, checkpoint, compression, tensors, update
from wire.checkpoint import Weights
from wire.codecs import codec_named
from wire.digest import digest_of, hex_of
from wire.messages import (
    Acknowledgement,
    Assignment,
    CheckIn,
    CheckInReply,
    Enroll,
    Enrolled,
    Evaluation,
    Facts,
    GiveUp,
    Wait,
)
from wire.plan import MANIFEST_LIMIT, Manifest, parse_manifest
from wire.update import UpdateHeader

FACTS = Facts(
    agent="fake",
    machine="none",
    system="none",
    python="3",
    runtime="none",
    cores=1,
    memory_bytes=1 << 29,
)


class NoWork(Exception):
    """The coordinator gave no assignment; `wait` says why and when to come back."""

    def __init__(self, wait: Wait | None) -> None:
        super().__init__(wait.reason if wait else "no answer")
        self.wait = wait


class Device:
    """An honest device. Each call is a connection of its own, as a device's errands are."""

    def __init__(self, url: str, identity: Enrolled, ca: str | None = None, **habits: Any) -> None:
        self.url = url
        self.id = identity.device
        self.secret = identity.secret
        self.ca = ca
        for name, value in habits.items():
            if not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__} has no habit {name!r}")
            setattr(self, name, value)

    @classmethod
    async def enroll(
        cls,
        url: str,
        token: str,
        *,
        name: str = "fake",
        labels: Mapping[str, str] | None = None,
        ca: str | None = None,
        **habits: Any,
    ) -> Self:
        """Join with an enrolment token. `ca` is a certificate authority's PEM text; `habits` are
        the behaviour's attributes, such as `lie=Lie.NOT_FINITE`."""
        async with Transport(url, token, ca) as transport:
            asked = Enroll(name=name, labels=dict(labels or {}), facts=FACTS)
            return cls(url, await transport.enroll(asked), ca, **habits)

    # A round

    async def serve(self, delta: Weights, examples: int = 10) -> Assignment:
        """One round: take an assignment and deliver `delta` for it. Raises `NoWork`."""
        assignment = await self.take()
        await self.deliver(assignment, self.write(assignment, delta, examples))
        return assignment

    async def check_in(
        self, *, tasks: tuple[str, ...] | None = None, evaluations: tuple[Evaluation, ...] = ()
    ) -> CheckInReply:
        """Ask for work."""
        message = CheckIn(
            protocols=PROTOCOL_VERSIONS, facts=FACTS, tasks=tasks, evaluations=evaluations
        )
        async with self._connect() as transport:
            return await transport.check_in(message)

    async def take(self) -> Assignment:
        """Check in for an assignment. Raises `NoWork`."""
        reply = await self.check_in()
        if reply.assignment is None:
            raise NoWork(reply.wait)
        return reply.assignment

    async def fetch(self, assignment: Assignment) -> tuple[Manifest, Weights]:
        """The plan's manifest and the model to train from."""
        async with self._connect() as transport:
            manifest = parse_manifest(await transport.blob(assignment.plan, MANIFEST_LIMIT))
            data = await transport.blob(assignment.model, manifest.checkpoint_limit)
        return manifest, checkpoint.read(data, manifest.parameters)

    def write(
        self, assignment: Assignment, delta: Weights, examples: int = 10, **changes: Any
    ) -> bytes:
        """The bytes of an update that carries `delta`; `changes` to its header."""
        rng = np.random.default_rng(assignment.seed)
        return update.write(header(assignment, examples, **changes), delta, rng)

    async def deliver(self, assignment: Assignment, data: bytes) -> None:
        """Upload an update, however this device does it; returns when it is acknowledged."""
        async with self._connect() as transport:
            await transport.upload(assignment.id, data, digest_of(data))

    async def give_up(self, assignment: Assignment, reason: str = "preempted") -> None:
        """Say that nothing will come."""
        async with self._connect() as transport:
            await transport.give_up(assignment.id, GiveUp(reason=reason))

    async def send(
        self,
        assignment: Assignment,
        data: bytes | AsyncIterator[bytes],
        length: int | None = None,
        digest: str | None = None,
    ) -> Acknowledgement:
        """POST; all of the bytes in one request. `length` and `digest` say otherwise than the bytes
        do, or say it of an iterator."""
        if isinstance(data, bytes):
            length = len(data) if length is None else length
            digest = digest_of(data) if digest is None else digest
        assert length is not None
        assert digest is not None
        async with self._connect() as transport:
            return await transport.send(assignment.id, data, length, digest)

    # The steps of an upload

    async def announce(self, assignment: Assignment, length: int, digest: str) -> int | None:
        """POST; returns the offset to send from, `None` when the update was accepted before."""
        async with self._connect() as transport:
            return await transport.announce(assignment.id, length, digest)

    async def held(self, assignment: Assignment) -> int:
        """HEAD; returns how many bytes the coordinator has."""
        async with self._connect() as transport:
            return await transport.held(assignment.id)

    async def append(
        self, assignment: Assignment, offset: int, data: bytes | AsyncIterator[bytes]
    ) -> Acknowledgement:
        """PATCH; sends `data` from `offset` on."""
        async with self._connect() as transport:
            return await transport.append(assignment.id, offset, data)

    def _connect(self) -> "_Steps":
        return _Steps(self.url, self.secret, self.ca)


class SlowDevice(Device):
    """Sends `bytes_per_second`, in one request however long it takes."""

    bytes_per_second: float = 1000.0

    async def deliver(self, assignment: Assignment, data: bytes) -> None:
        offset = await self.announce(assignment, len(data), digest_of(data))
        if offset is not None:
            await self.append(assignment, offset, self._trickle(data[offset:]))

    async def _trickle(self, data: bytes) -> AsyncIterator[bytes]:
        size = max(1, int(self.bytes_per_second / 100))
        for start in range(0, len(data), size):
            yield data[start : start + size]
            await asyncio.sleep(size / self.bytes_per_second)


class SilentDevice(Device):
    """Takes an assignment and is never heard of again."""

    async def deliver(self, assignment: Assignment, data: bytes) -> None:
        pass


class FlappingDevice(Device):
    """Loses its connection in mid-upload, `drops` times, each time going on from where the
    coordinator is; then it delivers, or gives up when `gives_up` says so."""

    drops: int = 3
    gives_up: bool = False

    async def deliver(self, assignment: Assignment, data: bytes) -> None:
        piece = max(1, len(data) // (self.drops + 1))
        for _ in range(self.drops):
            offset = await self.announce(assignment, len(data), digest_of(data))
            if offset is None:
                return
            try:
                await self.append(assignment, offset, _cut(data[offset : offset + piece]))
            except Offline:
                continue
        if self.gives_up:
            await self.give_up(assignment)
        else:
            await super().deliver(assignment, data)


class DuplicateDevice(Device):
    """Sends the same update `copies` times: at once, or one after the other."""

    copies: int = 2
    at_once: bool = True

    async def deliver(self, assignment: Assignment, data: bytes) -> None:
        if self.at_once:
            await asyncio.gather(*(self._copy(assignment, data) for _ in range(self.copies)))
        else:
            for _ in range(self.copies):
                await self._copy(assignment, data)

    async def _copy(self, assignment: Assignment, data: bytes) -> None:
        await super().deliver(assignment, data)


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


def header(assignment: Assignment, examples: int = 10, /, **changes: Any) -> UpdateHeader:
    """The header of an update, with `changes`, of which none is checked."""
    honest = UpdateHeader(
        assignment=assignment.id,
        plan=assignment.plan,
        base=assignment.model,
        codec=assignment.codec,
        examples=examples,
        steps=1,
        loss=1.0,
        seconds=1.0,
    )
    return msgspec.structs.replace(honest, **changes)


def forge(
    assignment: Assignment, delta: Mapping[str, Any], examples: int = 10, /, **changes: Any
) -> bytes:
    """The bytes of an update in the assignment's codec, whatever it holds: nothing is checked.

    The codec `int8` cannot say what is not a finite float32: use tasks of codec `float32`.
    """
    coded = codec_named(assignment.codec).encode(dict(delta), np.random.default_rng(0))
    text = msgspec.json.encode(header(assignment, examples, **changes)).decode()
    return compression.compress(tensors.write(coded, {"update": text}))


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1 << 16):
        yield data[start : start + (1 << 16)]


async def _cut(data: bytes) -> AsyncIterator[bytes]:
    """The data, and then the connection breaks."""
    yield data
    raise ConnectionResetError("the connection breaks here")


class _Steps(Transport):
    """The agent's transport, an upload's steps one by one."""

    async def announce(self, assignment: str, length: int, digest: str) -> int | None:
        headers = _announcement(length, digest)
        async with self._request("POST", _path(assignment), headers=headers) as answer:
            done = answer.headers.get("Upload-Complete") == "?1"
            return None if done else int(answer.headers["Upload-Offset"])

    async def send(
        self, assignment: str, data: bytes | AsyncIterator[bytes], length: int, digest: str
    ) -> Acknowledgement:
        headers = _announcement(length, digest) | {"Upload-Complete": "?1"}
        body = _pieces(data) if isinstance(data, bytes) else data
        async with self._request("POST", _path(assignment), body, headers) as answer:
            return await self._decode(answer, Acknowledgement)

    async def held(self, assignment: str) -> int:
        async with self._request("HEAD", _path(assignment)) as answer:
            return int(answer.headers["Upload-Offset"])

    async def append(
        self, assignment: str, offset: int, data: bytes | AsyncIterator[bytes]
    ) -> Acknowledgement:
        headers = {"Upload-Offset": str(offset), "Content-Type": "application/partial-upload"}
        body = _pieces(data) if isinstance(data, bytes) else data
        async with self._request("PATCH", _path(assignment), body, headers) as answer:
            return await self._decode(answer, Acknowledgement)


def _announcement(length: int, digest: str) -> dict[str, str]:
    sha256 = base64.b64encode(bytes.fromhex(hex_of(digest))).decode()
    return {"Upload-Length": str(length), "Repr-Digest": f"sha-256=:{sha256}:"}


def _path(assignment: str) -> str:
    return f"/v1/assignments/{assignment}/update"
