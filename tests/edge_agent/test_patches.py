"""A device that has one version of a model and fetches the next: over HTTP from the real
coordinator, with what is there and what is damaged."""

import asyncio
import logging
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web

from coordinator import tidying
from edge_agent.cache import Cache
from edge_agent.errors import Interrupted, Offline
from edge_agent.state import StateFolder
from edge_agent.traffic import Allowance
from edge_agent.transport import Transport
from tests.coordinator.plans import plan
from tests.coordinator.serving import Serving
from tests.edge_agent.homes import Between, Settle
from wire import patch
from wire.digest import digest_of
from wire.messages import Published
from wire.plan import Parameter

LARGE = (Parameter(name="w", shape=(100, 100)),)


def few_change(seed: int) -> dict[str, np.ndarray]:
    """A delta that moves one weight in ten."""
    rng = np.random.default_rng(seed)
    return {"w": (rng.normal(0, 0.01, (100, 100)) * (rng.random((100, 100)) < 0.1)).astype("<f4")}


class Device:
    """A device's folder, and what it fetches into it. `had` is the model that it fetched last."""

    had: Published

    def __init__(self, served: Serving, folder: Path, secret: str) -> None:
        self.served = served
        self.state = StateFolder(folder)
        self.state.create()
        self.cache = Cache(self.state)
        self.secret = secret
        self.came = 0
        self._next = 1

    async def next_version(self) -> Published:
        """The coordinator publishes another model."""
        self.served.clock.leap(1.0)
        device = await self.served.device()
        await device.serve(few_change(self._next))
        await self.served.round_ends(self._next)
        self._next += 1
        return self.served.task().published

    async def fetch(self, model: Published, allowance: int | None = None) -> int:
        """Have a model, proved; the bytes that came, with all heads."""
        async with Transport(self.served.url, self.secret) as transport:
            transport.allowance = Allowance(both=allowance)
            try:
                await self.cache.fetch(transport, model.plan, model.model)
            finally:
                self.came = transport.moved.down
        path = await asyncio.to_thread(self.cache.model, model.model)
        assert digest_of(await asyncio.to_thread(path.read_bytes)) == model.model
        self.had = model
        return self.came

    async def keep_only(self, *models: Published) -> None:
        plans, digests = {m.plan for m in models}, {m.model for m in models}
        await asyncio.to_thread(self.cache.keep_only, plans, digests)

    async def note(self, text: bytes) -> None:
        """Start anew, with this for the note of the last model."""
        for folder in {self.state.cached_models, self.state.volatile_models}:
            for note in await asyncio.to_thread(lambda f=folder: list(f.glob("*.last"))):
                await asyncio.to_thread(note.write_bytes, text)
        self.cache = Cache(self.state)

    async def models(self) -> set[str]:
        """The digests of the models that are kept."""
        found = await asyncio.to_thread(
            lambda: list(self.state.cached_models.glob("*.safetensors"))
        )
        return {f"sha256:{path.stem}" for path in found}


@pytest.fixture
async def device(served: Serving, tmp_path: Path) -> Device:
    """One that has version 0 of a task's model."""
    await plan(parameters=LARGE, goal=1, over_selection=1.0).create(served.admin)
    secret = (await served.device()).secret
    made = await asyncio.to_thread(Device, served, tmp_path / "state", secret)
    await made.fetch(served.task().published)
    return made


def bases(between: Between) -> list[str]:
    """What each later request for a blob says of the model that the device has."""
    asked: list[str] = []

    def look(request: web.Request) -> None:
        if "/blobs/" in request.path:
            asked.append(request.headers.get(patch.AVAILABLE, ""))

    between.answer = look
    return asked


async def test_a_device_with_the_version_before_is_sent_what_changed(
    device: Device, tmp_path: Path
):
    first, second = device.had, await device.next_version()
    little = await device.fetch(second)
    other = await asyncio.to_thread(Device, device.served, tmp_path / "other", device.secret)
    await other.fetch(first)  # with the plan
    await other.note(b"")  # it remembers nothing
    much = await other.fetch(second)
    assert little < much / 3
    sent = await device.served.count("lamplighter_download_patch_bytes_total")
    assert sent < little < sent + 2000  # the answer's head, and packets'


async def test_version_after_version_comes_so(device: Device):
    for _ in range(3):
        model = await device.next_version()
        assert await device.fetch(model) < 10_000
        await device.keep_only(model)
    assert await device.models() == {model.model}


async def test_a_device_that_sat_out_some_versions_is_sent_what_changed_since(device: Device):
    await device.next_version()
    assert await device.fetch(await device.next_version()) < 15_000


