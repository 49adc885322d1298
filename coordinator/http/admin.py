"""Routes for the administrator: tasks, rounds, devices, tokens, models. JSON, behind a token."""

import asyncio
import re
from datetime import timedelta

from aiohttp import web

from coordinator.errors import Denied, NotFound, Refused
from coordinator.http.common import body, coordinator_of, for_admin, json_answer, message
from coordinator.http.device import send_blob
from coordinator.service import Coordinator
from coordinator.store import rounds
from coordinator.store import tasks as stored
from coordinator.store.records import AssignmentRecord
from coordinator.task import Task
from coordinator.views import (
    AssignmentView,
    DeviceView,
    NewTask,
    NewToken,
    RoundView,
    TaskDetail,
    TaskView,
    Token,
    summarise,
    summary,
)
from wire.digest import DIGEST_PATTERN, digest_of
from wire.plan import PLAN_FILE_LIMIT

_MAX_LIFETIME = 366 * 86400.0
_ROUNDS_SHOWN = 100


async def tasks(request: web.Request) -> web.StreamResponse:
    """GET /v1/admin/tasks."""
    coordinator = coordinator_of(request)
    return json_answer([await _view(coordinator, t) for t in coordinator.tasks.values()])


async def task(request: web.Request) -> web.StreamResponse:
    """GET /v1/admin/tasks/{task}."""
    coordinator, found = coordinator_of(request), await _task(request)
    last = await coordinator.services.store.read(rounds.rounds, found.name, _ROUNDS_SHOWN)
    view = await _view(coordinator, found)
    return json_answer(
        TaskDetail(task=view, definition=found.record.definition, rounds=[*map(summary, last)])
    )


async def create(request: web.Request) -> web.StreamResponse:
    """POST /v1/admin/tasks, after its blobs were put."""
    coordinator, new = coordinator_of(request), await message(request, NewTask)
    if not all(re.match(DIGEST_PATTERN, d) for d in (new.plan, new.model)):
        raise Refused("bad_message", "plan and model are digests, 'sha256:...'")
    made = await coordinator.create_task(new.definition, new.plan, new.model)
    return json_answer(await _view(coordinator, made), status=201)


async def stop(request: web.Request) -> web.StreamResponse:
    """POST /v1/admin/tasks/{task}/stop."""
    coordinator = coordinator_of(request)
    stopped = await coordinator.stop(request.match_info["task"])
    return json_answer(await _view(coordinator, stopped))


async def round_(request: web.Request) -> web.StreamResponse:
    """GET /v1/admin/tasks/{task}/rounds/{number}: who did what, when."""
    services, found = coordinator_of(request).services, await _task(request)
    number = int(request.match_info["number"])
    record = await services.store.read(rounds.round_record, found.name, number)
    if record is None:
        raise NotFound("unknown_round", f"task {found.name} has had {found.round.number} rounds")
    rows = await services.store.read(rounds.assignments, found.name, number)
    start = record.started or record.opened
    return json_answer(
        RoundView(round=summary(record), assignments=[_assignment(row, start) for row in rows])
    )


async def model(request: web.Request) -> web.StreamResponse:
    """GET /v1/admin/tasks/{task}/models/{version}: a published model."""
    found, version = await _task(request), int(request.match_info["version"])
    store = coordinator_of(request).services.store
    return json_answer(found.published_as(await found.model_of(version, store)))


async def put_blob(request: web.Request) -> web.StreamResponse:
    """PUT /v1/admin/blobs/{digest}: a plan's manifest or file, or a first model."""
    digest = request.match_info["digest"]
    data = await body(request, PLAN_FILE_LIMIT)
    found = await asyncio.to_thread(digest_of, data)
    if found != digest:
        raise Refused("bad_digest", f"the body has the digest {found}")
    services = coordinator_of(request).services
    await services.blobs.put(data)
    return web.Response(status=204)


