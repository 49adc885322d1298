"""All signals together: broken probes, slow ones, and waits that end early."""

import asyncio
import threading
import time
from typing import ClassVar

import pytest

from edge_agent.signals.power import PowerProbe
from edge_agent.signals.signal import Signal
from edge_agent.signals.watch import CODES, Watch, default_probes
from schedules.clock import SystemClock
from tests.edge_agent.signals.dbus import UPOWER
from tests.edge_agent.signals.watching import comes, config, watch


class Says:
    """A probe that says what it is told to."""

    codes: ClassVar = {"no": "for a test"}

    def __init__(self, name="says", signal=None):
        self.name = name
        self.signal = signal or Signal.yes(name, "as told")
        self.looks = 0

    def look(self, system):
        self.looks += 1
        return self.signal


class Breaks(Says):
    """A probe that raises."""

    def __init__(self, error):
        super().__init__("breaks")
        self.error = error

    def look(self, system):
        raise self.error


class Hangs(Says):
    """A probe that hangs until it is let go."""

    def __init__(self, name="hangs"):
        super().__init__(name)
        self.go = threading.Event()

    def look(self, system):
        super().look(system)
        self.go.wait(20.0)
        return self.signal


async def recovers(watched):
    """Until all probes answer well."""
    async with asyncio.timeout(5.0):
        while not all(s.ok for s in await watched.look()):
            await watched.wait(0.01)


@pytest.fixture
def quiet(tmp_path):
    """A machine that says nothing."""
    return config(tmp_path)


async def test_each_probe_is_asked_in_order_and_off_the_loop(quiet):
    seen = []

    class Where(Says):
        def look(self, system):
            seen.append(threading.current_thread() is threading.main_thread())
            time.sleep(0.001)
            return super().look(system)

    async with watch(quiet, Where("one"), Where("two")) as watched:
        assert [s.name for s in await watched.look()] == ["one", "two"]
        assert seen == [False, False]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no such thing"), "ValueError: no such thing"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (RecursionError("too deep"), "RecursionError"),
    ],
)
async def test_a_probe_that_breaks_is_a_no_with_the_reason(quiet, error, text):
    async with watch(quiet, Says("before"), Breaks(error), Says("after")) as watched:
        before, broken, after = await watched.look()
    assert before.ok
    assert after.ok
    assert (broken.name, broken.ok, broken.code) == ("breaks", False, "probe_failed")
    assert text in broken.observed
    assert broken.code in CODES


async def test_a_probe_that_gives_no_signal_has_failed(quiet):
    async with watch(quiet, Says(signal="fine")) as watched:
        (signal,) = await watched.look()
    assert signal.code == "probe_failed"
    assert "'fine'" in signal.observed


async def test_what_a_probe_observes_is_cut_to_a_sane_length(quiet):
    long = Signal.no("says", "no", "x" * 10_000)
    async with watch(quiet, Says(signal=long), Breaks(ValueError("y" * 10_000))) as watched:
        assert [len(s.observed) for s in await watched.look()] == [200, 200]


async def test_a_probe_that_hangs_is_a_no_and_keeps_no_other_waiting(quiet):
    hangs, other = Hangs(), Says()
    async with watch(quiet, hangs, other, slow=0.1) as watched:
        found = await watched.look()
        assert [s.code for s in found] == ["probe_slow", "ok"]
        assert found[0].code in CODES
        # While it hangs it is not asked again, and costs no time.
        began = time.monotonic()
        for _ in range(5):
            assert [s.code for s in await watched.look()] == ["probe_slow", "ok"]
        assert time.monotonic() - began < 0.1
        assert (hangs.looks, other.looks) == (1, 6)
        hangs.go.set()
        await recovers(watched)
        assert hangs.looks == 2


async def test_many_probes_that_hang_take_twice_as_long_as_one_at_most(quiet):
    probes = [Hangs(str(number)) for number in range(8)]
    async with watch(quiet, *probes, slow=0.1) as watched, asyncio.timeout(1.0):
        assert {s.code for s in await watched.look()} == {"probe_slow"}
    for probe in probes:
        probe.go.set()


async def test_a_look_that_is_given_up_leaves_the_next_one_well(quiet):
    hangs = Hangs()
    async with watch(quiet, hangs, Says()) as watched:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await watched.look()
        assert [s.code for s in await watched.look()] == ["probe_slow", "ok"]
        assert hangs.looks == 1  # no probe is asked twice at once
        hangs.go.set()
        await recovers(watched)


async def test_a_wait_without_an_event_takes_its_time(quiet):
    async with watch(quiet, Says()) as watched:
        assert not await watched.wait(0.01)


async def test_an_event_ends_a_wait(desktop, machine):
    wanted = config(machine.root, desktop.address)
    await asyncio.to_thread(desktop.update, UPOWER, OnBattery=("b", False))
    async with watch(wanted, PowerProbe(wanted)) as watched:
        await comes(watched, "ok")
        waiting = asyncio.create_task(watched.wait(20.0))
        await asyncio.sleep(0)
        await asyncio.to_thread(desktop.update, UPOWER, OnBattery=("b", True))
        async with asyncio.timeout(5.0):
            assert await waiting
        assert (await watched.look())[0].code == "on_battery"


async def test_a_storm_of_events_wakes_it_a_few_times_a_second(desktop, machine):
    wanted = config(machine.root, desktop.address)
    await asyncio.to_thread(desktop.update, UPOWER, OnBattery=("b", False))
    over = threading.Event()

    def storm():
        told, end = False, time.monotonic() + 1.0
        while time.monotonic() < end:
            told = not told
            desktop.update(UPOWER, OnBattery=("b", told))
        desktop.update(UPOWER, OnBattery=("b", True))
        over.set()

    async with watch(wanted, PowerProbe(wanted)) as watched:
        await comes(watched, "ok")
        raging = asyncio.create_task(asyncio.to_thread(storm))
        wakes, began = 0, time.monotonic()
        while not over.is_set():
            wakes += await watched.wait(0.5)
            await watched.look()
        assert 1 <= wakes <= (time.monotonic() - began) / 0.3 + 2
        await raging
        await comes(watched, "on_battery")


async def test_without_a_bus_and_without_events_it_still_looks(tmp_path):
    wanted = config(tmp_path, "unix:path=/nothing/here")
    async with Watch(wanted, tmp_path, SystemClock()) as watched:
        codes = {s.name: s.code for s in await watched.look()}
    assert codes["power"] == "ok"
    assert codes["session"] == "ok"
    assert codes["network"] == "offline"


async def test_what_breaks_inside_comes_out_as_it_is(desktop, machine):
    async def breaks():
        async with watch(config(machine.root, desktop.address), Says()) as watched:
            await watched.look()
            raise LookupError("inside")

    with pytest.raises(LookupError, match="inside"):
        await breaks()
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_every_reason_has_a_meaning_and_no_two_signals_a_name(quiet):
    probes = default_probes(quiet, SystemClock(), ())
    assert len({probe.name for probe in probes}) == len(probes)
    assert all(text for probe in probes for text in probe.codes.values())
