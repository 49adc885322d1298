"""A private bus with the services that a desktop has, shared by a module's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge_agent.machine import Machine
from tests.edge_agent.signals.dbus import NETWORK, PrivateBus, need_dbusmock


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "root")


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateBus]:
    """A bus without any service."""
    need_dbusmock()
    running = PrivateBus(tmp_path_factory.mktemp("bus"))
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def desktop(bus: PrivateBus) -> PrivateBus:
    """A bus with UPower, NetworkManager and logind."""
    bus.mock("upower", "networkmanager", "logind")
    bus.add(NETWORK, Metered=("u", 0))
    return bus
