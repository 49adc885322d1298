"""Devices that leave the fleet over real sockets: what goes, what stays, and what is under way."""

import asyncio
import random
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from coordinator.client import ClientError
from edge_agent.errors import Rejected
from edge_agent.transport import Transport
from fleet.clients import Device, NoWork
from tests.coordinator.plans import constant, plan
from tests.coordinator.raw import ask, connected, patch_headers, update_path
from tests.coordinator.serving import Serving, denied, serving
from tests.coordinator.test_http import DEVICE, check_in, filled
from wire.digest import digest_of
from wire.messages import Evaluation, Left

NOTHING = Left(dropped=0, published=0)


async def leave(device: Device) -> Left:
    async with Transport(device.url, device.secret) as transport:
        return await transport.leave()


def moved(after: dict, before: dict) -> float:
    """By how much every weight of a model has moved."""
    difference = after["w"] - before["w"]
    np.testing.assert_allclose(difference, difference.flat[0], rtol=1e-5)
    return float(difference.flat[0])


# What goes


@pytest.mark.parametrize("way", ["by itself", "by the administrator"])
async def test_nothing_is_known_of_a_device_that_left(served: Serving, tmp_path: Path, way: str):
    await plan(goal=2).create(served.admin)
    token = await served.admin.token(1, 60.0)
    device = await Device.enroll(served.url, token, name="kitchen", labels={"site": "north"})
    await device.serve(constant(1.0))
    said = Evaluation(task="digits", version=0, examples=9, metrics={"loss": 0.5, "accuracy": 0.5})
    await device.check_in(evaluations=(said,))
    gone = await (leave(device) if way == "by itself" else served.admin.remove(device.id))
    assert gone == Left(dropped=1, published=0)
    assert await served.admin.devices() == []
    detail = await served.admin.task("digits")
    assert (detail.task.arrived, detail.task.working, detail.task.metrics) == (0, 0, {})
    assert await served.states() == {}
    await served.until_swept()

    def files() -> bytes:
        return b"".join(p.read_bytes() for p in (tmp_path / "state").rglob("*") if p.is_file())

    held = await asyncio.to_thread(files)
    assert not [w for w in (device.id.encode(), b"kitchen", b"north") if w in held]


@pytest.mark.parametrize(("method", "path"), sorted(DEVICE))
async def test_the_credential_of_a_device_that_left_opens_nothing(
    served: Serving, method: str, path: str
):
    device = await served.device()
    assert await leave(device) == NOTHING
    answer = await ask(served, method, filled(path), credential=device.secret)
    assert answer.status == 401
    assert method == "HEAD" or answer.code == "unknown_device"


async def test_leaving_twice_is_told_apart_and_does_no_harm(served: Serving):
    one, two = await served.devices(2)
    answers = await asyncio.gather(*(leave(one) for _ in range(4)), return_exceptions=True)
    assert answers.count(NOTHING) == 1
    refused = [a for a in answers if isinstance(a, Rejected)]
    assert [a.code for a in refused] == ["unknown_device"] * 3
    with pytest.raises(ClientError, match="no device"):
        await served.admin.remove(one.id)
    assert [d.id for d in await served.admin.devices()] == [two.id]


@pytest.mark.parametrize("name", ["nobody", "..", "a/b", "%00", "x" * 200])
async def test_who_is_not_there_cannot_be_removed(served: Serving, name: str):
    with pytest.raises(ClientError, match="no device"):
        await served.admin.remove(name)
    path = f"/v1/admin/devices/{name.replace('%', '%25').replace('/', '%2f')}"
    answer = await ask(served, "DELETE", path, credential=served.token)
    assert answer.status == 404


async def test_its_place_is_another_s_at_once(served: Serving):
    await plan(goal=1, over_selection=1).create(served.admin)
    one, two = await served.devices(2)
    assignment = await one.take()
    with pytest.raises(NoWork):
        await two.take()
    await leave(one)
    assert (await two.take()).id != assignment.id