async def test_a_base_that_the_coordinator_has_no_more_brings_all_of_it(
    device: Device, monkeypatch: pytest.MonkeyPatch
):
    model, served = await device.next_version(), device.served
    monkeypatch.setattr(tidying, "MODELS_KEPT", 1)
    await tidying.tidy_models(served.coordinator.services, served.coordinator.tasks)
    assert await device.fetch(model) > 30_000


@pytest.mark.parametrize("damage", ["cut short", "rubbish", "another model", "nothing"])
async def test_a_damaged_patch_is_followed_by_all_of_it_once(
    device: Device, between: Between, caplog: pytest.LogCaptureFixture, damage: str
):
    model, blobs = await device.next_version(), device.served.coordinator.services.blobs
    asked: list[str] = []
    old = await blobs.get(device.had.model)
    good = patch.make(old, await blobs.get(model.model))
    bodies = {
        "cut short": good[:-1],
        "rubbish": b"\xff" * 5000,
        "another model": patch.make(old, old[::-1]),
        "nothing": b"",
    }

    def damaged(request: web.Request) -> web.Response | None:
        if "/blobs/" not in request.path:
            return None
        asked.append(request.headers.get(patch.AVAILABLE, ""))
        if not asked[-1]:
            return None
        return web.Response(body=bodies[damage], headers={"Content-Encoding": patch.CODING})

    between.answer = damaged
    with caplog.at_level(logging.WARNING):
        came = await device.fetch(model)
    assert [bool(base) for base in asked] == [True, False]
    assert came > 30_000 + len(bodies[damage])  # both count
    assert "the whole model is fetched" in caplog.text


async def test_a_base_that_is_damaged_on_the_device_is_followed_by_all_of_it(device: Device):
    model = await device.next_version()
    path = await asyncio.to_thread(device.cache.model, device.had.model)
    await asyncio.to_thread(path.write_bytes, b"rot" * 1000)
    assert await device.fetch(model) > 30_000


async def test_a_base_that_is_gone_is_not_spoken_of(device: Device, between: Between):
    model = await device.next_version()
    path = await asyncio.to_thread(device.cache.model, device.had.model)
    await asyncio.to_thread(path.unlink)
    asked = bases(between)
    await device.fetch(model)
    assert asked == [""]


async def test_a_patch_that_nobody_asked_for_is_not_taken(device: Device, between: Between):
    def unasked(request: web.Request) -> web.Response | None:
        return web.Response(body=b"x" * 8, headers={"Content-Encoding": patch.CODING})

    between.answer = unasked
    async with Transport(device.served.url, device.secret) as transport:
        with pytest.raises(Offline, match="damaged"):
            await transport.blob(digest_of(b"y"), 1000)


async def test_one_that_the_day_s_traffic_does_not_hold_is_not_begun(device: Device):
    model = await device.next_version()
    with pytest.raises(Interrupted):
        await device.fetch(model, allowance=2000)
    assert device.came < 6000  # what was on its way may come
    assert await device.models() == {device.had.model}


# What is kept


async def test_the_last_model_stays_until_the_next_one_is_here(device: Device):
    first, second = device.had, await device.next_version()
    await device.keep_only(second)  # it was told of, and is not here yet
    assert await device.models() == {first.model}
    third = await device.next_version()
    await device.keep_only(third)
    assert await device.models() == {first.model}
    await device.fetch(third)
    assert await device.models() == {third.model}


async def test_a_model_that_work_still_needs_stays_when_the_next_one_is_here(device: Device):
    first, second = device.had, await device.next_version()
    await device.keep_only(first, second)
    await device.fetch(second)
    assert await device.models() == {first.model, second.model}


async def test_nothing_stays_of_a_plan_that_is_not_wanted(device: Device):
    first = device.had
    await device.keep_only()
    assert await device.models() == set()
    assert await device.fetch(first) > 30_000


async def test_an_agent_fetches_its_next_model_so(served: Serving, home: Settle, between: Between):
    await plan(parameters=LARGE, goal=1, over_selection=1.0).create(served.admin)
    one = await home()
    one.trainer.delta = few_change(1)
    asked = bases(between)
    await one.until(lambda: served.task().model.version >= 2)
    assert any(asked)
    assert await served.count("lamplighter_download_patch_bytes_total") > 0


async def test_an_agent_that_starts_anew_knows_what_is_there(device: Device):
    model = await device.next_version()
    device.cache = Cache(device.state)
    await device.keep_only(model)  # at its first check-in
    assert await device.fetch(model) < 10_000
    assert await device.models() == {model.model}


@pytest.mark.parametrize("text", [b"", b"sha256:..", b"sha256:" + b"0" * 64, b"\xff"])
async def test_a_damaged_note_of_the_last_model_brings_all_of_it(device: Device, text: bytes):
    model = await device.next_version()
    await device.note(text)
    assert await device.fetch(model) > 30_000
