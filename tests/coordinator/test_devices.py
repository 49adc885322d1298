"""What this process remembers of devices and of their work: little, and not for long."""

from pathlib import Path

import pytest
from msgspec import structs

from coordinator import assignment_cache, devices
from coordinator.errors import NotFound
from coordinator.store import devices as stored
from fleet.clients import FACTS
from tests.coordinator.plans import constant, plan
from tests.coordinator.serving import Serving, serving


async def seen_at(served: Serving, device: str) -> float:
    found = await served.coordinator.services.store.read(stored.device, device)
    assert found is not None
    return found.seen


async def test_when_many_devices_were_seen_is_written_down_before_its_time(served: Serving):
    device = await served.device()
    enrolled = await seen_at(served, device.id)
    served.clock.leap(10.0)
    for number in range(devices._PAGE - 1):
        served.coordinator.devices.saw(f"device-{number}", FACTS)
    served.coordinator.devices.saw(device.id, FACTS)
    # Much less than the minute after which it is written in any case.
    await served.until(lambda: served.coordinator.devices.seen_lately(device.id) is None)
    written = served.coordinator.services.store.run(stored.population)  # after what is under way
    assert await written
    assert await seen_at(served, device.id) >= enrolled + 10.0


async def test_what_devices_of_a_kind_say_of_themselves_is_in_memory_once(tmp_path: Path):
    async with serving(tmp_path) as served:
        joined = await served.devices(2)
        one, other = [await served.coordinator.devices.find(d.id) for d in joined]
        assert one.facts is other.facts
    async with serving(tmp_path) as served:  # both from the store
        one, other = [await served.coordinator.devices.find(d.id) for d in joined]
        assert one.facts is other.facts
        assert one.facts == FACTS


async def test_devices_that_differ_in_what_they_say_have_no_end_of_memory(
    served: Serving, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(devices, "_KINDS", 3)
    for cores in range(1, 9):
        served.coordinator.devices.saw(f"device-{cores}", structs.replace(FACTS, cores=cores))
        assert len(served.coordinator.devices._facts) <= 3


async def test_work_that_was_given_long_ago_is_looked_up_and_displaces_none(
    served: Serving, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(assignment_cache, "_KNOWN", 1)
    await plan(goal=9, deadline="1h").create(served.admin)
    first, second = await served.devices(2)
    old, new = await first.take(), await second.take()
    known = served.coordinator._cache
    assert (await known.find(old.id, first.id)).device == first.id
    assert list(known._known) == [new.id]
    with pytest.raises(NotFound):
        await known.find(old.id, second.id)
    await first.deliver(old, first.write(old, constant(1.0)))
    assert (await served.states())[first.id] == "accepted"
