"""The close of a round: the same model whatever happened on the way to it, to the last bit."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from coordinator.bench import Bench
from coordinator.closing import Closer
from coordinator.errors import CoordinatorError
from coordinator.round import Reason
from coordinator.store import assignments, ending, rounds, sums
from coordinator.store.assignments import Arrived
from coordinator.store.ending import Closing
from coordinator.store.opening import DATABASE_FILE
from coordinator.store.records import ModelRecord
from tests.coordinator.machine import Machine
from tests.coordinator.serving import denied
from wire.digest import digest_of
from wire.update import read

HOUR = 3600.0


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    async with Machine(tmp_path) as made:
        yield made


STEPS = [
    ("assign", 0),
    ("assign", 1),
    ("accept", 0),
    ("assign", 2),
    ("give_up", 1),
    ("assign", 3),
    ("accept", 3),
    ("upload", 2),
    ("accept", 2),
]


async def play(folder: Path, restarts: tuple[int, ...]) -> tuple[object, str]:
    """One round to its goal with a restart before each step in `restarts`; its end and model."""
    async with Machine(folder) as machine:
        for number, (step, index) in enumerate(STEPS):
            if number in restarts:
                await machine.restart()
            await getattr(machine, step)(index)
        if len(STEPS) in restarts:
            await machine.restart()
        ended = await machine.ends(1)
        assert set((await machine.states()).values()) == {"accepted", "given_up"}
        counts = (ended.phase, ended.reason, ended.arrived, ended.examples, ended.dropped)
        return counts, await machine.digest()


@pytest.fixture(scope="module")
def uninterrupted() -> SimpleNamespace:
    """What the round comes to without a restart, once it was played."""
    return SimpleNamespace(found=None)


@pytest.mark.parametrize(
    "restarts", [(), *((n,) for n in range(1, len(STEPS) + 1)), tuple(range(len(STEPS) + 1))]
)
async def test_a_restart_before_any_step_changes_neither_the_round_nor_its_model(
    tmp_path: Path, uninterrupted: SimpleNamespace, restarts: tuple[int, ...]
):
    if uninterrupted.found is None:
        uninterrupted.found = await play(tmp_path / "uninterrupted", ())
    counts, model = await play(tmp_path / "restarted", restarts)
    assert counts == ("closed", "goal", 3, 30, 1)
    assert (counts, model) == uninterrupted.found


async def test_a_restart_brings_back_the_round_as_it_was_after_each_step(machine: Machine):
    for step, index in STEPS[:-1]:
        await getattr(machine, step)(index)
        await machine.task.refresh(machine.coordinator.services.store)
        was = machine.task.round
        await machine.restart()
        assert machine.task.round == was


async def test_an_update_that_was_uploaded_but_not_journalled_does_not_count(machine: Machine):
    await machine.assign(0)
    await machine.upload(0)
    await machine.restart()
    assert (machine.task.round.working, machine.task.round.arrived) == (1, 0)
    ended = await machine.close_now(1)
    assert (ended.arrived, ended.reason) == (0, "too_few")


async def test_a_journalled_update_counts_though_nobody_was_told(machine: Machine):
    before = await machine.model()
    held = await machine.assign(0)
    data = machine.write(0, value=1.0)
    arrived = Arrived(held.id, data, digest_of(data), 10, 1, 0.5)
    # Durable, and the process ends before it has summed or answered.
    await machine.store.run(
        assignments.accept, machine.task.terms, [arrived], "node-gone", machine.store.now()
    )
    await machine.restart()
    assert machine.task.round.arrived == 1
    await machine.accept(0, value=9.0)  # the device sends it again: it is accepted already
    ended = await machine.close_now(1)
    assert ended.arrived == 1
    assert await machine.moved(before) == pytest.approx(1.0, rel=1e-6)


async def test_restarts_count_an_update_no_more_than_once(machine: Machine):
    before = await machine.model()
    await machine.arrive(0, value=1.0)
    for _ in range(3):
        await machine.restart()
    ended = await machine.close_now(1)
    assert (ended.arrived, ended.examples) == (1, 10)
    assert await machine.moved(before) == pytest.approx(1.0, rel=1e-6)


async def test_weights_are_capped_alike_before_and_after_a_restart(tmp_path: Path):
    capped = "[aggregation]\nkind = 'fedavg'\nmax_examples = 100"
    async with Machine(tmp_path, sections=capped) as machine:
        before = await machine.model()
        for index, (value, examples) in enumerate([(1.0, 5000), (4.0, 50)]):
            await machine.assign(index)
            await machine.accept(index, value, examples)
        await machine.restart()
        ended = await machine.close_now(1)
        assert ended.examples == 150
        assert await machine.moved(before) == pytest.approx(2.0, rel=1e-6)


async def test_what_a_process_that_is_no_more_has_summed_is_adopted_before_the_close(
    machine: Machine,
):
    await machine.arrive(0, 1)
    await machine.restart()
    node = machine.coordinator.services.node
    for _ in range(500):
        parts = await machine.store.read(sums.portions, "digits", 1)
        if [part.node for part in parts] == [node]:
            break
        await asyncio.sleep(0.01)
    assert [(part.node, part.updates) for part in parts] == [(node, 2)]
    async with machine.task.summing.still():  # and the sum is of just those
        total = await machine.coordinator.services.hand.do(Bench.total, machine.task.work, 1)
    assert total is not None
    assert (total.updates, total.tags) == (parts[0].updates, parts[0].tags)


# A device that leaves


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (1, 0, 2, 3), (3, 2, 1, 0)])
@pytest.mark.parametrize("restarts", ["no restart", "before", "after", "both"])
async def test_the_model_is_bit_for_bit_what_it_had_been_without_who_left(
    tmp_path: Path, order: tuple[int, ...], restarts: str
):
    async def arrive(machine: Machine, indices: tuple[int, ...]) -> None:
        for index in indices:
            await machine.assign(index)
            # One is so large that to add it in floats and to subtract it again would show.
            await machine.accept(index, 1e9 if index == 0 else None, examples=7 + index)

    async with Machine(tmp_path / "left", goal=9) as left:
        await arrive(left, order[:3])
        if restarts in ("before", "both"):
            await left.restart()
        if 0 in order[:3]:
            assert (await left.leave(0)).dropped == 1
        if restarts in ("after", "both"):
            await left.restart()
        await arrive(left, order[3:])
        if 0 in order[3:]:
            assert (await left.leave(0)).dropped == 1
        ended = await left.close_now(1)
        found = await left.digest()
    async with Machine(tmp_path / "never", goal=9) as never:
        await arrive(never, tuple(index for index in order if index != 0))
        await never.close_now(1)
        assert found == await never.digest()
    assert (ended.arrived, ended.examples) == (3, 27)


async def test_who_leaves_without_an_accepted_update_spoils_no_sum(machine: Machine):
    before = await machine.model()
    await machine.assign(0)
    await machine.arrive(1, value=1.0)
    await machine.damage("missing")  # to sum the bytes anew would fail
    await machine.leave(0)
    ended = await machine.close_now(1)
    assert (ended.arrived, ended.dropped) == (1, 0)
    assert await machine.moved(before) == pytest.approx(1.0, rel=1e-6)


async def test_who_leaves_with_bytes_that_are_damaged_is_out_of_the_model_all_the_same(
    machine: Machine,
):
    before = await machine.model()
    await machine.arrive(0, value=5.0)
    await machine.damage("zeros")
    await machine.restart()  # from here on another file is written
    await machine.arrive(1, value=2.0)
    assert (await machine.leave(0)).dropped == 1
    await machine.arrive(2, value=2.0)
    ended = await machine.close_now(1)
    assert ended.arrived == 2
    assert await machine.moved(before) == pytest.approx(2.0, rel=1e-6)


async def test_a_model_that_was_published_keeps_what_is_in_it(machine: Machine):
    await machine.arrive(0, 1, 2, value=1.0)
    await machine.ends(1)
    published = await machine.digest()
    left = await machine.leave(0)
    assert (left.dropped, left.published) == (0, 1)
    await machine.restart()
    assert await machine.digest() == published
    first = await machine.store.read(rounds.round_record, "digits", 1)
    assert first is not None
    assert (first.arrived, first.examples) == (3, 30)
    assert set(await machine.states()) == {"d1", "d2"}


async def test_what_came_to_a_round_that_made_no_model_is_in_none(tmp_path: Path):
    async with Machine(tmp_path, minimum=2) as machine:
        await machine.arrive(0)
        await machine.close_now(1)
        left = await machine.leave(0)
        assert (left.dropped, left.published) == (0, 0)


# The end of a round


async def test_a_crash_between_the_model_and_the_journal_ends_the_round_again(machine: Machine):
    first = await machine.digest()
    served = SimpleNamespace(coordinator=machine.coordinator)
    with denied(served, sqlite3.SQLITE_INSERT, "models") as tried:  # type: ignore[arg-type]
        await machine.arrive(0, 1, 2)
        for _ in range(500):
            if tried:
                break
            await asyncio.sleep(0.005)
        assert tried
        blobs = await machine.files("blobs")
        await machine.task.refresh(machine.coordinator.services.store)
        assert str(machine.task.round.phase) == "closing"
        assert await machine.digest() == first
    await machine.restart()
    ended = await machine.ends(1)
    assert (ended.phase, ended.arrived) == ("closed", 3)
    # The very same model, though this time it was summed from the disk.
    assert await machine.files("blobs") == blobs
    assert await machine.digest() != first


async def test_who_leaves_while_its_update_becomes_a_model_hears_what_came_of_it(
    machine: Machine,
):
    """The journal refuses the model at first, so that the device leaves in the phase `closing`."""
    before = await machine.model()
    served = SimpleNamespace(coordinator=machine.coordinator)
    with denied(served, sqlite3.SQLITE_INSERT, "models") as tried:  # type: ignore[arg-type]
        await machine.arrive(0, 1, 2, value=3.0)
        for _ in range(500):
            if tried:
                break
            await asyncio.sleep(0.005)
        leaving = asyncio.ensure_future(machine.leave(0))
        await asyncio.sleep(0.1)
        assert not leaving.done()
    machine.clock.leap(2.0)
    left = await leaving
    assert (left.dropped, left.published) == (0, 1)
    assert await machine.moved(before) == pytest.approx(3.0, rel=1e-6)


async def test_who_leaves_while_no_model_can_be_made_is_told_to_try_again(machine: Machine):
    served = SimpleNamespace(coordinator=machine.coordinator)
    with denied(served, sqlite3.SQLITE_INSERT, "models") as tried:  # type: ignore[arg-type]
        await machine.arrive(0, 1, 2)
        for _ in range(500):
            if tried:
                break
            await asyncio.sleep(0.005)
        leaving = asyncio.ensure_future(machine.leave(0))
        await asyncio.sleep(0.1)
        machine.clock.leap(11.0)
        with pytest.raises(CoordinatorError, match="closing"):
            await leaving
    machine.clock.leap(120.0)
    assert (await machine.ends(1)).arrived == 3
    assert (await machine.leave(0)).published == 1


async def test_a_restart_after_the_end_opens_the_next_round_with_an_empty_sum(machine: Machine):
    await machine.arrive(0, 1, 2, value=1.0)
    await machine.ends(1)
    first = await machine.model()
    await machine.restart()
    found = machine.task.round
    assert (found.number, found.deadline, found.arrived) == (2, None, 0)
    await machine.assign(0)
    await machine.accept(0, value=2.0, examples=7)
    ended = await machine.close_now(2)
    assert (ended.arrived, ended.examples) == (1, 7)
    assert await machine.moved(first) == pytest.approx(2.0, rel=1e-6)


async def test_an_abandoned_round_keeps_the_model_and_forgets_its_sum(tmp_path: Path):
    async with Machine(tmp_path, minimum=2) as machine:
        before = await machine.digest()
        await machine.arrive(0, value=9.0)
        ended = await machine.close_now(1)
        assert (ended.reason, ended.arrived, ended.examples) == ("too_few", 1, 10)
        assert await machine.digest() == before
        start = await machine.model()
        await machine.arrive(1, 2, value=1.0)
        assert (await machine.close_now(2)).arrived == 2
        assert await machine.moved(start) == pytest.approx(1.0, rel=1e-6)


async def test_a_mean_out_of_range_abandons_the_round_and_the_next_goes_on(tmp_path: Path):
    leaps = "[aggregation]\nkind = 'fedavgm'\nlearning_rate = 1e29"
    async with Machine(tmp_path, sections=leaps, goal=1) as machine:
        before = await machine.digest()
        await machine.arrive(0, value=1e10)
        ended = await machine.ends(1)
        assert (ended.phase, ended.reason) == ("abandoned", str(Reason.NOT_FINITE))
        assert await machine.digest() == before
        await machine.restart()
        assert machine.task.round.number == 2
        await machine.arrive(1, value=1e-20)
        assert (await machine.ends(2)).phase == "closed"


async def test_a_task_that_is_done_comes_back_as_done(tmp_path: Path):
    async with Machine(tmp_path, rounds=1, goal=1) as machine:
        await machine.arrive(0)
        await machine.ends(1)
        model = await machine.digest()
        await machine.restart()
        task = machine.task
        assert (task.record.state, task.model.version, task.running) == ("done", 1, False)
        assert (task.round.number, str(task.round.phase)) == (1, "closed")
        assert await machine.digest() == model


async def test_a_task_that_was_stopped_comes_back_as_stopped(machine: Machine):
    await machine.arrive(0)
    await machine.coordinator.stop("digits")
    await machine.restart()
    assert (machine.task.record.state, machine.task.model.version) == ("stopped", 0)
    assert str(machine.task.round.phase) == "abandoned"


# The clock


async def test_the_deadline_stays_where_it_was_over_a_restart(machine: Machine):
    await machine.assign(0)
    machine.clock.leap(600.0)
    await machine.restart(seconds=60.0)
    left = machine.task.round.remaining(machine.store.now())
    assert left == pytest.approx(HOUR - 660.0, abs=5.0)


async def test_a_deadline_that_passed_while_nothing_ran_is_due_at_once(machine: Machine):
    await machine.assign(0)
    await machine.restart(seconds=30 * 86400.0)
    ended = await machine.ends(1)
    assert ended.reason == "too_few"
    assert await machine.states() == {"d0": "expired"}


async def test_a_wall_clock_that_was_set_back_moves_no_deadline(machine: Machine):
    await machine.assign(0)
    machine.clock.leap(600.0)
    machine.clock._start -= (machine.clock.now() - machine.clock._start) * 1000
    await machine.restart()
    left = machine.task.round.remaining(machine.store.now())
    assert left == pytest.approx(HOUR - 600.0, abs=5.0)


async def test_a_round_that_nobody_has_joined_has_no_deadline_after_a_restart(machine: Machine):
    await machine.restart(seconds=86400.0)
    assert machine.task.round.deadline is None


# A disk that loses what it was given


@pytest.mark.parametrize("damage", ["missing", "cut", "zeros"])
async def test_an_accepted_update_that_the_disk_lost_costs_nobody_else_theirs(
    machine: Machine, damage: str, caplog: pytest.LogCaptureFixture
):
    start = await machine.model()
    await machine.arrive(0, value=1.0)
    await machine.damage(damage)
    await machine.restart()  # this process has another file of its own
    await machine.arrive(1, value=2.0)
    await machine.restart()  # and what it has summed is to be read, too
    ended = await machine.close_now(1)
    assert (ended.phase, ended.arrived, ended.examples) == ("closed", 1, 10)
    lost = await machine.store.read(assignments.assignment, machine.held[0].id)
    assert lost is not None
    assert (lost.state, lost.reason) == ("refused", "lost")
    assert "is lost" in caplog.text
    assert await machine.moved(start) == pytest.approx(2.0, rel=1e-6)


async def test_a_round_whose_updates_are_all_lost_leaves_the_model_as_it_was(machine: Machine):
    before = await machine.digest()
    await machine.arrive(0, 1)
    await machine.damage("zeros")
    await machine.restart()
    ended = await machine.close_now(1)
    assert (ended.phase, ended.reason) == ("abandoned", str(Reason.TOO_FEW))
    assert (ended.arrived, ended.examples) == (0, 0)
    assert await machine.digest() == before
    await machine.arrive(3, 4, 5, value=1.0)
    assert (await machine.ends(2)).phase == "closed"


async def test_a_sum_that_is_not_of_what_the_journal_means_is_not_used(machine: Machine):
    """As after a transaction of which the process never heard that it was durable."""
    before = await machine.model()
    await machine.arrive(0, value=1.0)
    held = await machine.assign(1)
    data = machine.write(1, value=3.0)
    arrived = Arrived(held.id, data, digest_of(data), 10, 1, 0.5)
    await machine.store.run(
        *(assignments.accept, machine.task.terms, [arrived]),
        *(machine.coordinator.services.node, machine.store.now()),
    )
    assert (await machine.close_now(1)).arrived == 2
    assert await machine.moved(before) == pytest.approx(2.0, rel=1e-6)


async def test_a_round_that_another_process_was_closing_is_taken_over(machine: Machine):
    await machine.arrive(0, 1, value=1.0)
    task = machine.task
    machine.clock.leap(HOUR + 1)
    begun = await machine.store.run(
        ending.begin_close, task.terms, "node-that-died", machine.store.now()
    )
    # Either this process was quicker, and is the closer itself, or it takes over.
    assert begun is None or isinstance(begun, Closing)
    ended = await machine.ends(1)
    assert (ended.phase, ended.arrived) == ("closed", 2)


async def test_after_a_round_nothing_of_its_updates_is_kept(machine: Machine):
    await machine.arrive(0, 1, 2)
    await machine.ends(1)
    for _ in range(500):
        if not await machine.files("spool"):
            break
        await asyncio.sleep(0.005)
    assert await machine.files("spool") == []
    await machine.restart()

    def counts() -> list[int]:
        with closing(sqlite3.connect(machine.folder / "state" / DATABASE_FILE)) as database:
            return [
                database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                for table in ("payloads", "partials", "wipes")
            ]

    assert await asyncio.to_thread(counts) == [0, 0, 0]


async def test_what_is_kept_is_what_was_sent(machine: Machine):
    await machine.arrive(0)
    data = await machine.store.read(sums.kept, machine.held[0].id)
    assert data == machine.write(0)
    update = read(data, machine.plan.manifest.parameters, "float32")
    assert update.header.assignment == machine.held[0].id
    assert np.isfinite(update.delta["w"]).all()


async def test_a_round_that_loses_its_minimum_leaves_the_model_as_it_was(tmp_path: Path):
    async with Machine(tmp_path, goal=3, minimum=2) as machine:
        before = await machine.digest()
        await machine.arrive(0)
        await machine.damage("zeros")
        await machine.restart()
        await machine.arrive(1)
        ended = await machine.close_now(1)
        assert (ended.phase, ended.reason, ended.arrived) == ("abandoned", "too_few", 1)
        assert await machine.digest() == before


async def _closing_elsewhere(machine: Machine, tags: int) -> Closer:
    """A closer in this process, of a round of which a process that lives has handed over a sum."""
    task, now = machine.task, machine.store.now()
    machine.coordinator._nodes.alive |= {"me", "other", "quick"}  # it takes nothing over from them
    held = await machine.assign(0)
    data = machine.write(0, value=1.0)
    arrived = Arrived(held.id, data, digest_of(data), 10, 1, 0.5)
    await machine.store.run(assignments.accept, task.terms, [arrived], "other", now)
    begun = await machine.store.run(ending.begin_close, task.terms, "me", now + HOUR + 1)
    assert isinstance(begun, Closing)
    await machine.store.run(sums.put_partial, "digits", 1, "other", tags, b"")
    services = replace(machine.coordinator.services, node="me")
    return Closer(services, task, begun, {"me", "other"})


async def test_a_sum_that_is_not_of_what_was_meant_is_not_waited_for(machine: Machine):
    before = await machine.model()
    closer = await _closing_elsewhere(machine, tags=-1)
    async with asyncio.timeout(2.0):
        ended = await closer.close()
    assert ended is not None
    assert (ended.published, ended.arrived) == (True, 1)
    assert await machine.moved(before) == pytest.approx(1.0, rel=1e-6)


async def test_a_closer_that_was_away_for_long_says_nothing_of_what_others_have_closed(
    machine: Machine, caplog: pytest.LogCaptureFixture
):
    closer = await _closing_elsewhere(machine, tags=-1)
    made = ModelRecord(task="digits", version=1, digest=await machine.digest(), created=1.0)
    closing = await machine.store.read(rounds.load, machine.task.terms)
    taken = await machine.store.run(ending.take_over, machine.task.terms, "quick", {"other"})
    assert taken is not None
    await machine.store.run(
        *(ending.finish_close, machine.task.terms, "quick", closing, made, 10, {}, HOUR + 2)
    )
    assert await closer.close() is None
    assert "lost" not in caplog.text


async def test_a_stop_that_waits_for_a_model_ends_the_next_round_after_it_opened(machine: Machine):
    closer = await _closing_elsewhere(machine, tags=-1)
    async with asyncio.timeout(10.0), asyncio.TaskGroup() as group:
        stopping = group.create_task(machine.coordinator.stop("digits"))
        await asyncio.sleep(0.05)  # real time: it finds the round closing, and waits
        machine.clock.leap(5.0)
        assert await closer.close() is not None
        await stopping
    last = (await machine.store.read(rounds.rounds, "digits", 1))[0]
    assert (last.number, last.phase, last.reason) == (2, "abandoned", "stopped")
    assert last.ended is not None
    assert last.ended >= last.opened
