"""The SQLite store and what a disk, a crash or a person does to its files."""

import asyncio
import os
import shutil
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from coordinator.store.sql import Steps, StoreError, StoreUnavailable, Tell, recall, rows
from coordinator.store.sqlite import SqliteStore, lock_state, open_sqlite, prepare
from schedules.clock import SystemClock
from tests.coordinator.disks import ballast, disk, make_read_only
from tests.coordinator.store.contract import discard, keep, lookup, names, tell, write

CLOCK = SystemClock()
FILE = "coordinator.sqlite"


@pytest.fixture(autouse=True)
def no_blocking_calls() -> None:
    """These tests have files and processes in their hands, on the loop. That the store itself does
    not block it is held by `test_sqlite.py`."""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


async def refusal(state: Path) -> str:
    """The one line with which an opening is refused."""
    with pytest.raises(StoreError) as refused:
        async with open_sqlite(state, "alone", CLOCK):
            pass
    line = str(refused.value)
    assert "\n" not in line
    assert str(state) in line
    return line


async def fill(state: Path, updates: int = 200) -> None:
    """A store with something in it: some hundred pages, and a segment."""
    async with open_sqlite(state, "alone", CLOCK) as store:
        for number in range(updates):
            await store.run(write, f"w-{number}", "text " * 300)
        await store.run(keep, "a-1", b"kept " * 100)


class Away:
    """A machine whose wall clock was set back by a day."""

    def monotonic(self) -> float:
        return CLOCK.monotonic()

    def now(self) -> datetime:
        return datetime.fromtimestamp(CLOCK.now().timestamp() - 86400, UTC)


# Opening


async def test_everything_is_its_owners_alone(state):
    await fill(state, 1)
    async with open_sqlite(state, "alone", CLOCK) as store:
        await store.run(keep, "a-2", b"")
        found = {p.name: stat.S_IMODE(p.stat().st_mode) for p in state.rglob("*")}
    assert set(found) >= {FILE, FILE + "-wal", "spool", "digits.1.alone.log"}
    assert {mode for name, mode in found.items() if name != "spool"} == {0o600}
    assert (found["spool"], stat.S_IMODE(state.stat().st_mode)) == (0o700, 0o700)


async def test_what_was_written_is_there_again(state):
    await fill(state)
    async with open_sqlite(state, "alone", CLOCK) as store:
        assert await store.read(lookup, "w-7") == "text " * 300
        assert await store.read(recall, "a-1") == b"kept " * 100
        await store.check()
    assert not (state / (FILE + "-wal")).exists()  # all of it is in the one file


@pytest.mark.parametrize(
    ("version", "advice"),
    [("1", "made by an earlier development version: move it away"), ("9", "run the version that")],
)
async def test_another_schema_is_refused(state, version, advice):
    await fill(state)
    with closing(sqlite3.connect(state / FILE)) as database, database:
        database.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (version,))
    assert advice in await refusal(state)


async def test_another_programs_database_is_refused(state):
    state.mkdir()
    with closing(sqlite3.connect(state / FILE)) as database, database:
        database.execute("CREATE TABLE recipes (id)")
    assert "move it away" in await refusal(state)


