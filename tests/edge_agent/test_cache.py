"""Plans and models that were fetched: where they are kept, and what is fetched again."""

import asyncio
import shutil
from pathlib import Path

import pytest
from aiohttp import web

from edge_agent.cache import MANIFEST_NAME, Cache
from edge_agent.errors import Rejected
from edge_agent.state import StateFolder
from edge_agent.transport import Transport
from tests.coordinator.plans import plan
from tests.coordinator.serving import Serving
from tests.edge_agent.homes import Between
from wire.digest import digest_of, hex_of
from wire.messages import Published


@pytest.fixture
async def model(served: Serving) -> Published:
    """A published model of a task."""
    await plan(goal=1).create(served.admin)
    return served.task().published


async def fetch(served: Serving, cache: Cache, model: Published) -> Path:
    """Have it; returns where the model is."""
    device = await served.device()
    async with Transport(served.url, device.secret) as transport:
        await cache.fetch(transport, model.plan, model.model)
    return await asyncio.to_thread(cache.model, model.model)


async def created(folder: Path, volatile: Path | None = None) -> StateFolder:
    state = StateFolder(folder / "state", volatile)
    await asyncio.to_thread(state.create)
    return state


async def test_a_small_model_is_kept_in_memory_and_its_plan_on_the_disk(
    served: Serving, model: Published, tmp_path: Path
):
    state = await created(tmp_path, tmp_path / "memory")
    found = await fetch(served, Cache(state), model)
    assert found.is_relative_to(tmp_path / "memory")
    assert digest_of(await asyncio.to_thread(found.read_bytes)) == model.model
    assert not await asyncio.to_thread(lambda: list(state.cached_models.iterdir()))
    assert await asyncio.to_thread((Cache(state).plan(model.plan) / MANIFEST_NAME).exists)


async def test_a_large_model_is_kept_on_the_disk(served: Serving, model: Published, tmp_path: Path):
    state = await created(tmp_path, tmp_path / "memory")
    found = await fetch(served, Cache(state, volatile_limit=10), model)
    assert found.parent == state.cached_models
    assert digest_of(await asyncio.to_thread(found.read_bytes)) == model.model


async def test_a_model_for_which_there_is_no_room_in_memory_is_kept_on_the_disk(
    served: Serving, model: Published, tmp_path: Path
):
    state = await created(tmp_path, tmp_path / "memory")
    aside = state.volatile_models / f".{hex_of(model.model)}.safetensors.new"
    await asyncio.to_thread(aside.symlink_to, "/dev/full")
    assert (await fetch(served, Cache(state), model)).parent == state.cached_models


async def test_a_folder_in_memory_that_is_gone_or_never_was_is_no_error(
    served: Serving, model: Published, tmp_path: Path
):
    state = await created(tmp_path, tmp_path / "memory")
    await asyncio.to_thread(shutil.rmtree, tmp_path / "memory")
    assert (await fetch(served, Cache(state), model)).parent == state.cached_models
    await asyncio.to_thread((tmp_path / "file").touch)
    never = await created(tmp_path / "other", tmp_path / "file")
    assert (await fetch(served, Cache(never), model)).parent == never.cached_models
    await asyncio.to_thread(Cache(never).keep_only, set[str](), set[str]())
    assert not await asyncio.to_thread(lambda: list(never.cached_models.iterdir()))


async def test_what_is_here_is_not_fetched_again(
    served: Serving, model: Published, tmp_path: Path, between: Between
):
    state = await created(tmp_path)
    before = await fetch(served, Cache(state), model)
    between.answer = lambda request: web.Response(status=503) if "/blobs/" in request.path else None
    assert await fetch(served, Cache(state), model) == before


async def test_a_plan_that_was_cut_off_is_fetched_from_there_on(
    served: Serving, model: Published, tmp_path: Path, between: Between
):
    state = await created(tmp_path)
    asked: list[str] = []

    def cut_off(request: web.Request) -> web.Response | None:
        if "/blobs/" not in request.path:
            return None
        asked.append(request.path)
        return web.Response(status=503) if len(asked) == 3 else None

    between.answer = cut_off
    with pytest.raises(Rejected):
        await fetch(served, Cache(state), model)
    first = list(asked)
    await fetch(served, Cache(state), model)
    manifest, complete, missing = first
    assert asked[3:].count(complete) == 0
    assert asked[3:].count(manifest) == asked[3:].count(missing) == 1


async def test_a_file_of_a_plan_that_is_damaged_is_fetched_again(
    served: Serving, model: Published, tmp_path: Path
):
    state = await created(tmp_path)
    cache = Cache(state)
    folder = cache.plan(model.plan)

    def damage() -> None:
        folder.mkdir()
        (folder / "train.onnx").write_bytes(b"half of it")

    await asyncio.to_thread(damage)
    await fetch(served, cache, model)
    assert b"train of" in await asyncio.to_thread((folder / "train.onnx").read_bytes)


async def test_a_plan_that_an_agent_of_another_version_fetched_is_refused_in_order(
    served: Serving, model: Published, tmp_path: Path
):
    state = await created(tmp_path)
    cache, strange = Cache(state), b'{"format": 99}'
    folder = cache.plan(digest_of(strange))

    def keep() -> None:
        folder.mkdir()
        (folder / MANIFEST_NAME).write_bytes(strange)

    await asyncio.to_thread(keep)
    other = Published(task="digits", version=1, plan=digest_of(strange), model=model.model)
    with pytest.raises(Rejected, match="this agent cannot read the plan"):
        await fetch(served, cache, other)


async def test_only_what_is_wanted_stays(served: Serving, model: Published, tmp_path: Path):
    state = await created(tmp_path, tmp_path / "memory")
    cache = Cache(state)
    found = await fetch(served, cache, model)
    old = (
        state.cached_models / f"{'0' * 64}.safetensors",
        state.volatile_models / f"{'0' * 64}.safetensors",
        state.volatile_models / f".{'0' * 64}.safetensors.new",
    )

    def prepare() -> None:
        for path in old:
            path.touch()
        (state.cached_plans / ("0" * 64)).mkdir()

    await asyncio.to_thread(prepare)
    await asyncio.to_thread(cache.keep_only, {model.plan}, {model.model})
    assert not await asyncio.to_thread(lambda: [path for path in old if path.exists()])
    assert await asyncio.to_thread(lambda: [p.name for p in state.cached_plans.iterdir()]) == [
        hex_of(model.plan)
    ]
    assert await asyncio.to_thread(found.exists)
