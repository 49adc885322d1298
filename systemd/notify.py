"""Tell systemd how the service fares: ready, reloading, stopping, a status line, alive.

The protocol of sd_notify(3): datagrams of `NAME=value` lines to the socket that `NOTIFY_SOCKET`
names. Without one every call does nothing. No call raises, and none blocks.
"""

import asyncio
import faulthandler
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager

_LONGEST_STATUS = 500


class Notifier:
    """One process's word to systemd. Made by `of_environment`; close it at the end."""

    def __init__(self, address: str | None, watchdog_seconds: float | None = None) -> None:
        """`address`: a path, or a name that starts with `@` (abstract). `watchdog_seconds`: how
        long systemd waits for a sign of life; `None` when it does not wait for any."""
        self.watchdog_seconds = watchdog_seconds
        self._status = ""
        self._owed: list[str] = []
        self._address = "" if address is None else address
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        self._socket: socket.socket | None = None
        if self._address.startswith(("/", "\0")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    @classmethod
    def of_environment(cls, environment: MutableMapping[str, str] | None = None) -> "Notifier":
        """As systemd's environment says. Its variables are taken out: a process that this one
        starts must not speak for it."""
        said = os.environ if environment is None else environment
        address = said.pop("NOTIFY_SOCKET", None)
        micros, pid = said.pop("WATCHDOG_USEC", ""), said.pop("WATCHDOG_PID", str(os.getpid()))
        watched = micros.isascii() and micros.isdigit() and pid == str(os.getpid())
        return cls(address, int(micros) / 1e6 if watched and int(micros) else None)

    def close(self) -> None:
        """Say nothing from here on."""
        if self._socket:
            self._socket.close()
            self._socket = None

    def ready(self) -> None:
        """The service does its work: the start, or a reload, is over."""
        self._say("READY=1")

    def reloading(self) -> None:
        """The configuration is being read anew; say `ready` after it."""
        self._say("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The end has begun."""
        self._say("STOPPING=1")

    def status(self, text: str) -> None:
        """The line that `systemctl status` shows. The same line is not sent twice."""
        line = "".join(c if c.isprintable() else " " for c in text)[:_LONGEST_STATUS]
        if line != self._status:
            self._status = line
            self._say(f"STATUS={line}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._say("WATCHDOG=1")

    async def watchdog(self, progress: Callable[[], bool] = lambda: True) -> None:
        """Feed the watchdog from the running loop, twice in its time, until cancelled.

        A loop that is wedged does not come here, and systemd restarts the service; nor is it fed
        while `progress()` says no. What the loop hangs on is then written to stderr.
        """
        if self.watchdog_seconds is None:
            return
        if not faulthandler.is_enabled():
            faulthandler.enable()  # systemd ends a wedged process with SIGABRT
        while True:
            if progress():
                self.alive()
            await asyncio.sleep(self.watchdog_seconds / 2)

    @asynccontextmanager
    async def speaking(self, status: Callable[[], str], every: float = 5.0) -> AsyncIterator[None]:
        """While the body runs: feed the watchdog, and send `status()` every so many seconds.
        Should `status` fail, the body is cancelled and the failure raised."""
        if self._socket is None:
            yield
            return
        try:
            async with asyncio.TaskGroup() as group:
                owned = [
                    group.create_task(self.watchdog(), name="watchdog"),
                    group.create_task(self._repeat(status, every), name="status line"),
                ]
                try:
                    yield
                finally:
                    for task in owned:
                        task.cancel()
        except BaseExceptionGroup as failures:
            # The first one is the body's own, or what had the body cancelled.
            raise failures.exceptions[0] from None

    async def _repeat(self, status: Callable[[], str], every: float) -> None:
        while True:
            self.status(status())
            await asyncio.sleep(every)

    def _say(self, *lines: str) -> None:
        """Send, or keep for the next time when systemd's queue is full. Signs of life are not
        kept: an old one would be a lie."""
        if self._socket is None:
            return
        self._owed += [line for line in lines if line not in self._owed]
        try:
            self._socket.sendto("\n".join(self._owed).encode(), self._address)
        except BlockingIOError:
            self._owed = [line for line in self._owed if line != "WATCHDOG=1"]
        except OSError:
            self._owed = []  # nobody listens: the service goes on
        else:
            self._owed = []