@pytest.mark.parametrize("damage", ["header", "page", "cut", "other"])
async def test_a_damaged_database_is_refused_and_left_as_it_is(state, damage):
    await fill(state)
    data = bytearray((state / FILE).read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    if damage == "header":
        data[:100] = os.urandom(100)
    elif damage == "page":
        data[middle : middle + 4096] = b"\xff" * 4096
    elif damage == "cut":
        del data[middle:]
    else:
        data[:] = b"no database at all" * 1000
    (state / FILE).write_bytes(data)
    line = await refusal(state)
    assert "restore it from a backup, or move it away" in line
    assert (state / FILE).read_bytes() == data
    (state / FILE).rename(state / "damaged")
    (state / "spool").rename(state / "damaged-spool")
    async with open_sqlite(state, "alone", CLOCK) as store:  # the refusal let go of everything
        await store.check()


def lose_log(state: Path) -> None:
    (state / f"{FILE}-wal").unlink()


def restore_backup(state: Path) -> None:
    (state / f"{FILE}-wal").unlink()
    (state / FILE).write_bytes((state / "backup").read_bytes())


def lose_all(state: Path) -> None:
    (state / f"{FILE}-wal").unlink()
    (state / FILE).unlink()


def lose_database(state: Path) -> None:
    (state / FILE).unlink()


def empty_database(state: Path) -> None:
    (state / FILE).write_bytes(b"")


@pytest.mark.parametrize(
    "damage", [lose_log, restore_backup, lose_all, lose_database, empty_database]
)
async def test_a_database_older_than_what_was_kept_is_refused_and_nothing_is_swept(
    tmp_path, state, damage
):
    async with open_sqlite(state, "alone", CLOCK) as store:
        (state / "backup").write_bytes((state / FILE).read_bytes())
        await begin_rounds(store, 3)
        await store.run(keep, "a-1", b"acknowledged", 3)
        crashed = shutil.copytree(state, tmp_path / "crashed")
    kept = crashed / "spool" / "digits.3.alone.log"
    damage(crashed)
    left = everything(crashed)
    for _ in range(2):
        assert "move" in await refusal(crashed)
    assert kept.read_bytes().endswith(b"acknowledged")
    if damage in (lose_database, empty_database):
        assert len(left) == len(everything(crashed)), "the log is still there to be rescued"


async def begin_rounds(store: SqliteStore, number: int) -> None:
    """A task `digits` whose newest round is this one."""
    await store.run(rows, "INSERT INTO tasks VALUES ('digits', 'running', '', '', 0.0)")
    await store.run(
        rows,
        "INSERT INTO rounds VALUES "
        "('digits', $1, 0, 'open', NULL, 1, 1, 0, 0.0, NULL, NULL, NULL, 0, 0)",
        number,
    )


async def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="check its disk"):
        async with open_sqlite(tmp_path / "file" / "state", "alone", CLOCK):
            pass


async def test_time_does_not_go_back_when_the_wall_clock_was_set_back(state):
    async with open_sqlite(state, "alone", CLOCK) as store:
        before = store.now()
    async with open_sqlite(state, "alone", Away()) as store:
        assert before <= store.now() < before + 60
    async with open_sqlite(state, "alone", Away(), shared=False, anchor=5.0) as store:
        assert store.now() == pytest.approx(5.0 + CLOCK.monotonic(), abs=1)


# Disks


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    with disk(tmp_path / "disk", 4096) as folder:
        yield folder


@pytest.mark.parametrize("size", [10, 5000, 100_000])
async def test_a_disk_that_fills_up_is_said_and_nothing_answered_is_lost(small, caplog, size):
    answered = []
    async with open_sqlite(small / "state", "alone", CLOCK) as store:
        heavy = await asyncio.to_thread(ballast, small)
        await asyncio.to_thread(os.truncate, heavy, heavy.stat().st_size - 300_000)

        async def caller(name: str) -> None:
            for number in range(2000):
                await store.run(keep, f"{name}-{number}", bytes([number % 256]) * size)
                answered.append((f"{name}-{number}", number % 256))

        done = await asyncio.gather(*(caller(n) for n in "abcdef"), return_exceptions=True)
        assert {type(d) for d in done} == {StoreUnavailable}
        assert all("full: free some space" in str(d) for d in done)
        assert "full: free some space" in caplog.text
        with pytest.raises(StoreUnavailable):
            await store.check()
        for assignment, byte in answered:  # reading goes on
            assert await store.read(recall, assignment) == bytes([byte]) * size
        await asyncio.to_thread(heavy.unlink)
        await store.check()
        await store.run(keep, "z-1", b"\x01" * size)
        answered.append(("z-1", 1))
    async with open_sqlite(small / "state", "alone", CLOCK) as store:
        kept = await store.read(rows, "SELECT assignment FROM payloads")
        assert {row["assignment"] for row in kept} == {a for a, _ in answered}
        # What failed takes no room either.
        segment = small / "state" / "spool" / "digits.1.alone.log"
        assert segment.stat().st_size == (20 + size) * len(answered)
        for assignment, byte in answered:
            assert await store.read(recall, assignment) == bytes([byte]) * size


