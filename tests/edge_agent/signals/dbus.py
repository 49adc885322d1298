"""A private system bus with mock services on it: real processes, a real protocol. All of it blocks.

python-dbusmock is Debian's, for Debian's Python; it comes with templates of the services.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jeepney import DBusAddress, MessageType, new_method_call
from jeepney.io.blocking import DBusConnection, open_dbus_connection

PYTHON = "/usr/bin/python3"
UPOWER = ("org.freedesktop.UPower", "/org/freedesktop/UPower", "org.freedesktop.UPower")
BATTERY = (
    "org.freedesktop.UPower",
    "/org/freedesktop/UPower/devices/DisplayDevice",
    "org.freedesktop.UPower.Device",
)
NETWORK = (
    "org.freedesktop.NetworkManager",
    "/org/freedesktop/NetworkManager",
    "org.freedesktop.NetworkManager",
)
LOGIN = (
    "org.freedesktop.login1",
    "/org/freedesktop/login1",
    "org.freedesktop.login1.Manager",
)
TIME = (
    "org.freedesktop.timedate1",
    "/org/freedesktop/timedate1",
    "org.freedesktop.timedate1",
)
Object = tuple[str, str, str]  # the service's name, the path, the interface

_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={folder}/socket</listen>
  <auth>EXTERNAL</auth>
  <servicedir>{folder}/services</servicedir>
  <policy context="default">
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
    <allow user="*"/>
  </policy>
</busconfig>
"""


def session(id_: str) -> Object:
    """A session of the login service."""
    return (LOGIN[0], f"/org/freedesktop/login1/session/{id_}", "org.freedesktop.login1.Session")


def need_dbusmock() -> None:
    """Skip the test where the mocks are not installed; CI has them."""
    mocks = (PYTHON, "-c", "import dbusmock")
    if (
        not shutil.which("dbus-daemon")
        or not shutil.which(PYTHON)
        or subprocess.run(mocks, capture_output=True, check=False, timeout=30).returncode
    ):
        say = "python3-dbusmock and dbus are not installed"
        if os.environ.get("CI"):
            pytest.fail(say)
        pytest.skip(say)


def until(fact: Callable[[], object], seconds: float = 10.0) -> None:
    """Until something is so."""
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end, "it never came to be so"
        time.sleep(0.01)


class PrivateBus:
    """A bus of its own in `folder`, and the mocks on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"unix:path={folder}/socket"
        self._daemon: subprocess.Popen[bytes] | None = None
        self._mocks: dict[str, subprocess.Popen[bytes]] = {}
        self._connection: DBusConnection | None = None
        (folder / "services").mkdir()
        (folder / "bus.conf").write_text(_CONFIG.format(folder=folder))

    def start(self) -> None:
        """The bus; its address stays the same whenever it is started again."""
        (self.folder / "socket").unlink(missing_ok=True)
        self._daemon = subprocess.Popen(
            (
                *("dbus-daemon", f"--config-file={self.folder}/bus.conf"),
                *("--nofork", "--nopidfile", "--print-address"),
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._daemon.stdout
        with self._daemon.stdout as said:
            assert said.readline(), "no bus came up"  # it says its address when it listens
        self._connection = open_dbus_connection(self.address)

    def stop(self) -> None:
        """The bus, and with it all that is on it."""
        if self._connection:
            self._connection.close()
            self._connection = None
        for process in (*self._mocks.values(), self._daemon):
            if process:
                process.kill()
                process.wait()
        self._mocks.clear()
        self._daemon = None

    def mock(self, *templates: str) -> None:
        """Start mocks of services by dbusmock's templates, side by side."""
        for template in templates:
            self._mocks[template] = subprocess.Popen(
                (PYTHON, "-m", "dbusmock", "--template", template),
                env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": self.address},
                stdout=subprocess.DEVNULL,
            )
        names = {"upower": UPOWER, "networkmanager": NETWORK, "logind": LOGIN, "timedated": TIME}
        for template in templates:
            until(lambda name=names[template]: self._answers(name))

    def unmock(self, template: str) -> None:
        """End a mock, as a service that crashes."""
        process = self._mocks.pop(template)
        process.kill()
        process.wait()

    def pause(self, template: str, stop: bool = True) -> None:
        """A mock stays on the bus and says nothing more, or goes on."""
        self._mocks[template].send_signal(signal.SIGSTOP if stop else signal.SIGCONT)

    def update(self, of: Object, **properties: tuple[str, Any]) -> None:
        """Set properties, each with its signature; the service announces them."""
        self._mock_call(of, "UpdateProperties", "sa{sv}", (of[2], properties))

    def add(self, of: Object, **properties: tuple[str, Any]) -> None:
        """Properties that a template lacks."""
        for name, value in properties.items():
            self._mock_call(of, "AddProperty", "ssv", (of[2], name, value))

    def emit(self, of: Object, member: str, signature: str, *body: tuple[str, Any]) -> None:
        """A signal of a service."""
        self._mock_call(of, "EmitSignal", "sssav", (of[2], member, signature, list(body)))

    def sessions(self, **seats: str) -> None:
        """Exactly these sessions, each active; `anna="seat0"`. They are announced."""
        listed = self.call(LOGIN, "ListSessions")[0]
        for id_, *_, path in listed:
            self._mock_call(LOGIN, "RemoveObject", "s", (path,))
            self.emit(LOGIN, "SessionRemoved", "so", ("s", id_), ("o", path))
        for number, (name, seat) in enumerate(seats.items(), 1):
            path = self._mock_call(
                LOGIN, "AddSession", "ssusb", (name, seat, 1000 + number, name, True)
            )[0]
            self.emit(LOGIN, "SessionNew", "so", ("s", name), ("o", path))

    def calls(self, of: Object, method: str) -> int:
        """How often a mock's method was called by anybody."""
        return len(self._mock_call(of, "GetMethodCalls", "s", (method,))[0])

    def has(self, name: str) -> bool:
        """Whether somebody runs a service."""
        bus = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
        return bool(self.call(bus, "NameHasOwner", "s", (name,))[0])

    def call(
        self, of: Object, member: str, signature: str | None = None, body: tuple[Any, ...] = ()
    ) -> tuple[Any, ...]:
        """What a method answers."""
        assert self._connection
        name, path, interface = of
        message = new_method_call(DBusAddress(path, name, interface), member, signature, body)
        reply = self._connection.send_and_get_reply(message, timeout=10.0)
        assert reply.header.message_type is MessageType.method_return, (member, reply.body)
        return tuple(reply.body)

    def send(self, message: Any) -> None:
        """Any message at all, from somebody that is no service."""
        assert self._connection
        self._connection.send(message)

    def _answers(self, of: Object) -> bool:
        if not self.has(of[0]):
            return False
        try:
            everything = "org.freedesktop.DBus.Properties"
            return bool(self.call((of[0], of[1], everything), "GetAll", "s", (of[2],))[0])
        except AssertionError:  # its object comes after its name
            return False

    def _mock_call(
        self, of: Object, member: str, signature: str, body: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        return self.call((of[0], of[1], "org.freedesktop.DBus.Mock"), member, signature, body)
