"""Routes for the administrator: tasks, rounds, devices, tokens, models. JSON, behind a token."""

import asyncio
import re
from datetime import timedelta

import msgspec
from aiohttp import web

from coordinator.errors import Denied, NotFound, Refused
from coordinator.http.common import body, coordinator_of, for_admin, json_answer, message
from coordinator.http.device import send_blob
from coordinator.service import Coordinator
from coordinator.services import Services
from coordinator.store import handing, journal, rounds
from coordinator.store.handing import Trouble
from coordinator.store.journal import Place
from coordinator.store.records import RoundRecord
from coordinator.store.sql import Store
from coordinator.task import Task
from coordinator.views import (
    LONGEST_LIFETIME,
    MOST_USES,
    DevicePage,
    DeviceView,
    NewTask,
    NewToken,
    OutcomeView,
    RoundSummary,
    RoundView,
    TaskDetail,
    TaskView,
    Token,
    assignment_view,
    standing_view,
    summary,
)
from wire.digest import DIGEST_PATTERN, digest_of
from wire.plan import PLAN_FILE_LIMIT

_ROUNDS_SHOWN = 100
_LAST_ROUNDS, _MOST_ROUNDS = 20, 1000
_MOST_VERSIONS = 10**9 - 1
_PAGE, _MOST = 1000, 5000  # assignments or devices of a page


async def tasks(request: web.Request) -> web.StreamResponse:
    """GET /v1/admin/tasks."""
    coordinator = coordinator_of(request)
    return json_answer([await _view(coordinator, t) for t in coordinator.tasks.values()])


async def task(request: web.Request) -> web.StreamResponse:
    """GET /v1/admin/tasks/{task}."""
    coordinator, found = coordinator_of(request), await _task(request)
    store, deadline = coordinator.services.store, found.terms.policy.deadline
    last = await store.read(rounds.rounds, found.name, _ROUNDS_SHOWN)
    view = await _view(coordinator, found, _ROUNDS_SHOWN)
    now = store.now()
    summaries = [summary(row, deadline, now, trouble=await _trouble(store, row)) for row in last]
    return json_answer(TaskDetail(task=view, definition=found.record.definition, rounds=summaries))


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


async def rounds_(request: web.Request) -> web.StreamResponse:
    """GET /v1/admin/tasks/{task}/rounds?last=N: the last rounds, oldest first."""
    services, found = coordinator_of(request).services, await _task(request)
    last = _number(request, "last", _LAST_ROUNDS, _MOST_ROUNDS)
    return json_answer(
        [
            await _summary(services, found, row)
            for row in await services.store.read(rounds.rounds, found.name, last)
        ]
    )


async def round_(request: web.Request) -> web.StreamResponse:
    """GET /v1/admin/tasks/{task}/rounds/{number}?after=ID&limit=N: who did what, when."""
    coordinator, found = coordinator_of(request), await _task(request)
    services, number = coordinator.services, int(request.match_info["number"])
    after, limit = request.query.get("after", ""), _number(request, "limit", _PAGE, _MOST)
    record = await services.store.read(rounds.round_record, found.name, number)
    if record is None:
        raise NotFound("unknown_round", f"task {found.name} has had {found.round.number} rounds")
    places = await services.store.read(journal.places, found.name, number, after, limit)
    outcomes = await services.store.read(journal.outcomes, found.name, number)
    shown, now = await _summary(services, found, record), services.store.now()
    return json_answer(
        RoundView(
            round=shown,
            outcomes=[OutcomeView(**outcome._asdict()) for outcome in outcomes],
            assignments=[assignment_view(_seen(coordinator, p), shown, now) for p in places],
            after=places[-1].id if len(places) == limit else None,
        )
    )


