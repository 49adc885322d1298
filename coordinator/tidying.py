"""Deleting, now and then, what nobody needs any more: uploads that were left half-way, models and
evaluations of long ago, processes that are dead. Each process does so, whoever comes first."""

import asyncio
import logging
from collections.abc import Mapping

from coordinator.services import Services
from coordinator.store import evaluations, outdated
from coordinator.store.sql import Store
from coordinator.task import Task
from coordinator.trying import Trying
from coordinator.uploads import Uploads

log = logging.getLogger(__name__)

MODELS_KEPT = 20
"""The last so many versions of a task's model are kept, and those that a device still works on."""

_UPLOADS_SECONDS = 30.0
_STALE_PART_SECONDS = 86400.0
_MODELS_SECONDS = 60.0
_DEAD_SECONDS = 86400.0  # after which a process's name is forgotten


async def keep_tidying_uploads(services: Services, uploads: Uploads) -> None:
    """Until cancelled."""
    trying = Trying("uploads that were left half-way are not deleted")
    while True:
        await asyncio.sleep(_UPLOADS_SECONDS)
        async with trying:
            await uploads.sweep()
            await asyncio.to_thread(services.parts.sweep, _STALE_PART_SECONDS)


async def keep_tidying_models(services: Services, tasks: Mapping[str, Task]) -> None:
    """Until cancelled."""
    trying = Trying("models of long ago are not deleted")
    while True:
        await asyncio.sleep(_MODELS_SECONDS)
        async with trying:
            await services.store.run(outdated.bury, services.store.now() - _DEAD_SECONDS)
            await tidy_models(services, tasks)
            await tidy_evaluations(services.store, tasks)


async def tidy_models(services: Services, tasks: Mapping[str, Task]) -> None:
    """Delete the models that nobody needs any more; and what is here of blobs that others have
    deleted."""
    plans = {task.record.plan for task in tasks.values()}
    plans |= {file.digest for task in tasks.values() for file in task.manifest.files.values()}
    for name in list(tasks):
        while found := await services.store.read(outdated.models, name, MODELS_KEPT):
            for digest in await services.store.read(outdated.unneeded, found) - plans:
                await services.blobs.remove(digest)
            await services.store.run(outdated.forget, found)
            versions = f"{found[0].version} to {found[-1].version}"
            log.info("task %s: models of versions %s are deleted", name, versions)
    await services.blobs.tidy()


async def tidy_evaluations(store: Store, tasks: Mapping[str, Task]) -> None:
    """What each device said of versions of long ago goes; what all of them said is kept."""
    for name, task in list(tasks.items()):
        while (oldest := await store.read(evaluations.oldest, name)) is not None:
            if oldest > task.model.version - evaluations.KEPT:
                break
            await store.run(evaluations.keep, await store.survey(evaluations.look, name, oldest))
            while await store.run(evaluations.clear, name, oldest):
                pass
