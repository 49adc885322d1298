"""The application: every route, health, and metrics."""

import asyncio

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from coordinator import gauges
from coordinator.errors import Unavailable
from coordinator.http import admin, device, uploads
from coordinator.http.common import (
    COORDINATOR,
    OUTAGE,
    coordinator_of,
    errors,
    for_admin,
    is_admin,
)
from coordinator.http.outage import Outage
from coordinator.service import Coordinator
from coordinator.store.sql import StoreUnavailable


async def healthz(request: web.Request) -> web.StreamResponse:
    """GET /healthz: the process answers."""
    return web.Response(text="ok\n")


async def readyz(request: web.Request) -> web.StreamResponse:
    """GET /readyz: the store takes what is written, so devices can be served. If not, the admin is
    told why: it names files and hosts."""
    try:
        await coordinator_of(request).services.store.check()
    except StoreUnavailable as error:
        why = str(error) if is_admin(request) else "the log and the admin token show why"
        raise Unavailable("storage", f"the store takes nothing now: {why}") from None
    return web.Response(text="ready\n")


async def metrics(request: web.Request) -> web.StreamResponse:
    """GET /metrics, with the admin token unless they are open: Prometheus text."""
    coordinator = coordinator_of(request)
    gauges.look(coordinator)
    text = await asyncio.to_thread(coordinator.services.metrics.text)
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})


def application(coordinator: Coordinator, metrics_open: bool = False) -> web.Application:
    """The HTTP application over a running coordinator. `metrics_open`: anybody may read those."""
    app = web.Application(middlewares=[errors])
    app[COORDINATOR] = coordinator
    app[OUTAGE] = Outage(asyncio.get_running_loop().time)
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz)])
    app.add_routes([web.get("/metrics", metrics if metrics_open else for_admin(metrics))])
    app.add_routes([*device.routes(), *uploads.routes(), *admin.routes()])
    return app
