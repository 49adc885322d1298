"""What every driver of `coordinator.store.sql.Store` keeps to. No test module by itself:

    class TestPostgres(StoreContract):
        @pytest.fixture
        async def store(self): ...  # an empty, open store

    class TestPostgresShared(SharedContract):
        @pytest.fixture
        async def store(self): ...
        @pytest.fixture
        async def other(self, store): ...  # of another node, over the same database

What `sql.py` leaves open and is held here: a `read` that would change something raises
`ValueError`; a constraint that is broken raises the driver's own error, whose text says "unique",
"foreign" or "check"; an update is kept once; a closed store raises `StoreUnavailable`.
"""

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coordinator.store.sql import (
    Discard,
    Keep,
    Query,
    Steps,
    Store,
    StoreUnavailable,
    Tell,
    insert,
    one,
    recall,
    records,
    rows,
)

SOON = 5.0
"""Seconds within which what must happen has happened, also on a slow machine."""
NEVER = 0.3
"""Seconds that something which must not happen is waited for."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `nodes`: the plainest table there is."""

    id: str
    host: str
    seen: float


class Broken(Exception):
    """Raised by a transaction of these tests."""


# Transactions


def write(key: str, value: str = "") -> Steps[None]:
    yield from rows(
        "INSERT INTO meta VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = $2", key, value
    )


def lookup(key: str) -> Steps[str | None]:
    row = yield from one("SELECT value FROM meta WHERE key = $1", key)
    return None if row is None else row["value"]


def broken(key: str) -> Steps[None]:
    yield from write(key, "half")
    raise Broken(key)


def add_one(key: str) -> Steps[int]:
    """Read, then write: right only if no other comes in between."""
    row = yield from one("SELECT value FROM meta WHERE key = $1 FOR UPDATE", key)
    assert row is not None
    value = int(row["value"]) + 1
    yield from rows("UPDATE meta SET value = $1 WHERE key = $2", str(value), key)
    return value


def keep(assignment: str, data: bytes, round: int = 1, task: str = "digits") -> Steps[None]:
    yield Keep(task, round, assignment, data)


def discard(round: int = 1, assignment: str | None = None, task: str = "digits") -> Steps[None]:
    yield Discard(task, round, assignment)


def tell(topic: str = "round") -> Steps[None]:
    yield Tell(topic)


def several(*parts: Steps[Any]) -> Steps[list[Any]]:
    """One transaction of several."""
    done = []
    for part in parts:
        done.append((yield from part))
    return done


def first(word: str) -> Steps[bool]:
    """Whether this one was the first to say it."""
    said = yield from rows(
        "INSERT INTO meta VALUES ($1, '') ON CONFLICT (key) DO NOTHING RETURNING key", word
    )
    return bool(said)


def names(folder: Path) -> list[str]:
    """What a folder holds."""
    return sorted(path.name for path in folder.iterdir())


async def hears(store: Store, within: float = SOON) -> bool:
    """Whether `changed` returns before its timeout."""
    start = time.monotonic()
    await asyncio.wait_for(store.changed(within), within + SOON)
    return time.monotonic() - start < within * 0.9


