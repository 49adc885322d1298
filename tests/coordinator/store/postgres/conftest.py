"""A PostgreSQL server for the tests of this folder, and a database for each."""

import os
from collections.abc import AsyncIterator, Iterator

import pytest
from blockbuster import BlockBuster

from coordinator.store.postgres import PostgresStore, open_postgres
from schedules.clock import SystemClock
from tests.postgres import NoPostgres, Server, let_asyncpg_connect, server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A running server. Tests that stop it have one of their own."""
    try:
        with server() as running:
            yield running
    except NoPostgres as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def asyncpg_connects(no_blocking_calls: BlockBuster) -> None:
    let_asyncpg_connect(no_blocking_calls)


@pytest.fixture
def url(postgres: Server) -> Iterator[str]:
    """An empty database."""
    with postgres.database() as made:
        yield made


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresStore]:
    async with open_postgres(url, "one", SystemClock()) as opened:
        yield opened


@pytest.fixture
def own(postgres: Server) -> Iterator[Server]:
    """A server that may be stopped; `postgres` has found that there are binaries."""
    with server() as running:
        yield running


@pytest.fixture
def own_url(own: Server) -> Iterator[str]:
    with own.database() as made:
        yield made
