"""A folder of made-up digits."""

from pathlib import Path

import pytest

from tests.examples.mnist import made_up as digits


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four files."""
    folder = tmp_path_factory.mktemp("mnist")
    digits.write(folder)
    return folder
