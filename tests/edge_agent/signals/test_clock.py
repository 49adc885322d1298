"""The wall clock: timedated on a real bus, systemd's files, the machine's own clock."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from edge_agent.config import parse
from edge_agent.signals.clock import FLOOR, ClockProbe
from edge_agent.signals.system import System
from tests.edge_agent.signals.dbus import TIME
from tests.edge_agent.signals.watching import comes, config, watch

NOW = datetime(2026, 7, 1, tzinfo=UTC)


def look(machine, now=NOW):
    probe = ClockProbe(parse(""), lambda: now)
    signal = probe.look(System(machine.root, machine.root))
    assert signal.ok or signal.code == "clock_not_set"
    return signal


@pytest.mark.parametrize("now", [datetime(1970, 1, 1, tzinfo=UTC), FLOOR - timedelta(seconds=1)])
def test_a_time_before_this_program_was_made_is_not_set(machine, now):
    machine.clock_chip()
    machine.timesyncd(synchronized=True)
    assert look(machine, now).code == "clock_not_set"
    assert f"{now:%Y-%m-%d}" in look(machine, now).observed


def test_a_machine_with_a_clock_of_its_own_is_believed(machine):
    machine.clock_chip()
    machine.timesyncd(synchronized=False)
    assert look(machine, FLOOR).ok


def test_a_machine_without_one_waits_for_the_time_from_the_network(machine):
    machine.timesyncd(synchronized=False)
    assert look(machine).code == "clock_not_set"
    machine.timesyncd(synchronized=True)
    assert look(machine).ok


def test_a_machine_where_nothing_tells_is_believed(machine):
    assert look(machine).ok


async def test_timedated_is_believed_over_files(bus, machine):
    machine_waits = config(machine.root, bus.address)
    await asyncio.to_thread(machine.timesyncd, True)
    await asyncio.to_thread(bus.mock, "timedated")
    try:
        await asyncio.to_thread(bus.update, TIME, NTP=("b", True), NTPSynchronized=("b", False))
        async with watch(machine_waits, ClockProbe(machine_waits, lambda: NOW)) as watched:
            await comes(watched, "clock_not_set", "no time has come over the network yet")
        await asyncio.to_thread(bus.update, TIME, NTPSynchronized=("b", True))
        async with watch(machine_waits, ClockProbe(machine_waits, lambda: NOW)) as watched:
            await comes(watched, "ok")
        # Nobody would ever set it: the owner has switched that off.
        await asyncio.to_thread(bus.update, TIME, NTP=("b", False), NTPSynchronized=("b", False))
        async with watch(machine_waits, ClockProbe(machine_waits, lambda: NOW)) as watched:
            await comes(watched, "ok")
    finally:
        await asyncio.to_thread(bus.unmock, "timedated")