async def evaluations(request: web.Request) -> web.StreamResponse:
    """GET /v1/admin/tasks/{task}/evaluations?last=N&before=VERSION: what devices say."""
    coordinator, found = coordinator_of(request), await _task(request)
    await found.refresh(coordinator.services.store)
    last = _number(request, "last", _LAST_ROUNDS, _MOST_ROUNDS)
    before = _number(request, "before", _MOST_VERSIONS, _MOST_VERSIONS)
    return json_answer(await coordinator.evaluations.last(found, last, before))


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
    """GET /v1/admin/devices?after=ID&limit=N&resting=1."""
    coordinator = coordinator_of(request)
    store, known = coordinator.services.store, coordinator.devices
    limit, now = _number(request, "limit", _PAGE, _MOST), store.now()
    resting = request.query.get("resting") == "1"
    found = await store.read(journal.devices, request.query.get("after", ""), limit, resting)
    standings = await store.read(journal.standings, found)
    views = [
        DeviceView(
            id=d.id,
            name=d.name,
            labels=d.labels,
            facts=d.facts,
            seen=max(0.0, now - known.last_seen(d)),
            standings=[standing_view(row, now) for row in standings.get(d.id, ())],
        )
        for d in found
    ]
    if resting:
        views = [view for view in views if any(s.rests for s in view.standings)]
    return json_answer(
        DevicePage(
            devices=views,
            population=known.population,
            after=found[-1].id if len(found) == limit else None,
        )
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
    if not (1 <= new.uses <= MOST_USES and 1 <= new.lifetime <= LONGEST_LIFETIME):
        raise Refused("bad_message", f"uses from 1 to {MOST_USES}, lifetime from 1 s to 366 days")
    made = await coordinator_of(request).devices.new_token(
        new.uses, timedelta(seconds=new.lifetime)
    )
    return json_answer(Token(token=made), status=201)


async def _task(request: web.Request) -> Task:
    return await coordinator_of(request).task(request.match_info["task"])


async def _view(coordinator: Coordinator, task: Task, versions: int = 2) -> TaskView:
    """With what devices say of the last so many versions."""
    store = coordinator.services.store
    await task.refresh(store)
    found = task.round
    evaluated = await coordinator.evaluations.last(task, versions)
    open_ = found.started is not None and found.ending is None
    return TaskView(
        name=task.name,
        state=task.record.state,
        plan=task.record.plan,
        model=task.model.digest,
        version=task.model.version,
        weights=task.manifest.weights,
        codec=task.codec,
        round=found.number,
        phase=str(found.phase),
        goal=task.file.round.goal,
        minimum=task.file.round.minimum,
        working=found.working,
        arrived=found.arrived,
        deadline=found.remaining(store.now()) if open_ else None,
        needs=task.aggregator.needs(task.file.round.goal),
        metrics={v.version: v.metrics for v in reversed(evaluated.versions)},
    )


async def _summary(services: Services, task: Task, row: RoundRecord) -> RoundSummary:
    selected = await services.store.read(journal.selected, task.name, row.number)
    gone = row.started is not None and not selected  # who was in it is not kept for ever
    now = services.store.now()
    return summary(
        row,
        task.terms.policy.deadline,
        now,
        None if gone else selected,
        await _trouble(services.store, row),
    )


async def _trouble(store: Store, row: RoundRecord) -> Trouble | None:
    """Why a round is still closing."""
    if row.phase != "closing":
        return None
    return await store.read(handing.trouble, row.task, row.number)


def _seen(coordinator: Coordinator, place: Place) -> Place:
    """With what this process alone knows yet of when the device checked in."""
    seen = coordinator.devices.seen_lately(place.device)
    return place if seen is None else msgspec.structs.replace(place, seen=max(seen, place.seen))


def _number(request: web.Request, name: str, default: int, most: int) -> int:
    """A whole number of the query, from 1 to `most`. Raises `Refused`."""
    text = request.query.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not 1 <= int(text) <= most:
        raise Refused("bad_message", f"{name}: from 1 to {most}, not {text[:40]!r}")
    return int(text)


def routes() -> list[web.RouteDef]:
    """This module's routes."""
    root = "/v1/admin"
    return [
        web.get(f"{root}/tasks", for_admin(tasks)),
        web.post(f"{root}/tasks", for_admin(create)),
        web.get(f"{root}/tasks/{{task}}", for_admin(task)),
        web.post(f"{root}/tasks/{{task}}/stop", for_admin(stop)),
        web.get(f"{root}/tasks/{{task}}/evaluations", for_admin(evaluations)),
        web.get(f"{root}/tasks/{{task}}/rounds", for_admin(rounds_)),
        web.get(f"{root}/tasks/{{task}}/rounds/{{number:\\d{{1,9}}}}", for_admin(round_)),
        web.get(f"{root}/tasks/{{task}}/models/{{version:\\d{{1,9}}}}", for_admin(model)),
        web.put(f"{root}/blobs/{{digest}}", for_admin(put_blob)),
        web.get(f"{root}/blobs/{{digest}}", for_admin(get_blob)),
        web.get(f"{root}/devices", for_admin(devices)),
        web.delete(f"{root}/devices/{{device}}", for_admin(remove)),
        web.post(f"{root}/tokens", for_admin(token)),
    ]
