"""The line between two processes: here its other end is a thread, over such a socket and memory."""

import asyncio
import os
import pickle
import random
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from coordinator.line import _ROOM, Ears, Ends, Line, Ring

SECONDS = 20.0

# The ring


class AnyRing(RuleBasedStateMachine):
    """Beside a list of what is taken and who has each byte."""

    @initialize(size=st.integers(1, 40))
    def begin(self, size):
        self.size, self.ring = size, Ring(size)
        self.taken = deque()

    def free(self, start, size):
        used = {each for place in self.taken for each in place}
        return start + size <= self.size and used.isdisjoint(range(start, start + size))

    @rule(size=st.integers(1, 45))
    def take(self, size):
        start = self.ring.take(size)
        after = self.taken[-1].stop if self.taken else 0
        if start is None:  # then there is no room where the ring looks for it
            assert not self.free(after, size)
            assert not self.free(0, size)
        else:
            assert start in (0, after)
            assert self.free(start, size)
            self.taken.append(range(start, start + size))

    @rule(places=st.integers(0, 3))
    def give_back(self, places):
        places = min(places, len(self.taken))
        self.ring.give_back(places)
        for _ in range(places):
            self.taken.popleft()

    @rule(places=st.integers(0, 3))
    def leave(self, places):
        places = min(places, len(self.taken))
        self.ring.leave(places)
        for _ in range(places):
            self.taken.pop()

    @invariant()
    def no_byte_is_taken_twice(self):
        used = [each for place in getattr(self, "taken", ()) for each in place]
        assert len(set(used)) == len(used)


def test_the_ring_in_any_order_of_events():
    run_state_machine_as_test(AnyRing)


def test_a_ring_that_is_empty_takes_all_it_has():
    ring = Ring(10)
    for _ in range(3):
        assert ring.take(11) is None
        assert ring.take(10) == 0
        assert ring.take(1) is None
        ring.give_back(1)


def test_a_ring_that_has_come_round_and_is_full_takes_nothing():
    ring = Ring(10)
    assert [ring.take(4), ring.take(6)] == [0, 4]
    ring.give_back(1)
    assert ring.take(4) == 0
    assert ring.take(1) is None
    ring.leave(1)
    assert ring.take(5) is None
    assert [ring.take(2), ring.take(3), ring.take(2)] == [0, None, 2]


# The line

Work = Callable[[Ears], None]


def say(ears: Ears) -> None:
    """Answer everything with what it is and what it holds, until the line ends."""
    with suppress(EOFError, OSError):
        while True:
            ears.answer([(type(part).__name__, bytes(part)) for part in ears.hear()])


@asynccontextmanager
async def line(work: Work) -> AsyncIterator[Line]:
    """A line at whose other end a thread does this."""
    with Ends() as ends:
        here = await ends.here()
        ears = Ears(*map(os.dup, ends.files))
    thread = threading.Thread(target=_work, args=(work, ears))
    thread.start()
    try:
        async with asyncio.timeout(SECONDS):
            yield here
    finally:
        here.close()
        await asyncio.to_thread(thread.join, SECONDS)
        assert not thread.is_alive()


def _work(work: Work, ears: Ears) -> None:
    with suppress(OSError, EOFError):  # the other end is gone, as a process here would find
        try:
            work(ears)
        finally:
            ears._stream.close()


