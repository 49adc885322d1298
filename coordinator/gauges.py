"""Gauges: how things stand at this moment, looked at now and then and whenever somebody asks."""

import asyncio
import logging
from typing import TYPE_CHECKING

from coordinator.store import evaluations
from coordinator.store.sql import StoreUnavailable
from coordinator.trying import Trying

if TYPE_CHECKING:
    from coordinator.service import Coordinator

log = logging.getLogger(__name__)

_LOOK_SECONDS = 5.0  # other processes answer for this one, from what it last wrote
_EVALUATIONS_EVERY = 12  # looks


def look(coordinator: "Coordinator") -> None:
    """Set every gauge that needs nothing from the store."""
    metrics, uploads = coordinator.services.metrics, coordinator.uploads
    now = coordinator.services.store.now()
    metrics.devices.set(coordinator.devices.population)
    metrics.uploading.set(uploads.under_way)
    for task in coordinator.tasks.values():
        metrics.stands(task.name, task.round, now, task.running)
        metrics.version.labels(task.name).set(task.model.version)
        if intake := uploads.intakes.get(task.name):
            metrics.intake_waiting.labels(task.name).set(intake.waiting)


async def keep_looking(coordinator: "Coordinator") -> None:
    """Until cancelled."""
    looks = 0
    trying = Trying("how things stand is not shown")
    while True:
        async with trying:
            look(coordinator)
            if looks % _EVALUATIONS_EVERY == 0:
                await look_at_evaluations(coordinator)
        looks += 1
        await asyncio.sleep(_LOOK_SECONDS)


async def look_at_evaluations(coordinator: "Coordinator") -> None:
    """What devices say of the newest model that some have evaluated."""
    services = coordinator.services
    try:
        for task in [task for task in coordinator.tasks.values() if task.running]:
            version = await services.store.read(evaluations.newest, task.name)
            if version is not None:
                found = await coordinator.evaluations.of(task, version)
                services.metrics.evaluates(task.name, version, found)
    except StoreUnavailable as error:
        log.warning("what devices say of models is not known: %s", error)
