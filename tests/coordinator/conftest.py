"""A running coordinator for the tests beside this file."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.coordinator.serving import Serving, serving


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Serving]:
    """A coordinator over an empty state folder."""
    async with serving(tmp_path / "state") as running:
        yield running