async def test_an_update_that_no_model_is_made_from_yet_is_dropped(served: Serving):
    await plan(goal=2).create(served.admin)
    before = await served.model()
    one, two, three = await served.devices(3)
    await one.serve(constant(100.0))
    assert await leave(one) == Left(dropped=1, published=0)
    await two.serve(constant(1.0))
    await three.serve(constant(3.0))
    await served.round_ends(1)
    assert moved(await served.model(), before) == pytest.approx(2.0, rel=1e-5)
    assert (await served.admin.round("digits", 1)).round.updates == 2


async def test_a_model_that_is_published_stays_as_it_is(served: Serving):
    await plan(goal=2).create(served.admin)
    one, two = await served.devices(2)
    await one.serve(constant(1.0))
    await two.serve(constant(1.0))
    await served.round_ends(1)
    published = served.task().model
    assert await leave(one) == Left(dropped=0, published=1)
    assert served.task().model == published
    view = await served.admin.round("digits", 1)
    assert view.round.updates == 2
    assert [a.device for a in view.assignments] == [two.id]


async def test_a_device_leaves_every_task_and_others_stay_in_theirs(served: Serving):
    for name in ("one", "two", "ended"):
        await plan(name, goal=2).create(served.admin)
    leaving, staying = await served.devices(2)
    for device in (leaving, staying):
        for _ in range(3):
            await device.serve(constant(1.0)) if device is leaving else await device.take()
    await served.admin.stop("ended")
    # What came to a task that was stopped is in no model, and is not to come into one.
    assert await leave(leaving) == Left(dropped=2, published=0)
    for name in ("one", "two"):
        assert served.task(name).round.arrived == 0
        assert await served.states(1, name) in ({}, {staying.id: "working"})


async def test_a_device_that_joins_again_is_a_new_one(served: Serving):
    await plan(goal=2).create(served.admin)
    device = await served.device()
    await device.serve(constant(1.0))
    await leave(device)
    again = await served.device()
    assert again.id != device.id
    await again.serve(constant(1.0))
    assert await served.states() == {again.id: "accepted"}


async def test_it_stays_gone_after_a_restart(tmp_path: Path):
    async with serving(tmp_path) as served:
        await plan(goal=2).create(served.admin)
        before = await served.model()
        one, two, three = await served.devices(3)
        await one.serve(constant(100.0))
        await two.serve(constant(1.0))
        await served.until(lambda: served.task().round.number == 2)
        await one.serve(constant(50.0))
        await leave(one)
        clock = served.clock
    async with serving(tmp_path, clock) as served:
        one.url = three.url = two.url = served.url
        with pytest.raises(Rejected, match="unknown_device"):
            await one.check_in()
        assert {d.id for d in await served.admin.devices()} == {two.id, three.id}
        first = await served.model()
        assert moved(first, before) == pytest.approx(50.5, rel=1e-5)
        await two.serve(constant(1.0))
        await three.serve(constant(1.0))
        await served.round_ends(2)
        assert moved(await served.model(), first) == pytest.approx(1.0, rel=1e-5)


# What is under way


@pytest.mark.parametrize("sent", [0, 100, -1])
async def test_an_upload_that_ends_after_its_device_left_is_refused_and_leaves_no_file(
    served: Serving, sent: int
):
    await plan(goal=2).create(served.admin)
    device = await served.device()
    assignment = await device.take()
    data = device.write(assignment, constant(1.0))
    await device.announce(assignment, len(data), digest_of(data))
    async with connected(served) as connection:
        headers = patch_headers(device, 0, len(data))
        await connection.request("PATCH", update_path(assignment), headers, data[:sent])
        await asyncio.sleep(0.02)
        assert await leave(device) == NOTHING
        await connection.send(data[sent:])
        answer = await connection.read()
    assert answer.status in (404, 409)
    assert answer.code in ("unknown_assignment", "not_announced")
    await served.until_swept()
    assert (await served.admin.task("digits")).task.arrived == 0


