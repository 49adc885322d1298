"""A coordinator without its network: its disk, and the process over it, which can be started anew.

What a device would send goes in where HTTP hands it over. The steps are those of a round, and can
be played with a restart before any of them.
"""

import asyncio
import shutil
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

import numpy as np

from coordinator.service import Coordinator
from coordinator.start import open_coordinator
from coordinator.store import assignments, rounds, tasks
from coordinator.store import devices as device_store
from coordinator.store.records import DeviceRecord, RoundRecord
from coordinator.task import Task
from fleet.clients import FACTS
from tests.coordinator.plans import constant, plan, weights
from tests.coordinator.serving import LeapingClock
from wire import PROTOCOL_VERSIONS, checkpoint
from wire.checkpoint import Weights
from wire.digest import digest_of
from wire.messages import Assignment, CheckIn, GiveUp, Left
from wire.update import UpdateHeader, write

DEVICES = 6


class Machine:
    """`async with Machine(folder, goal=3)`: a task `digits` and devices `d0`, `d1`, ..."""

    def __init__(self, folder: Path, sections: str = "", **round_keys: object) -> None:
        self.folder = folder
        keys = {"goal": 3, "minimum": 1, "over_selection": 3} | round_keys
        self.plan = plan(sections=sections, **keys)
        self.clock = LeapingClock()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._open()
        made, blobs = self.plan, self.coordinator.services.blobs
        for data in made.files:
            await blobs.put(data)
        manifest = await blobs.put(made.manifest.to_bytes())
        await self.coordinator.create_task(made.definition, manifest, await blobs.put(made.initial))
        self.held: dict[int, Assignment] = {}
        await self.store.run(device_store.add_token, "join", "hash", DEVICES, 1e12)
        for index in range(DEVICES):
            device = DeviceRecord(
                id=f"d{index}",
                name="fake",
                secret="hash",
                labels={},
                facts=FACTS,
                enrolled=0.0,
                seen=0.0,
            )
            assert await self.store.run(device_store.enroll, device, "join")
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def _open(self) -> None:
        opening = open_coordinator(self.folder / "state", self.clock)
        self.coordinator: Coordinator = await self._stack.enter_async_context(opening)
        self.store = self.coordinator.services.store

    @property
    def task(self) -> Task:
        return self.coordinator.tasks["digits"]

    async def files(self, folder: str) -> list[Path]:
        """The files in a folder of the state: `spool` holds kept updates."""
        return await asyncio.to_thread(lambda: sorted((self.folder / "state" / folder).iterdir()))

    async def damage(self, damage: str) -> None:
        """Damage what is kept of updates: `missing`, `cut` (the last bytes are gone) or `zeros`."""

        def work(paths: list[Path]) -> None:
            for path in paths:
                data = path.read_bytes()
                path.unlink()
                if damage != "missing":
                    path.write_bytes(data[:-5] if damage == "cut" else bytes(len(data)))

        await asyncio.to_thread(work, await self.files("spool"))

    # Steps

    async def restart(self, seconds: float = 0.0) -> None:
        """The process ends and another starts, `seconds` later."""
        await self._stack.aclose()
        self.clock.leap(seconds)
        await self._open()

    async def crash(self, damage: Callable[[Path], object]) -> None:
        """The power goes, and another process starts over what the disk has then: the state as it
        is now, after `damage`."""
        state, crashed = self.folder / "state", self.folder / "crashed"
        await asyncio.to_thread(shutil.copytree, state, crashed)
        await self._stack.aclose()
        await asyncio.to_thread(shutil.rmtree, state)
        await asyncio.to_thread(crashed.rename, state)
        await asyncio.to_thread(damage, state)
        await self._open()

    async def assign(self, index: int) -> Assignment:
        device = await self.coordinator.devices.find(f"d{index}")
        assert device is not None
        message = CheckIn(protocols=PROTOCOL_VERSIONS, facts=FACTS)
        reply = await self.coordinator.check_in(device, message)
        assert reply.assignment is not None, reply.wait
        self.held[index] = reply.assignment
        return reply.assignment

    def write(self, index: int, value: float | None = None, examples: int = 10) -> bytes:
        """The update of a device: `value` everywhere, or one of its own."""
        held = self.held[index]
        header = UpdateHeader(
            assignment=held.id,
            plan=held.plan,
            base=held.model,
            codec="float32",
            examples=examples,
            steps=1,
            loss=0.5,
            seconds=1.0,
        )
        delta = weights(seed=index) if value is None else constant(value)
        return write(header, delta, np.random.default_rng(0))

    async def upload(self, index: int) -> None:
        """All of an update is here, but nobody has said that this is all."""
        data, name = self.write(index), self.held[index].id
        parts, digest = self.coordinator.services.parts, digest_of(data)
        await asyncio.to_thread(parts.announce, name, len(data), digest)
        await asyncio.to_thread(parts.write, name, digest, 0, data)

    async def accept(self, index: int, value: float | None = None, examples: int = 10) -> None:
        await self.submit(index, self.write(index, value, examples))

    async def submit(self, index: int, data: bytes) -> None:
        uploads = self.coordinator.uploads
        row, task = await uploads.find(self.held[index].id, f"d{index}")
        await uploads.submit(row, task, len(data), digest_of(data), data)

    async def give_up(self, index: int) -> None:
        why = GiveUp(reason="battery")
        await self.coordinator.uploads.give_up(self.held[index].id, f"d{index}", why)

    async def leave(self, index: int) -> Left:
        return await self.coordinator.leave(f"d{index}")

    async def arrive(self, *indices: int, value: float | None = None) -> None:
        """Some devices serve, one after the other."""
        for index in indices:
            await self.assign(index)
            await self.accept(index, value)

    # Looks

    async def ends(self, number: int) -> RoundRecord:
        """The round once it has ended; its deadline passes if need be. Bounded."""
        for attempt in range(2000):
            found = await self.store.read(rounds.round_record, "digits", number)
            if found is not None and found.phase in ("closed", "abandoned"):
                await self._settled(number)
                return found
            if attempt == 100 and found is not None and found.phase == "open":
                self.clock.leap(self.task.round.remaining(self.store.now()) + 1.0)
            elif attempt > 100 and attempt % 50 == 0:
                self.clock.leap(70.0)  # whatever is tried again now and then
            await asyncio.sleep(0.002)
        raise AssertionError(f"round {number} does not end: {found}")

    async def _settled(self, number: int) -> None:
        for _ in range(2000):
            if self.task.round.number > number or not self.task.running:
                return
            await asyncio.sleep(0.002)
        raise AssertionError("the process does not see that the round has ended")

    async def close_now(self, number: int) -> RoundRecord:
        """The round's deadline passes at once."""
        self.clock.leap(self.task.round.remaining(self.store.now()) + 1.0)
        return await self.ends(number)

    async def digest(self) -> str:
        """What the newest model is, to the last bit."""
        return (await self.store.read(tasks.newest_model, "digits")).digest

    async def model(self) -> Weights:
        """The newest model."""
        data = await self.coordinator.services.blobs.get(await self.digest())
        return checkpoint.read(data, self.plan.manifest.parameters)

    async def moved(self, before: Weights) -> float:
        """By how much every weight has moved since `before`; by the same, or it fails."""
        after = await self.model()
        moves = np.concatenate([np.ravel(after[n] - before[n]) for n in before])
        np.testing.assert_allclose(moves, moves[0], rtol=1e-5, atol=1e-6)
        return float(moves.mean())

    async def states(self, number: int = 1) -> dict[str, str]:
        """What became of each device's assignment."""
        found = await self.store.read(assignments.assignments, "digits", number)
        return {row.device: row.state for row in found}
