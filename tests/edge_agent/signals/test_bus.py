"""The mirror of the system bus: services that come and go, a bus that dies, and those who lie."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from jeepney import DBusAddress, HeaderFields, new_signal

from edge_agent.signals.bus import Bus, mirrored
from edge_agent.signals.services import BATTERY, LOGIN, NETWORK, SESSIONS, TIME, UPOWER
from schedules.backoff import Backoff
from tests.edge_agent.signals import dbus
from tests.edge_agent.signals.dbus import PYTHON, PrivateBus, need_dbusmock

AT_ONCE = Backoff(first=0.02, limit=0.05)
PROPERTIES = "org.freedesktop.DBus.Properties"
Leap = Callable[[float], None]


@pytest.fixture
def own(tmp_path):
    """A bus that only this test has, not started yet."""
    need_dbusmock()
    bus = PrivateBus(tmp_path)
    yield bus
    bus.stop()


@pytest.fixture
async def leap() -> AsyncIterator[Leap]:
    """Time of the event loop goes on by so many seconds at once."""
    loop = asyncio.get_running_loop()
    real, ahead = loop.time, 0.0

    def leap(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    loop.time = lambda: real() + ahead  # type: ignore[method-assign]
    yield leap
    loop.time = real  # type: ignore[method-assign]


class Mirror(Bus):
    """One that wakes its test whenever it changes."""

    def __init__(self, address: str, seconds: float = 5.0, ask_time: bool = False) -> None:
        self._news = asyncio.Event()
        self.seen: set[object] = set()  # what it ever showed of UPower
        super().__init__(address, self._note, ask_time, seconds, AT_ONCE)

    def _note(self) -> None:
        self.seen.add(self.on_battery)
        self._news.set()

    async def until(self, fact: Callable[[], object], seconds: float = 10.0) -> None:
        """Until something is so. Only a change is a reason to look."""
        async with asyncio.timeout(seconds):
            while not fact():
                self._news.clear()
                await self._news.wait()

    @property
    def on_battery(self) -> object:
        return self.properties(UPOWER).get("OnBattery")


@asynccontextmanager
async def kept(mirror: Mirror) -> AsyncIterator[Mirror]:
    async with asyncio.TaskGroup() as group:
        running = group.create_task(mirror.run())
        try:
            yield mirror
        finally:
            running.cancel()


# Services


async def test_it_shows_what_the_services_say(desktop):
    await asyncio.to_thread(desktop.sessions, anna="seat0")
    async with kept(Mirror(desktop.address)) as mirror:
        await mirror.refresh()
        assert mirror.on_battery is False
        assert mirror.properties(BATTERY) == {"IsPresent": False, "Percentage": 0.0}
        assert mirror.properties(NETWORK) == {"Metered": 0, "Connectivity": 4, "State": 70}
        (path,) = mirror.properties(LOGIN)[SESSIONS]
        assert mirror.properties(path)["Name"] == "anna"
        assert mirror.properties(path)["Seat"] == "seat0"
        assert mirror.properties(TIME) == {}
        assert mirror.properties("/nothing") == {}


async def test_a_service_that_starts_later_dies_and_starts_again_is_followed(own):
    await asyncio.to_thread(own.start)
    async with kept(Mirror(own.address)) as mirror:
        await mirror.refresh()
        assert mirror.properties(UPOWER) == {}
        for _ in range(2):
            await asyncio.to_thread(own.mock, "upower")
            await mirror.until(lambda: mirror.on_battery is False)
            await asyncio.to_thread(own.update, dbus.UPOWER, OnBattery=("b", True))
            await mirror.until(lambda: mirror.on_battery is True)
            await asyncio.to_thread(own.unmock, "upower")
            await mirror.until(lambda: mirror.properties(UPOWER) == {})


async def test_a_service_that_hangs_is_not_there_and_holds_up_no_other(own):
    await asyncio.to_thread(own.start)
    await asyncio.to_thread(own.mock, "upower", "networkmanager")
    await asyncio.to_thread(own.pause, "upower")
    async with kept(Mirror(own.address, seconds=0.3)) as mirror:
        await mirror.refresh()
        await mirror.until(lambda: mirror.properties(NETWORK))
        assert mirror.properties(UPOWER) == {}
        await asyncio.to_thread(own.pause, "upower", False)
        await mirror.until(lambda: mirror.on_battery is False)


async def test_a_service_without_the_objects_is_not_there(own):
    await asyncio.to_thread(own.start)
    await asyncio.to_thread(own.mock, "upower", "networkmanager")
    mock = (dbus.BATTERY[0], dbus.BATTERY[1], "org.freedesktop.DBus.Mock")
    await asyncio.to_thread(own.call, mock, "RemoveObject", "s", (dbus.BATTERY[1],))
    async with kept(Mirror(own.address)) as mirror:
        await mirror.refresh()
        assert mirror.properties(UPOWER) == {}
        assert mirror.properties(NETWORK)


async def test_what_is_not_announced_is_asked_for_now_and_then(desktop, leap):
    await asyncio.to_thread(desktop.sessions)
    async with kept(Mirror(desktop.address)) as mirror:
        await mirror.refresh()
        quiet = ("b", True)
        mock = (*dbus.LOGIN[:2], PROPERTIES)
        await asyncio.to_thread(
            desktop.call, mock, "Set", "ssv", (dbus.LOGIN[2], "IdleHint", quiet)
        )
        await mirror.until(lambda: mirror.properties(LOGIN)["IdleHint"])
        # A session that comes without a word, as a terminal grows idle without one.
        mock = (*dbus.LOGIN[:2], "org.freedesktop.DBus.Mock")
        await asyncio.to_thread(
            desktop.call, mock, "AddSession", "ssusb", ("eve", "seat0", 7, "eve", True)
        )
        await mirror.refresh()
        assert mirror.properties(LOGIN)[SESSIONS] == ()
        leap(20.0)
        await mirror.refresh()
        assert mirror.properties(LOGIN)[SESSIONS] == ("/org/freedesktop/login1/session/eve",)


# Activation


def activated(own: PrivateBus, name: str, command: str) -> None:
    (own.folder / "services" / f"{name}.service").write_text(
        f"[D-BUS Service]\nName={name}\nExec={command}\nUser=root\n"
    )


async def test_no_service_is_started_by_asking(own):
    started = own.folder / "started"
    for name in (dbus.UPOWER[0], dbus.NETWORK[0], dbus.LOGIN[0], dbus.TIME[0]):
        await asyncio.to_thread(activated, own, name, f"/bin/sh -c 'touch {started}; exit 1'")
    await asyncio.to_thread(own.start)
    async with kept(Mirror(own.address)) as mirror:
        await mirror.refresh()
        assert mirror.properties(UPOWER) == {}
    asked = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
    with suppress(AssertionError):  # that this bus starts services at all: asked by us, it does
        await asyncio.to_thread(own.call, asked, "StartServiceByName", "su", (dbus.UPOWER[0], 0))
    assert await asyncio.to_thread(started.exists)
    await asyncio.to_thread(started.unlink)
    async with kept(Mirror(own.address)) as mirror:
        await mirror.refresh()
    assert not await asyncio.to_thread(started.exists)


async def test_the_clocks_service_is_started_to_ask_it_until_the_clock_is_set(own, leap):
    log = own.folder / "started"
    command = own.folder / "timedated"
    script = f"""#!/bin/sh
