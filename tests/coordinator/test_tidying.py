"""What nobody needs any more is deleted; what somebody may still need is not."""

import asyncio
import os
from pathlib import Path

import pytest

from coordinator import tidying
from coordinator.errors import NotFound
from coordinator.store import nodes, outdated, tasks
from tests.coordinator.plans import constant, plan, weights
from tests.coordinator.serving import Serving
from wire import checkpoint

KEPT = 2


@pytest.fixture(autouse=True)
def few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidying, "MODELS_KEPT", KEPT)


async def rounds(served: Serving, number: int, name: str = "digits") -> list[str]:
    """So many rounds, each of which moves the model; the digests of all models."""
    device = await served.device()
    digests = [served.task(name).model.digest]
    for _ in range(number):
        served.clock.leap(1.0)
        assignment = (await device.check_in(tasks=(name,))).assignment
        assert assignment is not None
        delta = constant(0.25 + len(digests))
        await device.deliver(assignment, device.write(assignment, delta))
        await served.round_ends(assignment.round, name)
        digests.append(served.task(name).model.digest)
    return digests


async def there(served: Serving, digests: list[str]) -> list[bool]:
    return [await served.coordinator.services.blobs.has(digest) for digest in digests]


async def tidy(served: Serving) -> None:
    await tidying.tidy_models(served.coordinator.services, served.coordinator.tasks)


async def test_the_last_models_are_kept_and_the_others_deleted(served: Serving):
    sections = "[aggregation]\nkind = 'fedavgm'"
    await plan(goal=1, over_selection=2, sections=sections).create(served.admin)
    source = await served.coordinator.services.blobs.source(served.task().record.plan)
    assert isinstance(source, Path)
    before = len(await asyncio.to_thread(os.listdir, source.parent))
    digests = await rounds(served, 5)
    assert all(await there(served, digests))
    await tidy(served)
    assert await there(served, digests) == [False] * (6 - KEPT) + [True] * KEPT
    # Each is two files, and so is its optimiser's state; the first model had none.
    left = await asyncio.to_thread(os.listdir, source.parent)
    assert len(left) == before - 2 + KEPT * 4
    assert (await served.admin.task("digits")).task.version == 5
    with pytest.raises(NotFound):
        await served.task().model_of(1, served.coordinator.services.store)
    await tidy(served)
    assert (await rounds(served, 1))[0] == digests[-1]


async def test_a_model_that_a_device_works_on_is_kept(served: Serving):
    await plan(goal=1, over_selection=3, sections="", late="fold", max_staleness=50).create(
        served.admin
    )
    slow = await served.device()
    assignment = await slow.take()
    digests = await rounds(served, 5)
    await tidy(served)
    assert await there(served, digests) == [True, False, False, False, True, True]
    await slow.deliver(assignment, slow.write(assignment, constant(1.0)))  # it counts
    await served.round_ends(6)
    await tidy(served)
    assert not (await there(served, digests))[0]


async def test_a_model_that_another_task_has_is_kept(served: Serving):
    initial = weights(seed=7)
    for name in ("alpha", "beta"):
        await plan(name, goal=1, over_selection=2, initial=initial).create(served.admin)
    assert served.task("alpha").model.digest == served.task("beta").model.digest
    digests = await rounds(served, 4, "alpha")
    await tidy(served)
    assert await there(served, digests) == [True, False, False, True, True]
    await rounds(served, 4, "beta")
    await tidy(served)
    assert not (await there(served, digests))[0]


async def test_it_happens_by_itself_and_forgets_dead_processes(served: Serving):
    await plan(goal=1, over_selection=2).create(served.admin)
    store = served.coordinator.services.store
    for node, age in (("dead", 90_000.0), ("lately", 3600.0)):
        await store.run(nodes.alive, node, "host", store.now() - age, 0.0)
    digests = await rounds(served, 4)
    served.clock.leap(61.0)
    for _ in range(400):
        if not (await there(served, digests))[2]:
            break
        await asyncio.sleep(0.005)
    assert await there(served, digests) == [False, False, False, True, True]
    known = await store.run(nodes.alive, "lately", "host", store.now(), 0.0)
    assert "dead" not in known
    assert "lately" in known


async def test_a_crash_in_between_is_made_good_by_the_next_pass(
    served: Serving, monkeypatch: pytest.MonkeyPatch
):
    await plan(goal=1, over_selection=2).create(served.admin)
    digests = await rounds(served, 4)
    with monkeypatch.context() as patch:
        patch.setattr(outdated, "forget", None)
        with pytest.raises(TypeError):
            await tidy(served)
    assert not (await there(served, digests))[0]
    await tidy(served)
    found = await served.coordinator.services.store.read(outdated.models, "digits", KEPT)
    assert found == []


async def test_a_task_that_begins_with_what_another_has_just_outgrown_has_its_model(
    served: Serving, monkeypatch: pytest.MonkeyPatch
):
    made = plan("beta", goal=1)
    blobs, store = served.coordinator.services.blobs, served.coordinator.services.store
    digest = await blobs.put(made.initial)
    run = store.run

    async def and_deleted(transaction, *arguments):
        done = await run(transaction, *arguments)
        if transaction is tasks.create:
            await blobs.remove(digest)
        return done

    monkeypatch.setattr(store, "run", and_deleted)
    await made.create(served.admin)
    assert await blobs.has(digest)
    assert checkpoint.read(await blobs.get(digest), made.manifest.parameters)