class StoreContract:
    """One store."""

    # Statements

    async def test_a_transaction_returns_what_it_makes_of_what_it_found(self, store: Store):
        assert await store.run(lookup, "word") is None
        await store.run(write, "word", "first")
        await store.run(write, key="word", value="second")
        assert await store.run(lookup, "word") == "second"

    async def test_rows_are_read_by_the_names_of_their_columns(self, store: Store):
        row = await store.run(one, "SELECT 1 AS number, 'text' AS word")
        assert row is not None
        assert sorted(row.keys()) == ["number", "word"]
        assert (row["number"], row["word"]) == (1, "text")

    async def test_records_come_back_as_they_went_in(self, store: Store):
        nodes = [Node(id=f"n-{n}", host="café ☃", seen=n / 3) for n in range(5)]
        for node in nodes:
            assert await store.run(insert, "nodes", node) == []
        found = await store.read(records, Node, "SELECT * FROM nodes ORDER BY id")
        assert found == nodes

    @pytest.mark.parametrize("tags", [0, -1, 2**62, -(2**62)])
    @pytest.mark.parametrize("data", [b"", b"\0" * 9, bytes(range(256)) * 300])
    async def test_whole_numbers_and_bytes_come_back(self, store: Store, tags: int, data: bytes):
        text = "INSERT INTO partials VALUES ($1, $2, $3, $4, $5)"
        await store.run(rows, text, "digits", 7, "n-1", tags, data)
        row = await store.run(one, "SELECT * FROM partials")
        assert row is not None
        assert (row["round"], row["tags"], bytes(row["data"])) == (7, tags, data)

    async def test_nothing_comes_back_as_none(self, store: Store):
        await store.run(
            rows,
            "INSERT INTO tasks VALUES ('digits', 'running', '', '', $1)",
            0.0,
        )
        text = "INSERT INTO models VALUES ('digits', 0, 'sha256:0', $1, 0.5) RETURNING *"
        row = await store.run(one, text, None)
        assert row is not None
        assert (row["state"], row["version"], row["created"]) == (None, 0, 0.5)

    async def test_a_value_may_be_used_twice_and_there_may_be_more_than_nine(self, store: Store):
        marks = ", ".join(f"${n}" for n in range(1, 13))
        text = f"SELECT key FROM meta WHERE value IN ({marks}) OR key = $12 OR key = $1 ORDER BY 1"
        for key in ("a", "k", "l", "m"):
            await store.run(write, key, f"of {key}")
        values = ["a", *(f"of {letter}" for letter in "bcdefghijk"), "l"]
        assert [row["key"] for row in await store.run(rows, text, *values)] == ["a", "k", "l"]

    async def test_a_text_with_a_nul_is_found_nowhere(self, store: Store):
        assert await store.read(lookup, "a\0b") is None

    @pytest.mark.parametrize(
        "text", ["'); DROP TABLE meta; --", "$1 $2 ?1 :a", "SELECT FOR UPDATE", "%s", "\\x00", "☃"]
    )
    async def test_what_people_type_is_stored_as_it_is(self, store: Store, text: str):
        await store.run(write, "word", text)
        assert await store.read(lookup, "word") == text

    async def test_an_insertion_that_meets_another_says_so(self, store: Store):
        assert await store.run(first, "word")
        assert not await store.run(first, "word")

    # All or nothing

    async def test_what_a_transaction_raises_is_raised_and_nothing_of_it_happened(
        self, store: Store
    ):
        with pytest.raises(Broken, match="word"):
            await store.run(broken, "word")
        assert await store.read(lookup, "word") is None

    async def test_of_many_at_once_each_fails_alone(self, store: Store):
        some = [store.run(broken if n % 3 == 0 else write, f"w-{n}") for n in range(100)]
        done = await asyncio.gather(*some, return_exceptions=True)
        assert [type(d) for d in done] == [Broken if n % 3 == 0 else type(None) for n in range(100)]
        found = await store.read(rows, "SELECT key FROM meta WHERE key LIKE 'w-%'")
        assert {row["key"] for row in found} == {f"w-{n}" for n in range(100) if n % 3}

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("INSERT INTO meta VALUES ('taken', '')", "(?i)unique"),
            ("INSERT INTO models VALUES ('nobody', 0, '', NULL, 0.0)", "(?i)foreign"),
            ("INSERT INTO tasks VALUES ('t', 'asleep', '', '', 0.0)", "(?i)check"),
        ],
    )
    async def test_a_broken_rule_of_the_schema_undoes_that_transaction_alone(
        self, store: Store, text: str, complaint: str
    ):
        await store.run(write, "taken")
        bad = store.run(several, write("half"), rows(text))
        done = await asyncio.gather(
            store.run(write, "before"), bad, store.run(write, "after"), return_exceptions=True
        )
        assert (done[0], done[2]) == (None, None)
        with pytest.raises(Exception, match=complaint):
            raise done[1]
        assert await store.read(lookup, "half") is None
        assert await store.read(lookup, "after") == ""

    async def test_no_other_comes_between_reading_and_writing(self, store: Store):
        await store.run(write, "count", "0")
        counts = await asyncio.gather(*(store.run(add_one, "count") for _ in range(200)))
        assert sorted(counts) == list(range(1, 201))

    async def test_giving_up_the_wait_leaves_all_or_nothing(self, store: Store):
        for number in range(20):
            a, b = f"a-{number}", f"b-{number}"
            waiting = asyncio.ensure_future(store.run(several, write(a), write(b)))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            found = await store.read(several, lookup(a), lookup(b))
            assert found in ([None, None], ["", ""])

    # Reading

    async def test_a_read_sees_what_was_answered(self, store: Store):
        for number in range(30):
            await store.run(write, "word", str(number))
            assert await store.read(lookup, "word") == str(number)

    async def test_what_a_read_raises_is_raised(self, store: Store):
        def raising() -> Steps[None]:
            yield from lookup("word")
            raise Broken

        with pytest.raises(Broken):
            await store.read(raising)
        assert await store.read(lookup, "word") is None

    @pytest.mark.parametrize(
        "change",
        [
            Query("INSERT INTO meta VALUES ('word', '')"),
            Query("DELETE FROM meta"),
            Keep("digits", 1, "a-1", b"data"),
            Discard("digits", 1),
            Discard("digits", 1, "a-0"),
            Tell("round"),
        ],
    )
    async def test_a_read_changes_nothing(self, store: Store, change: Any):
        def changing() -> Steps[None]:
            yield change

        await store.run(keep, "a-0", b"kept")
        before = len(await store.read(rows, "SELECT key FROM meta"))
        with pytest.raises(ValueError, match="read"):
            await store.read(changing)
        assert len(await store.read(rows, "SELECT key FROM meta")) == before
        assert await store.read(recall, "a-0") == b"kept"
        assert await store.read(recall, "a-1") is None

    # Updates' bytes

    @pytest.mark.parametrize("data", [b"", b"\0", b"update", random.Random(1).randbytes(3 << 20)])
    async def test_kept_bytes_come_back(self, store: Store, data: bytes):
        await store.run(keep, "a-1", data)
        assert await store.read(recall, "a-1") == data
        assert await store.run(recall, "a-1") == data

    async def test_a_transaction_sees_what_it_keeps(self, store: Store):
        found = await store.run(several, keep("a-1", b"data"), recall("a-1"), recall("a-2"))
        assert found == [None, b"data", None]

    async def test_bytes_of_a_transaction_that_fails_are_not_kept(self, store: Store):
        for number in range(5):
            with pytest.raises(Broken):
                await store.run(several, keep("a-1", b"lost" * number), broken("word"))
            await store.run(keep, f"b-{number}", b"kept" * number)
        assert await store.read(recall, "a-1") is None
        for number in range(5):
            assert await store.read(recall, f"b-{number}") == b"kept" * number

    async def test_an_update_is_kept_once(self, store: Store):
        await store.run(keep, "a-1", b"first")
        with pytest.raises(Exception, match=r"(?i)unique"):
            await store.run(keep, "a-1", b"second", 2)
        assert await store.read(recall, "a-1") == b"first"

    async def test_many_kept_at_once_are_told_apart(self, store: Store):
        kept = {f"a-{n}": random.Random(n).randbytes(n * 37) for n in range(150)}
        await asyncio.gather(
            *(store.run(keep, a, d, len(d) % 3, f"task-{len(d) % 2}") for a, d in kept.items())
        )
        for assignment, data in kept.items():
            assert await store.read(recall, assignment) == data

    async def test_a_round_that_is_discarded_takes_only_its_own_updates(self, store: Store):
        await store.run(keep, "a-1", b"one", 1)
        await store.run(keep, "a-2", b"two", 2)
        await store.run(keep, "a-3", b"three", 1, "other")
        await store.run(discard, 1)
        assert await store.read(recall, "a-1") is None
        assert await store.read(recall, "a-2") == b"two"
        assert await store.read(recall, "a-3") == b"three"

    async def test_a_round_may_be_discarded_twice_and_used_again(self, store: Store):
        await store.run(keep, "a-1", b"one")
        await store.run(discard)
        await store.run(discard)
        await store.run(keep, "a-1", b"again")
        await store.run(several, discard(), keep("a-2", b"in one"))
        assert await store.read(recall, "a-1") is None
        assert await store.read(recall, "a-2") == b"in one"

    async def test_one_update_can_be_discarded_alone(self, store: Store):
        await store.run(keep, "a-1", b"one")
        await store.run(keep, "a-2", b"two")
        await store.run(discard, 1, "a-1")
        await store.run(discard, 1, "never")
        assert await store.read(recall, "a-1") is None
        assert await store.read(recall, "a-2") == b"two"

    async def test_a_discard_in_a_transaction_that_fails_discards_nothing(self, store: Store):
        await store.run(keep, "a-1", b"one")
        for what in (discard(), discard(1, "a-1")):
            with pytest.raises(Broken):
                await store.run(several, what, broken("word"))
        assert await store.read(recall, "a-1") == b"one"

    async def test_any_order_of_keeping_and_discarding(self, store: Store):
        rng, held = random.Random(4), {}
        for number in range(300):
            round, assignment = rng.randrange(4), f"a-{number}"
            choice = rng.random()
            if choice < 0.75:
                data = rng.randbytes(rng.randrange(2000))
                await store.run(keep, assignment, data, round)
                held[assignment] = (round, data)
            elif choice < 0.9 and held:
                gone = rng.choice(sorted(held))
                await store.run(discard, held.pop(gone)[0], gone)
            else:
                await store.run(discard, round)
                held = {a: kept for a, kept in held.items() if kept[0] != round}
        for number in range(300):
            expected = held.get(f"a-{number}", (0, None))[1]
            assert await store.read(recall, f"a-{number}") == expected

    # News, time, the end

    async def test_what_is_told_is_heard_while_waiting(self, store: Store):
        hearing = asyncio.ensure_future(hears(store))
        await asyncio.sleep(0.05)
        await store.run(tell)
        assert await hearing

    async def test_what_was_told_before_the_wait_is_heard_once(self, store: Store):
        await store.run(tell, "one")
        await store.run(tell, "two")
        assert await hears(store)
        assert not await hears(store, NEVER)

    async def test_without_news_a_wait_ends_at_its_timeout(self, store: Store):
        await store.run(write, "word")
        assert not await hears(store, NEVER)

    async def test_a_transaction_that_fails_tells_nothing(self, store: Store):
        with pytest.raises(Broken):
            await store.run(several, tell(), broken("word"))
        assert not await hears(store, NEVER)

    async def test_a_wait_that_was_given_up_loses_no_news(self, store: Store):
        waiting = asyncio.ensure_future(store.changed(SOON))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.wait([waiting])
        await store.run(tell)
        assert await hears(store)

    async def test_its_clock_is_near_the_wall_clock_and_goes_forward(self, store: Store):
        times = [store.now() for _ in range(1000)]
        assert times == sorted(times)
        assert abs(times[-1] - time.time()) < 60

    async def test_closing_finishes_what_was_begun(self, store: Store):
        writing = [asyncio.ensure_future(store.run(write, f"w-{n}")) for n in range(50)]
        await asyncio.sleep(0)
        await store.close()
        assert await asyncio.gather(*writing) == [None] * 50

    async def test_a_closed_store_takes_nothing_and_may_be_closed_again(self, store: Store):
        await store.close()
        await store.close()
        call: Callable[..., Any]
        for call in (store.run, store.read):
            with pytest.raises(StoreUnavailable):
                await call(lookup, "word")


