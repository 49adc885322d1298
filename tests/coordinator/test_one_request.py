"""Uploads in one request: a POST that brings all of the bytes with it."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from coordinator.errors import TooLarge
from coordinator.uploads import Incoming
from edge_agent.errors import Offline, Rejected
from fleet.clients import Device, Lie, LyingDevice
from tests.coordinator.plans import constant, plan, weights
from tests.coordinator.raw import connected, post_headers, update_path
from tests.coordinator.serving import Serving
from wire.digest import digest_of
from wire.messages import Assignment, UploadState
from wire.plan import Parameter

BORDER = 64 << 10
"""Bytes of one upload that are kept in memory."""
LARGE = (Parameter(name="w", shape=(40_000,)),)


@pytest.fixture
async def fleet(served: Serving) -> Serving:
    """A coordinator with a task that waits for nine updates."""
    await plan(goal=9).create(served.admin)
    return served


async def taken(device: Device, seed: int = 3) -> tuple[Assignment, bytes]:
    assignment = await device.take()
    return assignment, device.write(assignment, weights(seed=seed))


async def trickle(data: bytes, size: int, pause: float = 0.0) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]
        await asyncio.sleep(pause)


def idle(served: Serving) -> bool:
    """Whether no upload is under way and none is in memory."""
    uploads = served.coordinator.uploads
    return (uploads.under_way, uploads._in_memory) == (0, 0)


async def test_a_small_update_is_accepted_at_once_and_touches_no_part(
    served: Serving, monkeypatch: pytest.MonkeyPatch
):
    await plan(goal=2).create(served.admin)
    before = await served.model()
    parts = served.coordinator.services.parts
    for name in ("announce", "write", "read"):
        monkeypatch.setattr(parts, name, None)  # whoever calls it fails
    for device in await served.devices(2):
        assignment = await device.take()
        sent = await device.send(assignment, device.write(assignment, constant(1.0)))
        assert sent.state is UploadState.ACCEPTED
    await served.round_ends(1)
    np.testing.assert_allclose((await served.model())["w"], before["w"] + 1.0, rtol=1e-6)
    assert idle(served)


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
async def test_it_may_come_in_pieces_of_any_size(fleet: Serving, size: int):
    device = await fleet.device()
    assignment, data = await taken(device)
    sent = await device.send(assignment, trickle(data, size), len(data), digest_of(data))
    assert (sent.state, sent.offset) == (UploadState.ACCEPTED, len(data))
    assert await fleet.states() == {device.id: "accepted"}


@pytest.mark.parametrize("size", [1 << 12, 1 << 16])
async def test_a_large_one_goes_over_its_part_and_leaves_none(served: Serving, size: int):
    await plan(goal=1, parameters=LARGE).create(served.admin)
    before = await served.model()
    device = await served.device()
    assignment = await device.take()
    delta = weights(LARGE, seed=3)
    data = device.write(assignment, delta)
    assert len(data) > 2 * BORDER
    sent = await device.send(assignment, trickle(data, size), len(data), digest_of(data))
    assert sent.state is UploadState.ACCEPTED
    await served.round_ends(1)
    moved = (await served.model())["w"] - before["w"]
    np.testing.assert_allclose(moved, delta["w"], rtol=1e-5, atol=1e-7)
    await served.until_swept()
    assert idle(served)


@pytest.mark.parametrize("sent", [1, 100])
@pytest.mark.parametrize("again", ["patch", "post"])
async def test_one_that_is_cut_in_the_middle_goes_on_or_is_sent_again(
    fleet: Serving, sent: int, again: str
):
    device = await fleet.device()
    assignment, data = await taken(device)
    async with connected(fleet) as connection:
        path = update_path(assignment)
        await connection.request("POST", path, post_headers(device, data), data[:sent])
        await asyncio.sleep(0.02)
        connection.cut()
    await fleet.until(lambda: idle(fleet))
    assert await device.held(assignment) == sent
    if again == "patch":
        done = await device.append(assignment, sent, data[sent:])
    else:
        done = await device.send(assignment, data)
    assert done.state is UploadState.ACCEPTED
    assert (await fleet.admin.tasks())[0].arrived == 1
    fleet.clock.leap(31.0)
    await fleet.until_swept()


async def test_a_large_one_that_is_cut_is_resumed_from_all_that_came(served: Serving):
    await plan(goal=1, parameters=LARGE).create(served.admin)
    device = await served.device()
    assignment = await device.take()
    data = device.write(assignment, weights(LARGE, seed=3))
    sent = BORDER + 1234
    async with connected(served) as connection:
        path = update_path(assignment)
        await connection.request("POST", path, post_headers(device, data), data[:sent])
        await asyncio.sleep(0.05)
        connection.cut()
    await served.until(lambda: idle(served))
    assert await device.held(assignment) == sent
    assert (await device.append(assignment, sent, data[sent:])).state is UploadState.ACCEPTED
    await served.round_ends(1)


async def test_one_that_falls_silent_is_given_up_and_keeps_what_came(fleet: Serving):
    device = await fleet.device()
    assignment, data = await taken(device)
    async with connected(fleet) as connection:
        path = update_path(assignment)
        await connection.request("POST", path, post_headers(device, data), data[:50])
        await asyncio.sleep(0.02)
        fleet.clock.leap(31.0)
        answer = await connection.read()
    assert (answer.status, answer.code) == (408, "cut")
    assert await device.held(assignment) == 50


async def test_fewer_bytes_than_announced_are_kept_and_said(fleet: Serving):
    device = await fleet.device()
    assignment, data = await taken(device)
    sent = await device.send(assignment, data[:70], len(data), digest_of(data))
    assert (sent.state, sent.offset) == (UploadState.INCOMPLETE, 70)
    assert await device.held(assignment) == 70
    assert (await device.append(assignment, 70, data[70:])).state is UploadState.ACCEPTED


async def test_more_bytes_than_announced_are_refused_and_the_place_is_kept(fleet: Serving):
    device = await fleet.device()
    assignment, data = await taken(device)
    with pytest.raises(Rejected, match="too_large"):
        await device.send(assignment, data, len(data) - 1, digest_of(data))
    assert idle(fleet)
    assert (await device.send(assignment, data)).state is UploadState.ACCEPTED


async def test_one_that_no_update_can_be_is_refused_for_good_before_its_bytes(fleet: Serving):
    device = await fleet.device()
    assignment, data = await taken(device)
    async with connected(fleet) as connection:
        told = post_headers(device, data, length=assignment.upload_limit + 1)
        await connection.request("POST", update_path(assignment), told)
        answer = await connection.read()
    assert (answer.status, answer.code) == (413, "too_large")
    assert await fleet.states() == {device.id: "refused"}


async def test_bytes_of_another_digest_are_asked_for_again(fleet: Serving):
    device = await fleet.device()
    assignment, data = await taken(device)
    with pytest.raises(Rejected, match="restart_upload"):
        await device.send(assignment, data, digest=digest_of(b"other"))
    assert (await device.send(assignment, data)).state is UploadState.ACCEPTED


@pytest.mark.parametrize("lie", [lie for lie in Lie if lie not in (Lie.WRONG_DIGEST, Lie.OVERSIZE)])
async def test_a_lie_is_refused_for_good(fleet: Serving, lie: Lie):
    liar = await fleet.device(LyingDevice, lie=lie)
    assignment = await liar.take()
    with pytest.raises(Rejected) as refused:
        await liar.send(assignment, liar.write(assignment, weights(seed=3)))
    assert (refused.value.status, refused.value.code) == (422, lie.code)
    assert await fleet.states() == {liar.id: "refused"}
    with pytest.raises(Rejected, match="late"):
        await liar.send(assignment, b"again")


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("goal", [1, 9])
async def test_copies_count_once(served: Serving, at_once: bool, goal: int):
    await plan(goal=goal).create(served.admin)
    before = await served.model()
    device = await served.device()
    assignment = await device.take()
    data = device.write(assignment, constant(1.0))
    if at_once:
        sent = await asyncio.gather(*(device.send(assignment, data) for _ in range(6)))
    else:
        sent = [await device.send(assignment, data) for _ in range(6)]
    assert {s.state for s in sent} == {UploadState.ACCEPTED}
    accepted = 'lamplighter_updates_total{outcome="accepted",task="digits"}'
    assert await served.count(accepted) == 1
    if goal == 9:
        served.clock.leap(3601.0)
    await served.round_ends(1)
    assert (await served.admin.task("digits")).rounds[0].updates == 1
    np.testing.assert_allclose((await served.model())["w"], before["w"] + 1.0, rtol=1e-6)


async def test_two_different_updates_of_one_assignment_count_as_one_of_them(served: Serving):
    await plan(goal=1).create(served.admin)
    before = await served.model()
    device = await served.device()
    assignment = await device.take()
    some = [device.write(assignment, constant(value)) for value in (1.0, 2.0)]
    await asyncio.gather(*(device.send(assignment, data) for data in some))
    await served.round_ends(1)
    moved = float(((await served.model())["w"] - before["w"]).mean())
    assert moved in (pytest.approx(1.0, rel=1e-5), pytest.approx(2.0, rel=1e-5))


async def test_a_late_one_is_refused_and_leaves_nothing(served: Serving):
    await plan(goal=2, deadline="10s").create(served.admin)
    device = await served.device()
    assignment, data = await taken(device)
    async with connected(served) as connection:
        path = update_path(assignment)
        await connection.request("POST", path, post_headers(device, data), data[:100])
        await asyncio.sleep(0.02)
        served.clock.leap(11.0)
        await served.round_ends(1)
        await connection.send(data[100:])
        answer = await connection.read()
    assert (answer.status, answer.code) == (409, "late")
    with pytest.raises(Rejected, match="late"):
        await device.send(assignment, data)
    await served.until_swept()


async def test_another_devices_assignment_is_unknown(fleet: Serving):
    owner, thief = await fleet.devices(2)
    assignment, data = await taken(owner)
    with pytest.raises(Rejected, match="unknown_assignment"):
        await thief.send(assignment, data)
    assert (await owner.send(assignment, data)).state is UploadState.ACCEPTED


async def test_one_that_breaks_off_on_the_device_is_offline_there_and_resumable_here(
    fleet: Serving,
):
    async def breaks(data: bytes) -> AsyncIterator[bytes]:
        yield data[:60]
        await asyncio.sleep(0.02)
        raise ConnectionResetError("the connection breaks here")

    device = await fleet.device()
    assignment, data = await taken(device)
    with pytest.raises(Offline):
        await device.send(assignment, breaks(data), len(data), digest_of(data))
    await fleet.until(lambda: idle(fleet))
    assert await device.held(assignment) == 60


# Memory


def incoming(served: Serving, name: str, data: bytes) -> Incoming:
    coordinator = served.coordinator
    return Incoming(coordinator.uploads, coordinator.services, name, len(data), digest_of(data))


@pytest.mark.parametrize("size", [0, 1, BORDER - 1, BORDER, BORDER + 1, 3 * BORDER])
@pytest.mark.parametrize("piece", [1000, BORDER, 4 * BORDER])
async def test_up_to_the_border_it_is_in_memory_and_from_there_in_its_part(
    served: Serving, size: int, piece: int
):
    data = np.random.default_rng(size).bytes(size)
    parts = served.coordinator.services.parts
    async with incoming(served, "digits-1", data) as upload:
        for start in range(0, size, piece):
            await upload.take(data[start : start + piece])
            assert served.coordinator.uploads._in_memory < BORDER
        found = await upload.whole()
    if size < BORDER:
        assert found == data
        assert await asyncio.to_thread(parts.held) == []
    else:
        assert found is None
        assert upload.position == size
        assert await asyncio.to_thread(parts.read, "digits-1", digest_of(data)) == data
    assert idle(served)


async def test_when_many_are_in_memory_each_keeps_little(served: Serving):
    data = np.random.default_rng(1).bytes(9000)
    uploads, parts = served.coordinator.uploads, served.coordinator.services.parts
    uploads.hold(32 << 20)  # the others'
    async with incoming(served, "digits-1", data) as upload:
        for start in range(0, len(data), 1000):
            await upload.take(data[start : start + 1000])
            assert uploads._in_memory - (32 << 20) < 2 << 10
        assert await upload.whole() is None
    uploads.hold(-(32 << 20))
    assert await asyncio.to_thread(parts.read, "digits-1", digest_of(data)) == data
    assert idle(served)


async def test_one_byte_too_many_is_not_taken_and_nothing_of_it_is_kept(served: Serving):
    data = bytes(100)

    async def too_many() -> None:
        async with incoming(served, "digits-1", data) as upload:
            await upload.take(data)
            await upload.take(b"x")

    with pytest.raises(TooLarge):
        await too_many()
    assert await asyncio.to_thread(served.coordinator.services.parts.held) == []
    assert idle(served)
