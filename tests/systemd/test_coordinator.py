"""The coordinator's process, as systemd sees it."""

import collections
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.coordinator.processes import served_process, stop


def test_it_is_ready_when_it_listens_alive_while_its_loop_turns_and_says_that_it_stops(
    tmp_path: Path,
):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        said = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        with served_process(tmp_path / "state", **said) as (process, endpoint):
            heard: list[str] = []
            while "READY=1" not in heard:
                heard.append(systemd.recv(4096).decode())
            port = int(endpoint.url.rpartition(":")[2])
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            assert "STATUS=tasks: 0; devices: 0" in heard
            while heard.count("WATCHDOG=1") < 3:
                heard.append(systemd.recv(4096).decode())

            # A process that does not get to run is not alive.
            process.send_signal(signal.SIGSTOP)
            systemd.settimeout(1.0)
            with pytest.raises(TimeoutError):  # after what was on its way
                collections.deque(iter(lambda: systemd.recv(4096), b""), maxlen=0)
            process.send_signal(signal.SIGCONT)

            assert stop(process, signal.SIGTERM) < 10
            systemd.setblocking(False)
            deadline = time.monotonic() + 5
            while "STOPPING=1" not in heard and time.monotonic() < deadline:
                heard.append(systemd.recv(4096).decode())
            assert "STOPPING=1" in heard