async def test_a_check_in_that_its_device_s_leaving_overtakes_is_refused(served: Serving):
    await plan(goal=2).create(served.admin)
    device = await served.device()
    body = check_in()
    async with connected(served) as connection:
        headers = {
            "Authorization": f"Bearer {device.secret}",
            "Content-Length": str(len(body)),
        }
        await connection.request("POST", "/v1/check-in", headers, body[:9])
        await asyncio.sleep(0.02)
        await leave(device)
        await connection.send(body[9:])
        answer = await connection.read()
    assert (answer.status, answer.code) == (401, "unknown_device")
    served.clock.leap(61.0)  # when devices were last seen is written now
    await asyncio.sleep(0.02)
    assert (await ask(served, "GET", "/readyz")).status == 200
    assert await served.admin.devices() == []


async def test_whatever_a_device_does_while_it_leaves_nothing_of_it_is_left(served: Serving):
    rng = random.Random(5)  # every errand at once, in any order
    await plan(goal=99).create(served.admin)
    said = Evaluation(task="digits", version=0, examples=9, metrics={"loss": 0.5, "accuracy": 0.5})
    for device in await served.devices(30):

        async def later(work, seconds):
            await asyncio.sleep(seconds)
            return await work

        errands = [
            later(device.serve(constant(1.0)), rng.uniform(0, 0.004)),
            later(device.check_in(evaluations=(said,)), rng.uniform(0, 0.008)),
            later(leave(device), rng.uniform(0, 0.012)),
        ]
        for found in await asyncio.gather(*errands, return_exceptions=True):
            if isinstance(found, NoWork):  # of two check-ins at once, one gets the place
                continue
            assert not isinstance(found, BaseException) or (
                isinstance(found, Rejected)
                and found.code in ("unknown_device", "unknown_assignment", "late")
            )
    detail = await served.admin.task("digits")
    assert (detail.task.arrived, detail.task.working, detail.task.metrics) == (0, 0, {})
    assert await served.states() == {}
    assert await served.admin.devices() == []
    served.clock.leap(31.0)  # what was sent at that very moment goes with the next sweep
    await served.until_swept()


async def test_a_round_that_closes_at_that_moment_has_the_update_or_has_it_not(served: Serving):
    rng = random.Random(6)
    await plan(goal=2).create(served.admin)
    for number in range(1, 21):
        before = await served.model()
        leaving, closing, last = await served.devices(3)
        await leaving.serve(constant(100.0))
        assignment = await closing.take()
        data = closing.write(assignment, constant(2.0))

        async def leaves(device: Device) -> Left:
            await asyncio.sleep(rng.uniform(0, 0.012))
            return await leave(device)

        left, _ = await asyncio.gather(leaves(leaving), closing.deliver(assignment, data))
        if left == Left(dropped=1, published=0):
            assert served.task().round.number == number
            await last.serve(constant(4.0))
        else:
            assert left == Left(dropped=0, published=1)
        await served.round_ends(number)
        by = 3.0 if left.dropped else 51.0
        assert moved(await served.model(), before) == pytest.approx(by, rel=1e-4)
        assert (await served.admin.round("digits", number)).round.updates == 2


# A disk that fails


async def test_a_leaving_that_cannot_be_journalled_changes_nothing(served: Serving):
    await plan(goal=2).create(served.admin)
    before = await served.model()
    one, two = await served.devices(2)
    await one.serve(constant(1.0))

    with denied(served, sqlite3.SQLITE_DELETE, "devices"), pytest.raises(Rejected) as failed:
        await leave(one)
    assert (failed.value.status, failed.value.code, failed.value.transient) == (
        503,
        "storage",
        True,
    )
    assert len(await served.admin.devices()) == 2
    await two.serve(constant(3.0))
    await served.round_ends(1)
    assert moved(await served.model(), before) == pytest.approx(2.0, rel=1e-5)
    assert await leave(one) == Left(dropped=0, published=1)