async def get_blob(request: web.Request) -> web.StreamResponse:
    """GET /v1/admin/blobs/{digest}."""
    return await send_blob(request, coordinator_of(request))


async def devices(request: web.Request) -> web.StreamResponse:
    """GET /v1/admin/devices."""
    coordinator = coordinator_of(request)
    now, found = coordinator.services.store.now(), coordinator.devices
    return json_answer(
        [
            DeviceView(
                id=d.id,
                name=d.name,
                labels=d.labels,
                facts=d.facts,
                seen=max(0.0, now - found.last_seen(d)),
            )
            async for page in found.all()
            for d in page
        ]
    )


async def remove(request: web.Request) -> web.StreamResponse:
    """DELETE /v1/admin/devices/{device}: as if the device had left by itself."""
    device = request.match_info["device"]
    try:
        return json_answer(await coordinator_of(request).leave(device))
    except Denied:
        raise NotFound("unknown_device", f"no device {device[:100]!r}") from None


async def token(request: web.Request) -> web.StreamResponse:
    """POST /v1/admin/tokens: an enrolment token."""
    new = await message(request, NewToken)
    if not (1 <= new.uses <= 1_000_000 and 0 < new.lifetime <= _MAX_LIFETIME):
        raise Refused("bad_message", "uses from 1 to 1000000, lifetime from 1 s to 366 days")
    made = await coordinator_of(request).devices.new_token(
        new.uses, timedelta(seconds=new.lifetime)
    )
    return json_answer(Token(token=made), status=201)


async def _task(request: web.Request) -> Task:
    return await coordinator_of(request).task(request.match_info["task"])


async def _view(coordinator: Coordinator, task: Task) -> TaskView:
    store = coordinator.services.store
    since = max(0, task.model.version - _ROUNDS_SHOWN)
    evaluations = await store.read(stored.evaluations, task.name, since)
    await coordinator.refresh(task)
    return TaskView(
        name=task.name,
        state=task.record.state,
        plan=task.record.plan,
        model=task.model.digest,
        version=task.model.version,
        weights=task.manifest.weights,
        round=task.round.number,
        phase=str(task.round.phase),
        goal=task.file.round.goal,
        minimum=task.file.round.minimum,
        working=task.round.working,
        arrived=task.round.arrived,
        deadline=task.round.remaining(store.now()) if task.round.started is not None else None,
        metrics=summarise(evaluations, {m.name: m.better for m in task.manifest.metrics}),
    )


def _assignment(row: AssignmentRecord, start: float) -> AssignmentView:
    return AssignmentView(
        id=row.id,
        device=row.device,
        state=row.state,
        reason=row.reason,
        detail=row.detail,
        assigned=row.assigned - start,
        ended=None if row.ended is None else row.ended - start,
        bytes=row.length,
        examples=row.examples,
        loss=row.loss,
    )


def routes() -> list[web.RouteDef]:
    """This module's routes."""
    root = "/v1/admin"
    return [
        web.get(f"{root}/tasks", for_admin(tasks)),
        web.post(f"{root}/tasks", for_admin(create)),
        web.get(f"{root}/tasks/{{task}}", for_admin(task)),
        web.post(f"{root}/tasks/{{task}}/stop", for_admin(stop)),
        web.get(f"{root}/tasks/{{task}}/rounds/{{number:\\d{{1,9}}}}", for_admin(round_)),
        web.get(f"{root}/tasks/{{task}}/models/{{version:\\d{{1,9}}}}", for_admin(model)),
        web.put(f"{root}/blobs/{{digest}}", for_admin(put_blob)),
        web.get(f"{root}/blobs/{{digest}}", for_admin(get_blob)),
        web.get(f"{root}/devices", for_admin(devices)),
        web.delete(f"{root}/devices/{{device}}", for_admin(remove)),
        web.post(f"{root}/tokens", for_admin(token)),
    ]
