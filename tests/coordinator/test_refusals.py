"""Uploads that break a rule: refused for good, counted, and of no harm to the honest."""

import asyncio

import numpy as np
import pytest

from edge_agent.errors import Rejected
from fleet.clients import Device, Lie, LyingDevice
from tests.coordinator.plans import constant, plan, weights
from tests.coordinator.raw import connected, patch_headers, update_path
from tests.coordinator.serving import Serving
from wire.digest import digest_of
from wire.messages import Assignment, UploadState


@pytest.fixture
async def fleet(served: Serving) -> Serving:
    """A coordinator with a task that waits for nine updates."""
    await plan(goal=9).create(served.admin)
    return served


async def announced(device: Device) -> tuple[Assignment, bytes]:
    """An assignment and its update, announced."""
    assignment = await device.take()
    data = device.write(assignment, weights(seed=3))
    assert await device.announce(assignment, len(data), digest_of(data)) == 0
    return assignment, data


# What is refused


async def test_more_than_announced_is_refused(fleet: Serving):
    device = await fleet.device()
    assignment, data = await announced(device)
    with pytest.raises(Rejected, match="too_large"):
        await device.append(assignment, 0, data + b"more")
    assert (await device.append(assignment, 0, data)).state is UploadState.ACCEPTED


async def test_an_update_of_no_bytes_is_refused(fleet: Serving):
    device = await fleet.device()
    assignment = await device.take()
    await device.announce(assignment, 0, digest_of(b""))
    with pytest.raises(Rejected) as refused:
        await device.append(assignment, 0, b"")
    assert refused.value.status == 422


@pytest.mark.parametrize("lie", [lie for lie in Lie if lie is not Lie.WRONG_DIGEST])
async def test_a_lie_is_refused_for_good_and_counted(fleet: Serving, lie: Lie):
    liar = await fleet.device(LyingDevice, lie=lie)
    assignment = await liar.take()
    with pytest.raises(Rejected) as refused:
        await liar.deliver(assignment, liar.write(assignment, weights(seed=3)))
    assert (refused.value.status, refused.value.code) == (
        413 if lie is Lie.OVERSIZE else 422,
        lie.code,
    )
    found = await fleet.admin.round("digits", 1)
    assert [(a.state, a.reason) for a in found.assignments] == [("refused", lie.code)]
    refusals = 'lamplighter_updates_total{outcome="refused",task="digits"}'
    assert await fleet.count(refusals) == 1
    await fleet.until_swept()
    with pytest.raises(Rejected, match="late"):  # its place went to somebody else
        await liar.announce(assignment, 10, digest_of(b""))


async def test_bytes_that_are_not_those_announced_are_asked_for_again(fleet: Serving):
    # A device's fault, or the coordinator's disk after a power cut: the place is kept.
    device = await fleet.device(LyingDevice, lie=Lie.WRONG_DIGEST)
    assignment = await device.take()
    data = device.write(assignment, weights(seed=3))
    with pytest.raises(Rejected, match="restart_upload"):
        await device.deliver(assignment, data)
    assert await device.announce(assignment, len(data), digest_of(data)) == 0
    assert (await device.append(assignment, 0, data)).state is UploadState.ACCEPTED


async def test_lies_leave_the_model_to_the_honest(served: Serving):
    await plan(goal=2, over_selection=10).create(served.admin)
    before = await served.model()
    for lie in Lie:
        liar = await served.device(LyingDevice, lie=lie)
        with pytest.raises(Rejected):
            await liar.serve(constant(1e6))
    for device in await served.devices(2):
        await device.serve(constant(0.5))
    await served.round_ends(1)
    after = await served.model()
    np.testing.assert_allclose(after["w"], before["w"] + 0.5, rtol=1e-5)


async def test_another_devices_assignment_is_unknown(fleet: Serving):
    owner, thief = await fleet.devices(2)
    assignment, data = await announced(owner)
    for attempt in (
        thief.announce(assignment, len(data), digest_of(data)),
        thief.append(assignment, 0, data),
        thief.give_up(assignment),
    ):
        with pytest.raises(Rejected, match="unknown_assignment"):
            await attempt
    with pytest.raises(Rejected) as refused:
        await thief.held(assignment)
    assert refused.value.status == 404
    assert (await owner.append(assignment, 0, data)).state is UploadState.ACCEPTED


async def test_an_update_that_was_trained_again_replaces_the_one_half_sent(fleet: Serving):
    device = await fleet.device()
    assignment, data = await announced(device)
    await device.append(assignment, 0, data[:100])
    other = device.write(assignment, weights(seed=4))
    assert await device.announce(assignment, len(other), digest_of(other)) == 0
    await device.deliver(assignment, other)
    assert await fleet.states() == {device.id: "accepted"}


async def test_a_request_left_over_from_the_old_update_spoils_nothing(fleet: Serving):
    device = await fleet.device()
    assignment, data = await announced(device)
    async with connected(fleet) as connection:
        await connection.request(
            "PATCH", update_path(assignment), patch_headers(device, 0, len(data)), data[:100]
        )
        await asyncio.sleep(0.02)
        other = device.write(assignment, weights(seed=4))
        await device.announce(assignment, len(other), digest_of(other))
        await connection.send(data[100:])
        await asyncio.sleep(0.02)
    await device.deliver(assignment, other)
    assert await fleet.states() == {device.id: "accepted"}
