"""Opening a coordinator: its store, its folders, its token; then its rounds run."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from coordinator import credentials
from coordinator.hand import open_hand
from coordinator.metrics import Metrics
from coordinator.service import Coordinator
from coordinator.services import Services
from coordinator.store.blobs import Blobs, BlobStore
from coordinator.store.parts import Parts
from coordinator.store.sql import Store, StoreError
from coordinator.store.sqlite import open_sqlite
from coordinator.store.watched import WatchedStore
from schedules.clock import Clock, SystemClock
from wire.files import write_durably

ADMIN_FILE = "admin.token"


@dataclass(frozen=True)
class StoreOptions:
    """Which store. `url` is a PostgreSQL server's; without one it is SQLite in the state folder.
    `shared`: other processes of this machine are over the same folder, and who started them holds
    its lock; `anchor`: their common clock, see `coordinator.store.sqlite`."""

    url: str | None = None
    shared: bool = False
    anchor: float | None = None


def admin_token(state: Path) -> str:
    """The administrator's token, in a file only its owner reads; made at the first start.

    Raises `StoreError` when the file is not one line of text.
    """
    path = state / ADMIN_FILE
    if not path.exists():
        write_durably(path, credentials.new_secret().encode())
    try:
        token = path.read_text().strip()
    except UnicodeDecodeError:
        token = ""
    if not token.isprintable() or not token:
        raise StoreError(f"{path} holds no token: delete it, and a new one is made")
    return token


@asynccontextmanager
async def open_coordinator(
    state: Path,
    clock: Clock | None = None,
    options: StoreOptions | None = None,
    *,
    apart: bool = False,
) -> AsyncIterator[Coordinator]:
    """The coordinator over the folder `state`, with its rounds running; it decodes and sums updates
    in a process `apart`, or in a thread. Raises `StoreError`."""
    clock, options = clock or SystemClock(), options or StoreOptions()
    node = credentials.new_id("node")
    async with AsyncExitStack() as stack:
        store, blobs = await _open_store(stack, state, node, clock, options)
        scratch, metrics = state / "scratch", Metrics()
        await asyncio.to_thread(_empty, scratch)
        services = Services(
            node=node,
            store=WatchedStore(store, metrics),
            blobs=blobs,
            parts=await asyncio.to_thread(Parts, state / "parts"),
            scratch=scratch,
            clock=clock,
            metrics=metrics,
            hand=await stack.enter_async_context(open_hand(apart)),
        )
        coordinator = Coordinator(services, await asyncio.to_thread(admin_token, state))
        await coordinator.load()
        async with coordinator.running():
            yield coordinator


async def _open_store(
    stack: AsyncExitStack, state: Path, node: str, clock: Clock, options: StoreOptions
) -> tuple[Store, Blobs]:
    if options.url is None:
        store = await stack.enter_async_context(
            open_sqlite(state, node, clock, shared=options.shared, anchor=options.anchor)
        )
        return store, await asyncio.to_thread(BlobStore, state / "blobs")
    try:
        from coordinator.store.postgres import PostgresBlobs, open_postgres
    except ImportError as error:
        raise StoreError(
            f"PostgreSQL needs one more package ({error.name}): pip install 'lamplighter[postgres]'"
        ) from None
    await asyncio.to_thread(state.mkdir, 0o700, parents=True, exist_ok=True)
    postgres = await stack.enter_async_context(open_postgres(options.url, node, clock))
    return postgres, await asyncio.to_thread(PostgresBlobs, postgres, state / "cache")


def _empty(folder: Path) -> None:
    """Blocking: what a process that was killed has left there is nobody's."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_file():
            path.unlink(missing_ok=True)
