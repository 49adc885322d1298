"""A log of the database that the disk has damaged: SQLite goes on without what was in it, and what
was acknowledged counts nevertheless, or the coordinator does not start."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from coordinator.store.opening import DATABASE_FILE, connect
from coordinator.store.sql import StoreError
from tests.coordinator.machine import Machine

Damage = Callable[[Path, int], None]
_FRAME = 24 + 4096


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    async with Machine(tmp_path) as made:
        yield made


def log_of(state: Path) -> Path:
    return state / f"{DATABASE_FILE}-wal"


async def size_of_log(machine: Machine) -> int:
    return (await asyncio.to_thread(log_of(machine.folder / "state").stat)).st_size


def cut(state: Path, size: int) -> None:
    with log_of(state).open("r+b") as file:
        file.truncate(size)


def cut_within(state: Path, size: int) -> None:
    cut(state, size + _FRAME // 2)


def flip(state: Path, size: int) -> None:
    """In the first page that was written when the log had this size."""
    with log_of(state).open("r+b") as file:
        file.seek(size + 1000)
        byte = file.read(1)[0]
        file.seek(size + 1000)
        file.write(bytes([byte ^ 4]))


@pytest.fixture(params=[cut, cut_within, flip])
def damage(request: pytest.FixtureRequest) -> Damage:
    return request.param


async def uninterrupted(folder: Path, **terms: object) -> str:
    async with Machine(folder, **terms) as machine:
        for index in range(3):
            await machine.arrive(index)
        await machine.ends(1)
        return await machine.digest()


@pytest.mark.parametrize("late", ["refuse", "fold", "buffer"])
async def test_what_was_acknowledged_counts_though_the_log_has_lost_it(
    tmp_path: Path, damage: Damage, late: str, caplog: pytest.LogCaptureFixture
):
    expected = await uninterrupted(tmp_path / "one", late=late)
    async with Machine(tmp_path / "two", late=late) as machine:
        for index in range(3):
            await machine.assign(index)
        await machine.accept(0)
        size = await size_of_log(machine)
        await machine.accept(1)
        before = machine.task.round
        await machine.crash(lambda state: damage(state, size))
        assert machine.task.round == before
        assert "1 updates were on the disk and not in the database: they count" in caplog.text
        assert await machine.states() == {"d0": "accepted", "d1": "accepted", "d2": "working"}
        await machine.accept(1)  # its device asks again: it is accepted already
        await machine.restart()
        assert machine.task.round == before
        await machine.accept(2)
        ended = await machine.ends(1)
        assert (ended.reason, ended.arrived, ended.examples) == ("goal", 3, 30)
        assert await machine.digest() == expected


async def test_it_counts_though_the_deadline_has_passed_meanwhile(machine: Machine):
    await machine.assign(0)
    size = await size_of_log(machine)
    await machine.accept(0)
    left = machine.task.round.remaining(machine.store.now())

    def late(state: Path) -> None:
        cut(state, size)
        machine.clock.leap(left + 60.0)

    await machine.crash(late)
    ended = await machine.ends(1)
    assert (ended.reason, ended.arrived) == ("deadline", 1)


async def test_an_update_of_which_the_database_knows_nothing_refuses_the_start(
    machine: Machine, damage: Damage
):
    await machine.assign(0)
    size = await size_of_log(machine)
    await machine.assign(1)
    await machine.accept(1)
    (segment,) = await machine.files("spool")
    kept = await asyncio.to_thread(segment.read_bytes)
    with pytest.raises(StoreError) as refused:
        await machine.crash(lambda state: damage(state, size))
    line = str(refused.value)
    assert "is older than the updates kept beside it (task digits, round 1)" in line
    assert "\n" not in line
    assert f"move spool/{segment.name} away" in line
    assert await asyncio.to_thread(segment.read_bytes) == kept
    await asyncio.to_thread(segment.unlink)
    await machine._open()
    assert machine.task.round.arrived == 0


async def test_an_update_torn_by_a_power_cut_does_not_count(machine: Machine):
    await machine.assign(0)
    size = await size_of_log(machine)
    await machine.accept(0)

    def torn(state: Path) -> None:
        cut(state, size)
        (segment,) = (state / "spool").iterdir()
        data = bytearray(segment.read_bytes())
        data[-10:] = bytes(10)
        segment.write_bytes(data)

    await machine.crash(torn)
    assert machine.task.round.arrived == 0
    await machine.accept(0)  # nobody was told that it counts
    assert (await machine.close_now(1)).arrived == 1


async def gone(machine: Machine) -> None:
    """The bytes of every update that is in a model are deleted."""
    async with asyncio.timeout(10):
        while await machine.files("spool"):
            await machine.store.check()  # a group of its own, as each process writes now and then
            await asyncio.sleep(0.01)


async def test_once_its_updates_are_deleted_no_loss_of_the_log_opens_a_round_again(
    machine: Machine,
):
    await machine.arrive(0, 1, 2)
    ended = await machine.ends(1)
    model = await machine.digest()
    await gone(machine)
    await machine.crash(lambda state: cut(state, 0))
    assert await machine.digest() == model
    found = await machine.ends(1)
    assert (found.phase, found.arrived) == (ended.phase, 3)
    assert machine.task.round.number == 2


async def test_while_somebody_reads_the_log_the_updates_of_a_round_stay(machine: Machine):
    await machine.arrive(0, 1)
    await machine.assign(2)
    reader = await asyncio.to_thread(connect, machine.folder / "state")
    try:
        await asyncio.to_thread(reader.executescript, "BEGIN; SELECT * FROM driver;")
        await machine.accept(2)
        await machine.ends(1)
        await machine.store.check()
        assert len(await machine.files("spool")) == 1
    finally:
        await asyncio.to_thread(reader.close)
    machine.clock.leap(10.0)
    await gone(machine)
