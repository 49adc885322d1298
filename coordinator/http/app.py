"""The application: every route, health, and metrics."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from coordinator.errors import Unavailable
from coordinator.http import admin, device, uploads
from coordinator.http.common import COORDINATOR, coordinator_of, errors, for_admin
from coordinator.service import Coordinator


async def healthz(request: web.Request) -> web.StreamResponse:
    """GET /healthz: the process answers."""
    return web.Response(text="ok\n")


async def readyz(request: web.Request) -> web.StreamResponse:
    """GET /readyz: the store takes what is written, so devices can be served."""
    if not await coordinator_of(request).services.store.healthy():
        raise Unavailable("storage", "the store takes nothing now")
    return web.Response(text="ready\n")


async def metrics(request: web.Request) -> web.StreamResponse:
    """GET /metrics, with the admin token: Prometheus text."""
    registry = coordinator_of(request).services.metrics.registry
    return web.Response(
        body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
    )


def application(coordinator: Coordinator) -> web.Application:
    """The HTTP application over a running coordinator."""
    app = web.Application(middlewares=[errors])
    app[COORDINATOR] = coordinator
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz)])
    app.add_routes([web.get("/metrics", for_admin(metrics))])
    app.add_routes([*device.routes(), *uploads.routes(), *admin.routes()])
    return app
