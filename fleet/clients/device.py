"""An honest device."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

import numpy as np

from edge_agent.transport import Transport
from fleet.clients.forging import header
from fleet.clients.steps import Steps
from wire import PROTOCOL_VERSIONS, checkpoint, update
from wire.checkpoint import Weights
from wire.digest import digest_of
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
        return manifest, checkpoint.read(data, manifest.checkpoint)

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

    def _connect(self) -> Steps:
        return Steps(self.url, self.secret, self.ca)
