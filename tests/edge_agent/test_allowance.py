"""A transfer that is watched: what it gives, what cuts it off, and that nothing of it stays."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from edge_agent.allowance import while_allowed
from edge_agent.errors import Interrupted, Offline


class Errand:
    """Waits until it is `released`; `ended` says how it went, once it is `over`."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.released = asyncio.Event()
        self.over = asyncio.Event()
        self.ended = ""

    async def __call__(self, error: Exception | None = None) -> str:
        try:
            self.begun.set()
            await self.released.wait()
            await asyncio.sleep(0)
            if error:
                raise error
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # closing a connection takes a turn, too
            self.ended = "cancelled"
            raise
        self.ended = "done"
        self.over.set()
        return "all of it"


@pytest.fixture
async def errand() -> Errand:
    return Errand()


async def never() -> str:
    await asyncio.Event().wait()
    return ""


def after(event: asyncio.Event) -> Callable[[], Awaitable[str]]:
    async def refused() -> str:
        await event.wait()
        return "metered: wwan0 is metered"

    return refused


def others() -> set[asyncio.Task[object]]:
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]


async def test_it_gives_what_the_errand_gives(errand: Errand):
    errand.released.set()
    assert await while_allowed(errand(), never) == "all of it"
    assert not others()


async def test_an_error_of_the_errand_is_raised_as_it_is(errand: Errand):
    errand.released.set()
    error = Offline("nothing answers")
    with pytest.raises(Offline) as caught:
        await while_allowed(errand(error), never)
    assert caught.value is error
    assert not others()


async def test_a_signal_that_turns_cuts_it_off_and_says_why(errand: Errand):
    with pytest.raises(Interrupted, match=r"^metered: wwan0 is metered$"):
        await while_allowed(errand(), after(errand.begun))
    assert errand.ended == "cancelled"  # all of it, not only told to
    assert not others()


async def test_what_is_refused_before_it_began_is_cut_off_too(errand: Errand):
    errand.begun.set()
    with pytest.raises(Interrupted):
        await while_allowed(errand(), after(errand.begun))
    assert errand.ended == "cancelled"


async def test_one_that_ends_just_as_it_is_refused_has_ended(errand: Errand):
    async def refused() -> str:
        await errand.begun.wait()
        errand.released.set()
        await errand.over.wait()
        return "too late"

    assert await while_allowed(errand(), refused) == "all of it"
    assert not others()


async def test_an_errand_that_fails_just_as_it_is_refused_has_failed():
    async def fail() -> None:
        raise Offline("nothing answers")

    async def refused() -> str:
        return "too late"

    with pytest.raises(Offline):
        await while_allowed(fail(), refused)


async def test_a_fault_of_ours_is_not_taken_for_an_answer():
    async def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        await while_allowed(broken(), never)
    assert isinstance(caught.value.exceptions[0], ZeroDivisionError)
    assert not others()


async def test_a_watch_that_breaks_ends_the_errand(errand: Errand):
    async def broken() -> str:
        await errand.begun.wait()
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup):
        await while_allowed(errand(), broken)
    assert errand.ended == "cancelled"
    assert not others()


async def test_cancelling_it_leaves_nothing_running(errand: Errand):
    task = asyncio.create_task(while_allowed(errand(), never))
    await errand.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert errand.ended == "cancelled"
    assert not others()
