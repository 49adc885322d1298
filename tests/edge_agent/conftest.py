"""A running coordinator, something between it and its devices, and their homes."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge_agent.state import Identity
from tests.coordinator.serving import Serving, serving
from tests.edge_agent.homes import Between, Home, Settle


@pytest.fixture
def between() -> Between:
    return Between()


@pytest.fixture
async def served(tmp_path: Path, between: Between) -> AsyncIterator[Serving]:
    async with serving(tmp_path / "coordinator", wrap=between.wrap) as running:
        yield running


@pytest.fixture
def home(tmp_path: Path, served: Serving) -> Settle:
    """Makes homes of newly enrolled devices."""

    async def settle(more: str = "") -> Home:
        device = await served.device()
        identity = Identity(url=served.url, device=device.id, secret=device.secret)
        folder = tmp_path / device.id[-10:]  # short: the path of a socket has 107 bytes at most
        return await asyncio.to_thread(Home, folder, served, identity, more)

    return settle
