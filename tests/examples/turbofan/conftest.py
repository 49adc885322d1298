from pathlib import Path

import pytest

from examples.turbofan import cmapss
from examples.turbofan.cmapss import Flights
from tests.examples.turbofan import engines


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NASA's four files, of five made-up engines each."""
    path = tmp_path_factory.mktemp("cmapss")
    engines.write(path, 5)
    return path


@pytest.fixture(scope="session")
def flights(folder: Path) -> Flights:
    """What is in them."""
    return cmapss.load(folder)