async def test_a_transaction_that_is_too_big_for_the_disk_fails_and_the_next_goes_on(small):
    async with open_sqlite(small / "state", "alone", CLOCK) as store:
        done = await asyncio.gather(
            store.run(keep, "a-1", b"small"),
            store.run(keep, "a-2", bytes(9 << 20)),
            store.run(keep, "a-3", b"small"),
            return_exceptions=True,
        )
        assert (done[0], type(done[1]), done[2]) == (None, StoreUnavailable, None)
        assert await store.read(recall, "a-2") is None
        assert await store.read(recall, "a-3") == b"small"


@pytest.mark.parametrize("there", [True, False])
async def test_a_full_disk_is_refused_at_the_start(small, there):
    if there:
        await fill(small / "state")
    await asyncio.to_thread(ballast, small)
    assert "is full: free some space" in await refusal(small / "state")


@pytest.mark.parametrize("there", [True, False])
async def test_a_read_only_disk_is_refused_at_the_start(small, there):
    if there:
        await fill(small / "state", 3)
    make_read_only(small)
    assert "cannot be written" in await refusal(small / "state")


# Segments


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
async def test_damaged_bytes_are_said_and_not_handed_out(state, caplog, damage):
    async with open_sqlite(state, "alone", CLOCK) as store:
        await store.run(keep, "a-1", b"first")
        await store.run(keep, "a-2", b"second")
        path = state / "spool" / "digits.1.alone.log"
        if damage == "flipped":
            path.write_bytes(path.read_bytes().replace(b"second", b"secomd"))
        elif damage == "cut":
            path.write_bytes(path.read_bytes().removesuffix(b"nd"))
        else:
            path.unlink()
        assert await store.read(recall, "a-2") is None
        assert await store.run(recall, "a-2") is None
        assert "a-2" in caplog.text
        assert await store.read(recall, "a-1") == (None if damage == "gone" else b"first")


async def test_a_discarded_round_leaves_no_file(state):
    async with open_sqlite(state, "alone", CLOCK) as store:
        await store.run(keep, "a-1", b"data", 1)
        await store.run(keep, "a-2", b"data", 2)
        await store.run(discard, 1)
    assert names(state / "spool") == ["digits.2.alone.log"]


async def test_files_that_nothing_refers_to_are_swept_at_the_next_start(state):
    async with open_sqlite(state, "alone", CLOCK) as store:
        await begin_rounds(store, 1)
    await fill(state)
    # The round after the newest may have been about to open, in the transaction that was lost.
    for name in ("digits.2.alone.log", "digits.1.gone.log", "digits.1.alone.log.gone", "x.log"):
        (state / "spool" / name).write_bytes(b"left by a crash")
    async with open_sqlite(state, "alone", CLOCK) as store:
        assert names(state / "spool") == ["digits.1.alone.log"]
        assert await store.read(recall, "a-1") == b"kept " * 100


def everything(state: Path) -> bytes:
    return b"".join(p.read_bytes() for p in state.rglob("*") if p.is_file())


async def test_one_update_that_is_discarded_is_in_no_file_when_it_is_answered(state):
    async with open_sqlite(state, "alone", CLOCK) as store:
        await store.run(keep, "a-1", b"stays here")
        await store.run(keep, "private-1", b"private bytes")
        await store.run(keep, "a-2", b"stays too")
        assert b"private" in everything(state)
        await store.run(discard, 1, "private-1")
        assert b"private" not in everything(state)
        assert await store.read(recall, "a-1") == b"stays here"
        assert await store.read(recall, "a-2") == b"stays too"


async def test_an_overwriting_that_a_crash_came_before_is_done_at_the_next_start(state):
    async with open_sqlite(state, "alone", CLOCK) as store:
        await store.run(keep, "a-1", b"stays")
        await store.run(keep, "a-2", b"private")
        # As the transaction leaves it, and the crash right after it.
        await store.run(rows, "DELETE FROM payloads WHERE assignment = 'a-2'")
        await store.run(rows, "INSERT INTO wipes VALUES ('digits.1.alone.log', 45, 7)")
    assert b"private" in everything(state)
    async with open_sqlite(state, "alone", CLOCK) as store:
        assert b"private" not in everything(state)
        assert await store.read(recall, "a-1") == b"stays"
        assert await store.read(rows, "SELECT * FROM wipes") == []


# Groups


@contextmanager
def held_up() -> Iterator[tuple[threading.Event, threading.Event]]:
    """(begun, release) of a transaction that takes its time."""
    begun, release = threading.Event(), threading.Event()
    try:
        yield begun, release
    finally:
        release.set()