def large(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def test_large_bytes_are_looked_at_in_place_and_small_ones_are_sent():
    parts = [b"", b"small", large(2047), large(2048), large(100_000), large(1 << 20)]
    async with line(say) as here:
        said = await here.ask(parts)
    assert [part for _, part in said] == parts
    assert [kind for kind, _ in said] == ["bytes"] * 3 + ["memoryview"] * 3


async def test_what_is_in_place_cannot_be_written_to():
    async with line(lambda ears: ears.answer(ears.hear()[0].readonly)) as here:
        assert await here.ask([large(5000)]) is True


async def test_many_in_flight_are_answered_in_order_each_with_its_own():
    sizes = [random.Random(n).choice([10, 3000, 70_000, 900_000]) for n in range(150)]
    messages = [[large(size, n), large(10, n)] for n, size in enumerate(sizes)]
    async with line(say) as here:
        for _ in range(2):  # more than the room has: it comes round, and some find none
            answers = await asyncio.gather(*map(here.ask, messages))
            assert [[part for _, part in said] for said in answers] == messages


async def test_what_finds_no_room_is_sent_and_room_that_was_given_back_is_used():
    hear = threading.Event()

    def slow(ears: Ears) -> None:
        hear.wait(SECONDS)
        say(ears)

    half, more = large(_ROOM // 2, 1), large(_ROOM // 2 + 1, 2)
    async with line(slow) as here:
        first, second, third = here.ask([half]), here.ask([more]), here.ask([half, b"x" * 5000])
        hear.set()
        assert await first == [("memoryview", half)]
        assert await second == [("bytes", more)]
        assert await third == [("memoryview", half), ("bytes", b"x" * 5000)]
        assert await here.ask([more]) == [("memoryview", more)]


async def test_one_that_is_too_large_for_the_room_is_sent():
    most = bytes(_ROOM + 1)
    async with line(say) as here:
        ((kind, found),) = await here.ask([most])
    assert (kind, found == most) == ("bytes", True)


async def test_who_no_longer_waits_is_not_answered_and_the_others_are():
    hear = threading.Event()

    def slow(ears: Ears) -> None:
        hear.wait(SECONDS)
        say(ears)

    parts = [[large(1 << 20, n)] for n in range(40)]
    async with line(slow) as here:
        asked = [here.ask(each) for each in parts]
        for each in asked[::2]:
            each.cancel()
        hear.set()
        answers = await asyncio.gather(*asked[1::2])
        assert [[part for _, part in said] for said in answers] == parts[1::2]
        # The room of those that were cancelled is free as well.
        assert await here.ask([bytes(_ROOM)]) == [("memoryview", bytes(_ROOM))]


async def test_a_message_that_cannot_be_pickled_takes_no_room():
    async with line(say) as here:
        for _ in range(3):
            with pytest.raises((TypeError, pickle.PicklingError, AttributeError)):
                here.ask([bytes(_ROOM // 2), bytes(_ROOM // 2), lambda: None])
        assert await here.ask([bytes(_ROOM)]) == [("memoryview", bytes(_ROOM))]


def _end_at_once(ears: Ears) -> None:
    ears.hear()


def _end_in_mid_answer(ears: Ears) -> None:
    ears.hear()
    ears._stream.write(b"\0" * 7 + b"\x64" + b"12345")
    ears._stream.flush()


def _say_what_is_no_answer(ears: Ears) -> None:
    ears.hear()
    ears._stream.write(b"\0" * 7 + b"\x04" + b"1234")
    ears._stream.flush()
    say(ears)


def _answer_what_was_not_asked(ears: Ears) -> None:
    for _ in range(4):
        ears.answer(())
    say(ears)


@pytest.mark.parametrize("work", [_end_at_once, _end_in_mid_answer, _say_what_is_no_answer])
async def test_once_the_other_end_is_gone_everybody_who_asks_hears_so(work: Work):
    async with line(work) as here:
        asked = [here.ask([large(100_000)]) for _ in range(40)]
        cancelled = here.ask([b""])
        cancelled.cancel()
        for each in asked:
            with pytest.raises(EOFError):
                await each
        for _ in range(3):
            with pytest.raises(EOFError):
                await here.ask([large(100_000)])
        assert cancelled.cancelled()


async def test_answers_that_nobody_asked_for_end_the_line():
    async with line(_answer_what_was_not_asked) as here:
        await until(lambda: here._why is not None)
        with pytest.raises(EOFError):
            await here.ask([b""])


async def until(fact: Callable[[], Any]) -> None:
    while not fact():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_who_waits_when_the_line_is_closed_hears_so_though_nothing_was_read_yet():
    async with line(say) as here:
        asked = here.ask([b""])
        here.close()
        for each in (asked, here.ask([large(5000)])):
            with pytest.raises(EOFError, match="closed"):
                await each


async def test_to_close_waits_for_no_other_end_that_does_not_read():
    done = threading.Event()
    async with line(lambda _: assert_(done.wait(SECONDS))) as here:
        asked = here.ask([bytes(_ROOM + 1)])  # more than the socket holds
        here.close()
        with pytest.raises(EOFError):
            await asked
        await until(lambda: here._writer.transport.get_extra_info("socket").fileno() < 0)
        done.set()


def assert_(fact: bool) -> None:
    assert fact


def files() -> set[str]:
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.add(f"{each.name} {each.readlink()}")
    return {each for each in found if "socket" in each or "lamplighter" in each}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no list of open files")
async def test_no_file_stays_open():
    before = await asyncio.to_thread(files)
    async with line(say) as here:
        await here.ask([large(5000)])
        assert await asyncio.to_thread(files) > before
    with Ends():  # nobody is there in the end
        pass
    with Ends() as ends:  # nobody could be started
        (await ends.here()).close()
    await asyncio.sleep(0)  # transports close their sockets in the next turn
    assert await asyncio.to_thread(files) == before