echo started >> {log}
export DBUS_SYSTEM_BUS_ADDRESS={own.address}
exec {PYTHON} -m dbusmock --template timedated -p '{{"NTP": false}}' >/dev/null
"""
    await asyncio.to_thread(command.write_text, script)
    await asyncio.to_thread(command.chmod, 0o755)
    await asyncio.to_thread(activated, own, dbus.TIME[0], str(command))
    await asyncio.to_thread(own.start)

    async with kept(Mirror(own.address, ask_time=True)) as mirror:
        await mirror.until(lambda: mirror.properties(TIME))
        assert mirror.properties(TIME) == {"NTP": False, "NTPSynchronized": False}
        assert await asyncio.to_thread(log.read_text) == "started\n"
        for told, seen in ((True, False), (True, True), (False, True), (False, True)):
            await asyncio.to_thread(own.update, dbus.TIME, NTPSynchronized=("b", told))
            leap(59.0 if seen is False else 600.0)
            await mirror.refresh()
            assert mirror.properties(TIME)["NTPSynchronized"] is seen


# The bus


async def test_a_bus_that_starts_later_dies_and_starts_again_is_followed(own):
    async with kept(Mirror(own.address)) as mirror:
        await mirror.refresh()
        assert mirror.properties(UPOWER) == {}
        for _ in range(2):
            await asyncio.to_thread(own.start)
            await asyncio.to_thread(own.mock, "upower")
            await mirror.until(lambda: mirror.on_battery is False)
            await asyncio.to_thread(own.stop)
            await mirror.until(lambda: mirror.properties(UPOWER) == {})


@pytest.mark.parametrize(
    "address",
    ["unix:path=/nothing/here", "tcp:host=localhost,port=1", "nonsense", "unix:", "a:b=c"],
)
async def test_an_address_without_a_bus_is_no_services_at_once(address):
    async with kept(Mirror(address)) as mirror, asyncio.timeout(2.0):
        await mirror.refresh()
        assert mirror.properties(UPOWER) == {}


Server = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    pass


async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()
    writer.write(b"REJECTED KERBEROS\r\n")


async def babbles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()
    writer.write(b"x" * 100_000)


async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def _welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()
    writer.write(b"OK 1234\r\n")
    await reader.readline()


async def turns_to_rubbish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _welcome(reader, writer)
    writer.write(bytes(range(200)))


async def promises_gigabytes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _welcome(reader, writer)
    writer.write(b"l\4\0\1" + b"\xff" * 12)
    writer.write(b"\0" * 1_000_000)


async def ends_in_a_message(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _welcome(reader, writer)
    writer.write(b"l\4\0\1\x10\0\0\0\1\0\0\0\x10\0\0\0half")


async def sends_no_message(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _welcome(reader, writer)
    for _ in range(100):
        writer.write(b"l\4\0\1\x08\0\0\0\1\0\0\0\x08\0\0\0" + b"\xff" * 16)
    await reader.read()


@pytest.mark.parametrize(
    "serve",
    [
        hangs_up,
        refuses,
        babbles,
        says_nothing,
        turns_to_rubbish,
        promises_gigabytes,
        ends_in_a_message,
        sends_no_message,
    ],
)
async def test_what_is_no_bus_is_no_services_and_is_tried_again(tmp_path, serve):
    tries = asyncio.Semaphore(0)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tries.release()
        with suppress(OSError):
            await serve(reader, writer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(accept, tmp_path / "bus")
    mirror = Mirror(f"unix:path={tmp_path}/bus", seconds=0.1)
    async with asyncio.timeout(10.0), server, kept(mirror):
        for _ in range(3):
            await tries.acquire()
        await mirror.refresh()
        assert mirror.properties(UPOWER) == {}


# Liars and storms


def forged(to: str, body: tuple[object, ...] | None = None) -> object:
    """A signal as UPower would send it, from somebody else, to one listener alone."""
    emitter = DBusAddress(UPOWER, interface=PROPERTIES)
    told = body or (dbus.UPOWER[2], {"OnBattery": ("b", True)}, [])
    message = new_signal(emitter, "PropertiesChanged", "sa{sv}as", told)
    message.header.fields[HeaderFields.destination] = to
    return message


@asynccontextmanager
async def listening(desktop: PrivateBus) -> AsyncIterator[tuple[Mirror, str]]:
    """A mirror, and its name on the bus."""
    bus = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
    await asyncio.to_thread(desktop.update, dbus.UPOWER, OnBattery=("b", False))
    before = set((await asyncio.to_thread(desktop.call, bus, "ListNames"))[0])
    async with kept(Mirror(desktop.address)) as mirror:
        await mirror.refresh()
        (name,) = set((await asyncio.to_thread(desktop.call, bus, "ListNames"))[0]) - before
        yield mirror, name


async def follows(desktop: PrivateBus, mirror: Mirror) -> None:
    """The mirror is none the worse."""
    for told in (True, False):
        await asyncio.to_thread(desktop.update, dbus.UPOWER, OnBattery=("b", told))
        await mirror.until(lambda told=told: mirror.on_battery is told)


async def test_signals_of_others_than_the_service_do_not_count(desktop):
    async with listening(desktop) as (mirror, name):
        mirror.seen.clear()
        await asyncio.to_thread(desktop.send, forged(name))
        lie = ("org.freedesktop.UPower", "", ":1.999")
        message = new_signal(
            DBusAddress("/org/freedesktop/DBus", interface="org.freedesktop.DBus"),
            "NameOwnerChanged",
            "sss",
            lie,
        )
        message.header.fields[HeaderFields.destination] = name
        await asyncio.to_thread(desktop.send, message)
        await asyncio.to_thread(desktop.update, dbus.NETWORK, Metered=("u", 2))  # comes after it
        await mirror.until(lambda: mirror.properties(NETWORK)["Metered"] == 2)
        assert mirror.seen == {False}
    await asyncio.to_thread(desktop.update, dbus.NETWORK, Metered=("u", 0))


async def test_a_message_that_is_too_large_is_dropped(desktop):
    async with listening(desktop) as (mirror, name):
        large = (dbus.UPOWER[2], {"OnBattery": ("s", "x" * 1_000_000)}, [])
        await asyncio.to_thread(desktop.send, forged(name, large))
        await follows(desktop, mirror)


async def test_a_flood_of_signals_costs_few_readings_and_no_truth(desktop):
    async with listening(desktop) as (mirror, name):

        def flood() -> None:
            for _ in range(4000):
                desktop.send(forged(name))

        await asyncio.to_thread(flood)
        await follows(desktop, mirror)


# The end


async def test_nothing_of_it_is_left_behind(desktop):
    async with mirrored(desktop.address, lambda: None) as bus:
        await bus.refresh()
        assert bus.properties(UPOWER)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_it_can_be_left_at_any_time(desktop):
    for moment in range(30):
        async with mirrored(desktop.address, lambda: None):
            for _ in range(moment):
                await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
