"""Updates that come too late: noted once each, so that the operator sees by how much."""

import logging

from coordinator.services import Services
from coordinator.store import journal
from coordinator.store.sql import StoreUnavailable

log = logging.getLogger(__name__)


async def note(services: Services, task: str, assignment: str) -> None:
    """The update of an assignment came though it can count no more. That its device is told so
    does not depend on this."""
    try:
        late = await services.store.run(journal.came_late, assignment, services.store.now())
    except StoreUnavailable as error:
        log.warning("task %s: a late update is not noted: %s", task, error)
        return
    if late is not None:
        services.metrics.arrived(task, "late", late)