def waiting(begun: threading.Event, release: threading.Event) -> Steps[None]:
    yield Tell("begun")
    begun.set()
    assert release.wait(20)


async def test_a_read_waits_for_no_transaction(state):
    async with open_sqlite(state, "alone", CLOCK) as store:
        await store.run(write, "word", "text")
        with held_up() as events:
            writing = asyncio.ensure_future(store.run(waiting, *events))
            await asyncio.to_thread(events[0].wait)
            assert await asyncio.wait_for(store.read(lookup, "word"), 5) == "text"
            assert not writing.done()
        await writing


def looking(begun: threading.Event, release: threading.Event) -> Steps[None]:
    yield from rows("SELECT 1")
    begun.set()
    assert release.wait(20)


async def test_a_read_waits_for_nobody_who_looks_long(state):
    async with open_sqlite(state, "alone", CLOCK) as store:
        await store.run(write, "word", "text")
        with held_up() as events:
            surveying = asyncio.ensure_future(store.survey(looking, *events))
            await asyncio.to_thread(events[0].wait)
            assert await asyncio.wait_for(store.read(lookup, "word"), 5) == "text"
            await asyncio.wait_for(store.run(write, "word", "another"), 5)
            assert not surveying.done()
        await surveying
        assert await store.survey(lookup, "word") == "another"
        with pytest.raises(ValueError, match="read"):
            await store.survey(write, "word", "no")


async def test_those_that_wait_are_made_durable_together(state, monkeypatch):
    async with open_sqlite(state, "alone", CLOCK) as store:
        await store.run(keep, "first", b"data")
        syncs, fsync = [], os.fsync
        monkeypatch.setattr(os, "fsync", lambda d: (syncs.append(d), fsync(d)))
        with held_up() as events:
            some = [asyncio.ensure_future(store.run(waiting, *events))]
            await asyncio.to_thread(events[0].wait)
            some += [asyncio.ensure_future(store.run(keep, f"a-{n}", b"x")) for n in range(100)]
            for lost in some[50:60]:
                lost.cancel()
            await asyncio.sleep(0)
        done = await asyncio.gather(*some, return_exceptions=True)
        assert len([d for d in done if d is None]) == 91
        assert len(syncs) <= 2
        assert await store.read(recall, "a-99") == b"x"


async def test_a_group_that_cannot_be_written_fails_as_one_and_the_next_goes_on(state, caplog):
    async with open_sqlite(state, "alone", CLOCK) as store:
        await store.run(write, "word", "text")
        (state / "spool").rename(state / "away")  # no segment can be made
        refused = await asyncio.gather(
            *(store.run(keep, f"a-{n}", b"x") for n in range(5)), return_exceptions=True
        )
        assert {type(r) for r in refused} == {StoreUnavailable}
        with pytest.raises(StoreUnavailable):
            await store.check()
        assert caplog.text.count("nothing can be written") == 1
        (state / "away").rename(state / "spool")
        await store.check()
        await store.run(keep, "a-1", b"again")
        assert await store.read(recall, "a-1") == b"again"


async def test_another_program_that_holds_the_file_is_waited_for(state):
    async with open_sqlite(state, "alone", CLOCK) as store:
        with closing(sqlite3.connect(state / FILE, isolation_level=None)) as program:
            program.execute("BEGIN IMMEDIATE")
            writing = asyncio.ensure_future(store.run(write, "word", "text"))
            await asyncio.sleep(0.2)
            assert not writing.done()
            assert await store.read(lookup, "word") is None
            program.execute("ROLLBACK")
            await writing
        assert await store.read(lookup, "word") == "text"


async def test_news_of_another_process_comes_within_a_fraction_of_a_second(state):
    loop = asyncio.get_running_loop()
    with lock_state(state):
        prepare(state, CLOCK)
        async with (
            open_sqlite(state, "worker-1", CLOCK, shared=True) as one,
            open_sqlite(state, "worker-2", CLOCK, shared=True) as two,
        ):
            waited = asyncio.ensure_future(two.changed(20.0))
            await asyncio.sleep(0.1)
            start = loop.time()
            await one.run(tell)
            await waited
            assert loop.time() - start < 2.0
