"""A mirror of what a few services of the system bus say, kept by their signals.

A bus or a service that is absent, refuses, dies or sends rubbish is just not there, and is tried
again. No service is started by asking, but for the one that runs only while somebody asks.
"""

import asyncio
import importlib
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from edge_agent.signals.services import (
    LOGIN,
    LOGIND,
    SERVICES,
    SESSION,
    SESSIONS,
    TIME,
    TIMEDATED,
    WANTED,
    BusError,
    Refused,
    Service,
    plain,
)
from edge_agent.signals.system import Properties
from schedules.backoff import Backoff

if TYPE_CHECKING:
    from edge_agent.signals.connection import Connection, Said

log = logging.getLogger(__name__)

_PROPERTIES = "org.freedesktop.DBus.Properties"
_BUS_PATH = "/org/freedesktop/DBus"
_BUS = "org.freedesktop.DBus"
_ANSWER_SECONDS = 3.0
_BETWEEN_SECONDS = 0.25  # two readings, at least
_STORM_SECONDS = 2.0  # the same while signals come faster than they are read
_LASTING_SECONDS = 60.0  # a connection that lasted so long was a good one
_MOST_SESSIONS = 64
_NOTHING: Properties = {}


class Bus:
    """The mirror. `run` keeps it; `changed` is called on the loop whenever it has changed.

    `ask_time`: whether to ask for the clock's state, too, which starts a service for a moment.
    Every answer is due in `seconds`.
    """

    def __init__(
        self,
        address: str,
        changed: Callable[[], None],
        ask_time: bool = False,
        seconds: float = _ANSWER_SECONDS,
        backoff: Backoff = Backoff(first=1.0, limit=300.0),  # noqa: B008 - it is immutable
    ) -> None:
        self._address = address
        self._changed = changed
        self._services = (*SERVICES, TIMEDATED) if ask_time else SERVICES
        self._seconds = seconds
        self._backoff = backoff
        self._mirror: dict[str, Properties] = {}
        self._owners: dict[str, Service] = {}  # by unique name
        self._due: dict[Service, float] = {}  # when to read a service again
        self._failures: dict[Service, int] = {}
        self._again: dict[Service, asyncio.TimerHandle] = {}
        self._dirty: set[Service] = set()
        self._storm = False
        self._work = asyncio.Event()
        self._settled = asyncio.Event()
        self._broken: Exception | None = None

    def properties(self, path: str) -> Properties:
        """Properties of an object, a snapshot; none when its service is not there. Any thread."""
        return self._mirror.get(path, _NOTHING)

    async def refresh(self) -> None:
        """Wait until the mirror shows all that is known now, for a bounded time. Raises
        `RuntimeError` when it is broken: what is not watched must not count as free."""
        if self._broken:
            raise RuntimeError("the system's services are not watched any more") from self._broken
        now = asyncio.get_running_loop().time()
        if due := [service for service, at in self._due.items() if at <= now]:
            self._reread(*due)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                await self._settled.wait()

    async def run(self) -> None:
        """Keep the mirror until cancelled."""
        try:
            await self._follow()
        except Exception as error:
            self._broken = error
            raise
        finally:
            self._settled.set()  # nothing comes any more, so nobody need wait for it

    async def _follow(self) -> None:
        """One connection after the other."""
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(importlib.import_module, "edge_agent.signals.connection")
        failures = 0
        while True:
            began = loop.time()
            try:
                await self._keep()
            except* BusError as errors:
                log.debug("%s", errors.exceptions[0])
            finally:
                self._forget()
            failures = 1 if loop.time() - began >= _LASTING_SECONDS else failures + 1
            self._settled.set()  # as it is now, for a while: no services
            await asyncio.sleep(self._backoff.delay(failures, random.random()))  # noqa: S311

    async def _keep(self) -> None:
        """Follow one connection to its end."""
        from edge_agent.signals.connection import connected

        self._settled.clear()
        async with (
            connected(self._address, self._seconds) as connection,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(connection.receive(self._said, self._lost))
            await connection.call(_BUS, _BUS_PATH, "Hello", _BUS)
            for service in self._services:
                for rule in _rules(service):
                    await connection.call(_BUS, _BUS_PATH, "AddMatch", _BUS, (rule,))
            self._reread(*self._services)
            while True:
                await self._work.wait()
                await self._read_dirty(connection)
                if not self._dirty:
                    self._settled.set()
                await asyncio.sleep(_STORM_SECONDS if self._storm else _BETWEEN_SECONDS)
                self._storm = False

    async def _read_dirty(self, connection: "Connection") -> None:
        self._work.clear()
        services, self._dirty = self._dirty, set()
        async with asyncio.TaskGroup() as group:  # side by side: a slow one keeps none waiting
            for service in services:
                group.create_task(self._read(connection, service))

    async def _read(self, connection: "Connection", service: Service) -> None:
        """All of a service anew."""
        try:
            found = await self._objects(connection, service)
        except BusError as error:
            log.debug("%s", error)
            self._replace(service, {})
            self._read_later(service)
            return
        self._replace(service, found)
        self._failures.pop(service, None)
        if service is TIMEDATED and found[TIME].get("NTPSynchronized") is True:
            self._due.pop(service, None)  # once set, a clock stays set
        else:
            self._due[service] = asyncio.get_running_loop().time() + service.every

    def _read_later(self, service: Service) -> None:
        """A service that failed is read again after a while, a longer one each time."""
        failures = self._failures[service] = self._failures.get(service, 0) + 1
        wait = self._backoff.delay(failures, random.random())  # noqa: S311
        if earlier := self._again.get(service):
            earlier.cancel()
        later = asyncio.get_running_loop().call_later
        self._again[service] = later(wait, self._reread, service)
        self._due.pop(service, None)

    async def _objects(self, connection: "Connection", service: Service) -> dict[str, Properties]:
        """Properties by path; none when nobody runs the service."""
        if not service.activated:
            try:
                match await connection.call(_BUS, _BUS_PATH, "GetNameOwner", _BUS, (service.name,)):
                    case (str(owner),):
                        self._owners[owner] = service
            except Refused:
                return {}
        found = {
            path: await _get_all(connection, service, path, interface)
            for path, interface in service.objects.items()
        }
        if service is LOGIND:
            sessions = await _sessions(connection)
            found[LOGIN] = {**found[LOGIN], SESSIONS: tuple(sessions)}
            found |= sessions
        return found

    def _replace(self, service: Service, found: Mapping[str, Properties]) -> None:
        kept = {p: m for p, m in self._mirror.items() if not _belongs(p, service)}
        self._set({**kept, **found})

    def _set(self, mirror: dict[str, Properties]) -> None:
        if mirror != self._mirror:
            self._mirror = mirror  # a new one: threads may be reading the old one
            self._changed()

    def _forget(self) -> None:
        """Without a bus there are no services."""
        for again in self._again.values():
            again.cancel()
        for known in (self._owners, self._due, self._failures, self._again, self._dirty):
            known.clear()
        self._set({})

    def _reread(self, *services: Service) -> None:
        self._dirty.update(services)
        self._settled.clear()
        self._work.set()

    def _lost(self) -> None:
        """Some signal was dropped, so nothing is certain."""
        self._storm = True
        self._reread(*self._services)

    def _said(self, said: "Said") -> None:
        """A signal came, from anybody: only a service's own count, and those of the bus."""
        if said.sender == _BUS:
            self._bus_said(said)
        elif (service := self._owners.get(said.sender)) is None:
            return
        elif said.interface == _PROPERTIES and said.member == "PropertiesChanged":
            self._properties_changed(service, said)
        elif service is LOGIND and said.path == LOGIN:
            self._reread(service)  # somebody came or went

    def _bus_said(self, said: "Said") -> None:
        match said.member, said.body:
            case "NameOwnerChanged", (str(name), str(old), str()):
                for service in self._services:
                    if service.name == name and not service.activated:
                        self._owners.pop(old, None)
                        self._replace(service, {})
                        self._reread(service)

    def _properties_changed(self, service: Service, said: "Said") -> None:
        """Apply it at once. Read the service again where that does not tell all: what is announced
        of a session is not all that has changed, and a reading under way may be older than this."""
        match said.body:
            case (str(interface), dict(changes), list(gone)) if interface in WANTED:
                wanted = WANTED[interface]
            case _:
                return
        known = said.path in self._mirror
        if interface != service.objects.get(said.path, SESSION if known else None):
            if service is LOGIND and interface == SESSION:
                self._reread(service)  # a session that is new to us
            return
        if known:
            changed = {n: plain(v) for n, v in changes.items() if n in wanted}
            self._set({**self._mirror, said.path: {**self._mirror[said.path], **changed}})
        if interface == SESSION or wanted.intersection(gone) or not self._settled.is_set():
            self._reread(service)


@asynccontextmanager
async def mirrored(
    address: str, changed: Callable[[], None], ask_time: bool = False
) -> AsyncIterator[Bus]:
    """A mirror that is kept; no task of it is left on the way out."""
    bus = Bus(address, changed, ask_time)
    running = asyncio.create_task(bus.run(), name="system bus")
    running.add_done_callback(_say_if_broken)
    try:
        yield bus
    finally:
        running.cancel()
        await asyncio.wait({running})
        if not running.cancelled():
            running.result()


def _say_if_broken(running: asyncio.Task[None]) -> None:
    """At once, for the way out may be far."""
    if not running.cancelled() and (error := running.exception()):
        log.error("the system's services are not watched any more", exc_info=error)


def _belongs(path: str, service: Service) -> bool:
    return path in service.objects or (service is LOGIND and path.startswith(LOGIN))


def _rules(service: Service) -> list[str]:
    """What the bus shall send us of a service."""
    if service.activated:
        return []
    sender = f"type='signal',sender='{service.name}'"
    rules = [
        f"type='signal',sender='{_BUS}',member='NameOwnerChanged',arg0='{service.name}'",
        *(
            f"{sender},interface='{_PROPERTIES}',path='{path}',arg0='{interface}'"
            for path, interface in service.objects.items()
        ),
    ]
    if service is LOGIND:
        manager = f"{sender},path='{LOGIN}',interface='{LOGIND.objects[LOGIN]}'"
        rules += [f"{manager},member='{member}'" for member in ("SessionNew", "SessionRemoved")]
        rules.append(f"{sender},interface='{_PROPERTIES}',arg0='{SESSION}'")
    return rules


async def _get_all(
    connection: "Connection", service: Service, path: str, interface: str
) -> Properties:
    """The properties of an object that are wanted."""
    match await connection.call(
        service.name, path, "GetAll", _PROPERTIES, (interface,), start=service.activated
    ):
        case (dict(found),):
            return {n: plain(v) for n, v in found.items() if n in WANTED[interface]}
    raise BusError(f"{service.name}: no properties of {path}")


async def _sessions(connection: "Connection") -> dict[str, Properties]:
    """The sessions' properties by path; one that has just ended is left out."""
    match await connection.call(LOGIND.name, LOGIN, "ListSessions", LOGIND.objects[LOGIN]):
        case (list(listed),):
            pass
        case _:
            raise BusError("no list of sessions")
    found: dict[str, Properties] = {}
    for entry in listed[:_MOST_SESSIONS]:
        match entry:
            case (_, _, _, _, str(path)) if path.startswith(f"{LOGIN}/session/"):
                with suppress(Refused):
                    found[path] = await _get_all(connection, LOGIND, path, SESSION)
    return found
