"""A closer that lives but cannot close: another process closes the round, or it does later, and
whoever asks meanwhile hears why."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from coordinator import closing
from coordinator.bench import Bench
from coordinator.round import Phase
from coordinator.service import Coordinator
from coordinator.start import StoreOptions, open_coordinator
from coordinator.store import handing, rounds, sums
from coordinator.store.sqlite import lock_state, prepare
from tests.coordinator.machine import Machine
from tests.coordinator.plans import constant, plan
from tests.coordinator.serving import Serving

FULL = OSError(28, "No space left on device")
UPDATES = 3


class Pair(Machine):
    """Two processes, as it were, over one folder; `other` is the second."""

    async def _open(self) -> None:
        state, stack = self.folder / "state", self._stack
        await asyncio.to_thread(stack.enter_context, lock_state(state))
        anchor = await asyncio.to_thread(prepare, state, self.clock)
        self.coordinator, self.other = [
            await stack.enter_async_context(
                open_coordinator(state, self.clock, StoreOptions(shared=True, anchor=anchor))
            )
            for _ in range(2)
        ]
        self.store = self.coordinator.services.store

    async def know_each_other(self) -> None:
        """Both have seen that the other is alive."""
        nodes = {each.services.node for each in (self.coordinator, self.other)}
        for each in (self.coordinator, self.other):
            while each._nodes.alive < nodes or "digits" not in each.tasks:
                self.clock.leap(2.5)
                await asyncio.sleep(0.01)


def no_room(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, times: float = float("inf")
) -> list[int]:
    """No blob can be written here any more; gives a list that grows with each attempt."""
    put, tried = coordinator.services.blobs.put, list[int]()

    async def broken(data: bytes) -> str:
        if len(tried) >= times:
            return await put(data)
        tried.append(len(data))
        raise FULL

    monkeypatch.setattr(coordinator.services.blobs, "put", broken)
    return tried


def no_room_at_the_first(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No blob can be written any more by the process that is the first to try, whichever sees first
    that the round is due; gives a list that will have it."""
    full = list[str]()

    def break_(coordinator: Coordinator) -> None:
        put, node = coordinator.services.blobs.put, coordinator.services.node

        async def broken(data: bytes) -> str:
            full.extend([] if full else [node])
            if node in full:
                raise FULL
            return await put(data)

        monkeypatch.setattr(coordinator.services.blobs, "put", broken)

    for each in (pair.coordinator, pair.other):
        break_(each)
    return full


async def test_another_process_closes_what_one_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with Pair(tmp_path, goal=UPDATES) as pair:
        await pair.know_each_other()
        full = no_room_at_the_first(pair, monkeypatch)
        before = await pair.model()
        await pair.arrive(*range(UPDATES), value=1.0)
        async with asyncio.timeout(20.0):
            while pair.task.round.number == 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        ended = await pair.store.read(rounds.round_record, "digits", 1)
        assert ended is not None
        assert (ended.phase, ended.arrived) == ("closed", UPDATES)
        nodes = {pair.coordinator.services.node, pair.other.services.node}
        assert nodes - set(full) == {ended.closer}
        assert await pair.moved(before) == pytest.approx(1.0, rel=1e-5)


async def test_a_process_that_has_lost_its_sum_says_so_and_nobody_waits_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    async with Pair(tmp_path, goal=UPDATES) as pair:
        await pair.know_each_other()
        before = await pair.model()
        await pair.arrive(0, 1, value=1.0)
        # What became of it when the process that sums has ended.
        async with pair.task.summing.still():
            await pair.coordinator.services.hand.do(Bench.over, pair.task.work, 1)
        pair.coordinator, pair.other = pair.other, pair.coordinator
        await pair.arrive(2, value=4.0)
        async with asyncio.timeout(20.0):
            while pair.task.round.number == 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await pair.moved(before) == pytest.approx(2.0, rel=1e-5)
    assert "has not handed over its sum" not in caplog.text


async def test_who_asks_hears_why_a_round_does_not_close_until_it_has(
    served: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    await plan(goal=1).create(served.admin)
    tried = no_room(served.coordinator, monkeypatch, times=2)
    await (await served.device()).serve(constant(1.0))
    store = served.coordinator.services.store
    for failures, times in ((1, "once"), (2, "2 times")):
        await served.until(lambda n=failures: len(tried) == n)
        found = None
        while found is None or found.failures < failures:
            found = await store.read(handing.trouble, "digits", 1)
        record = await store.read(rounds.round_record, "digits", 1)
        assert record is not None
        assert (record.phase, record.closer) == ("closing", None)
        for shown in (
            (await served.admin.rounds("digits", 5))[-1],
            (await served.admin.round("digits", 1)).round,
            (await served.admin.task("digits")).rounds[-1],
        ):
            assert shown.phase == Phase.CLOSING
            assert shown.trouble is not None
            assert f"closing failed {times}, last on " in shown.trouble
            assert "No space left on device" in shown.trouble
        assert len(tried) == failures
        served.clock.leap(5.0)
    await served.round_ends(1)
    assert (await served.admin.rounds("digits", 5))[0].trouble is None
    assert "round 1 could not be closed here, next try in 2 s" in caplog.text


async def test_the_pauses_between_tries_grow(served: Serving, monkeypatch: pytest.MonkeyPatch):
    await plan(goal=1).create(served.admin)
    tried = no_room(served.coordinator, monkeypatch)
    await (await served.device()).serve(constant(1.0))
    for _ in range(300):  # 150 s
        served.clock.leap(0.5)
        await asyncio.sleep(0.005)
    assert 4 <= len(tried) <= 8


async def test_a_store_that_does_not_answer_holds_no_thread_for_ever(
    served: Serving, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(closing, "_READ_SECONDS", 0.05)
    await plan(goal=1, sections="[aggregation]\nkind = 'median'").create(served.admin)
    store = served.coordinator.services.store
    read, silent = store.read, list[object]()

    async def at_first_silent(transaction: Any, *arguments: Any) -> Any:
        if transaction is sums.kept and not silent:
            silent.append(arguments)
            await asyncio.Event().wait()
        return await read(transaction, *arguments)

    monkeypatch.setattr(store, "read", at_first_silent)
    await (await served.device()).serve(constant(1.0))
    await served.until(lambda: silent)
    trouble = None
    while trouble is None:
        trouble = await store.read(handing.trouble, "digits", 1)
    assert "the store gave no update in" in trouble.reason
    served.clock.leap(2.0)
    await served.round_ends(1)
    assert served.task().model.version == 1
