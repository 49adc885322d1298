"""What systemd hears, on a real datagram socket."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from systemd.notify import Notifier


class Listener:
    """Stands where systemd does."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        """Every datagram since the last call."""
        found = []
        try:
            while True:
                found.append(self.socket.recv(65536).decode())
        except BlockingIOError:
            return found


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where systemd listens, as `NOTIFY_SOCKET` says it."""
    return f"{tmp_path}/notify" if request.param == "path" else f"@lamplighter-{os.getpid()}"


@pytest.fixture
def systemd(address: str) -> Iterator[Listener]:
    listener = Listener("\0" + address[1:] if address.startswith("@") else address)
    yield listener
    listener.socket.close()


@pytest.fixture
def notifier(address: str, systemd: Listener) -> Iterator[Notifier]:
    notifier = Notifier(address, watchdog_seconds=0.1)
    yield notifier
    notifier.close()


def test_each_state_is_said(notifier: Notifier, systemd: Listener):
    notifier.ready()
    notifier.reloading()
    notifier.ready()
    notifier.stopping()
    ready, reloading, again, stopping = systemd.heard()
    assert ready == again == "READY=1"
    assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert stopping == "STOPPING=1"


def test_a_status_is_one_line_of_bounded_length_and_sent_when_it_changes(
    notifier: Notifier, systemd: Listener
):
    for text in ("waiting: on battery", "waiting: on battery", "a\nREADY=1\x1b[m", "x" * 9999):
        notifier.status(text)
    assert systemd.heard() == [
        "STATUS=waiting: on battery",
        "STATUS=a READY=1 [m",
        "STATUS=" + "x" * 500,
    ]


def test_what_a_full_queue_did_not_take_is_said_later_but_no_old_sign_of_life(
    notifier: Notifier, systemd: Listener
):
    for _ in range(5000):
        notifier.alive()
    notifier.status("late")
    heard = systemd.heard()
    assert 0 < len(heard) < 5000
    assert "STATUS=late" not in heard
    notifier.ready()
    assert systemd.heard() == ["STATUS=late\nREADY=1"]


def test_nobody_who_listens_is_no_trouble(address: str, tmp_path: Path):
    for silent in (Notifier(address, 1.0), Notifier(None), Notifier("vsock:2:1234"), Notifier("")):
        silent.ready()
        silent.status("x")
        silent.close()
        silent.stopping()


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_environment_is_read_and_not_passed_on(said: dict[str, str], seconds: float | None):
    environment = {"NOTIFY_SOCKET": "/nowhere", "PATH": "/bin"} | said
    notifier = Notifier.of_environment(environment)
    assert notifier.watchdog_seconds == seconds
    assert environment == {"PATH": "/bin"}
    notifier.close()


async def test_the_loop_feeds_the_watchdog_twice_in_its_time(notifier: Notifier, systemd: Listener):
    async with notifier.speaking(lambda: "waiting"):
        await asyncio.sleep(0.23)
    heard = systemd.heard()
    assert heard.count("STATUS=waiting") == 1
    assert 2 <= heard.count("WATCHDOG=1") <= 5
    await asyncio.sleep(0.12)
    assert systemd.heard() == []


async def test_without_progress_it_is_not_fed(notifier: Notifier, systemd: Listener):
    progress = [True]
    feeding = asyncio.create_task(notifier.watchdog(lambda: progress[0]))
    await asyncio.sleep(0.02)
    progress[0] = False
    await asyncio.sleep(0.15)
    feeding.cancel()
    assert systemd.heard() == ["WATCHDOG=1"]


async def test_a_status_that_fails_is_raised_not_hidden(notifier: Notifier):
    def status() -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with notifier.speaking(status):
            await asyncio.sleep(5)


async def test_the_bodys_own_failure_is_raised_as_it_is(notifier: Notifier):
    with pytest.raises(KeyError):
        async with notifier.speaking(lambda: "x"):
            raise KeyError