class SharedContract:
    """Two stores of two nodes over one database."""

    async def test_they_say_that_they_share(self, store: Store, other: Store):
        assert store.shared
        assert other.shared

    async def test_each_sees_what_the_other_was_answered(self, store: Store, other: Store):
        for number in range(20):
            writer, reader = (store, other) if number % 2 else (other, store)
            await writer.run(write, "word", str(number))
            assert await reader.read(lookup, "word") == str(number)
            assert await reader.run(lookup, "word") == str(number)

    async def test_neither_comes_between_the_others_reading_and_writing(
        self, store: Store, other: Store
    ):
        await store.run(write, "count", "0")
        both = [s.run(add_one, "count") for _ in range(100) for s in (store, other)]
        assert sorted(await asyncio.gather(*both)) == list(range(1, 201))

    async def test_one_of_them_is_first(self, store: Store, other: Store):
        for number in range(20):
            said = await asyncio.gather(*(s.run(first, f"w-{number}") for s in (store, other)))
            assert sorted(said) == [False, True]

    async def test_each_has_the_others_updates(self, store: Store, other: Store):
        await store.run(keep, "a-1", b"one")
        await other.run(keep, "a-2", b"two")
        for each in (store, other):
            assert await each.read(recall, "a-1") == b"one"
            assert await each.run(recall, "a-2") == b"two"

    async def test_either_discards_for_both(self, store: Store, other: Store):
        for number, each in enumerate((store, other)):
            await each.run(keep, f"a-{number}", b"data")
            await each.run(keep, f"b-{number}", b"data", 2)
        await store.run(discard, 2, "b-1")
        await other.run(discard, 1)
        for each in (store, other):
            held = [await each.read(recall, a) for a in ("a-0", "a-1", "b-0", "b-1")]
            assert held == [None, None, b"data", None]

    async def test_a_discarded_round_may_be_used_again_by_either(self, store: Store, other: Store):
        for number in range(5):
            await store.run(keep, f"a-{number}", b"of a")
            await other.run(keep, f"b-{number}", b"of b")
            assert await store.read(recall, f"b-{number}") == b"of b"
            assert await other.read(recall, f"a-{number}") == b"of a"
            await (store if number % 2 else other).run(discard)

    async def test_each_hears_what_the_other_tells_and_its_own(self, store: Store, other: Store):
        for teller in (store, other):
            hearing = [asyncio.ensure_future(hears(s)) for s in (store, other)]
            await asyncio.sleep(0.05)
            await teller.run(tell)
            assert await asyncio.gather(*hearing) == [True, True]

    async def test_what_the_other_does_without_telling_is_no_news(self, store: Store, other: Store):
        await other.run(write, "word")
        await other.run(keep, "a-1", b"data")
        assert not await hears(store, NEVER)

    async def test_they_agree_on_the_time(self, store: Store, other: Store):
        before, between, after = store.now(), other.now(), store.now()
        assert before - 1 < between < after + 1

    async def test_one_goes_on_when_the_other_has_closed(self, store: Store, other: Store):
        await other.run(keep, "a-1", b"data")
        await other.close()
        await store.run(write, "word")
        assert await store.read(recall, "a-1") == b"data"
