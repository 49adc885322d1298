"""One connection to a message bus: calls with their replies, and the signals that come.

Over jeepney's messages, without its asyncio shell: that reads messages of any size at any rate, and
a reply that arrives just after its call was given up ends it. Any local program may send us
signals; what they cost is bounded here. Import it only when there is a bus to ask.
"""

import asyncio
import itertools
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple, NoReturn

from jeepney import (  # type: ignore[import-untyped]
    DBusAddress,
    HeaderFields,
    Message,
    MessageFlag,
    MessageType,
    new_method_call,
)
from jeepney.auth import BEGIN, Authenticator  # type: ignore[import-untyped]
from jeepney.bus import get_bus  # type: ignore[import-untyped]
from jeepney.low_level import calc_msg_size  # type: ignore[import-untyped]

from edge_agent.signals.services import BusError, Refused

_HEAD = 16  # bytes that tell a message's size
_LARGEST = 1 << 17  # bytes of a message that is read; a larger one is dropped
_CHUNK = 1 << 14  # bytes that are read at once
_SIGNAL = MessageType.signal.value
_ENVELOPE = (
    HeaderFields.sender,
    HeaderFields.path,
    HeaderFields.interface,
    HeaderFields.member,
)
_RATE = 1 << 16  # bytes of signals a second that are parsed, a few hundred of them
_BURST = 1 << 18
_BREATH_SECONDS = 0.02
# What parsing raises on bytes that make no message.
_UNREADABLE = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AssertionError,
    RecursionError,
    struct.error,
)


class Said(NamedTuple):
    """A signal. The bus vouches for `sender`, a unique name; the rest is whatever was sent."""

    sender: str
    path: str
    interface: str
    member: str
    body: tuple[object, ...]


class Connection:
    """Use `connected`. `receive` must run for calls to be answered."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._seconds = seconds
        self._serials = itertools.count(1)
        self._replies: dict[int, asyncio.Future[Message]] = {}
        self._allowance = _Allowance()

    async def call(
        self,
        to: str,
        path: str,
        member: str,
        interface: str,
        arguments: tuple[str, ...] = (),
        start: bool = False,
    ) -> tuple[object, ...]:
        """What a method answers, its arguments all texts. `start`: start its service.

        Raises `Refused` when the answer is an error, `BusError` when none comes in time.
        """
        serial = next(self._serials)
        try:
            address = DBusAddress(path, to, interface)
            message = new_method_call(address, member, "s" * len(arguments) or None, arguments)
            if not start:
                message.header.flags |= MessageFlag.no_auto_start
            data = message.serialise(serial)
        except ValueError as error:  # a path that came from a service
            raise BusError(f"{to}: {member}: {error}") from None
        reply = await self._ask(serial, data, f"{to}: {member}")
        if reply.header.message_type is not MessageType.method_return:
            raise Refused(f"{to}: {member}: {reply.header.fields.get(HeaderFields.error_name)}")
        body: tuple[object, ...] = reply.body
        return body

    async def _ask(self, serial: int, data: bytes, what: str) -> Message:
        reply = self._replies[serial] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._seconds):
                self._writer.write(data)
                await self._writer.drain()
                return await reply
        except TimeoutError:
            raise BusError(f"{what}: no answer in {self._seconds:g} s") from None
        except OSError as error:
            raise BusError(f"{what}: {error}") from None
        finally:
            del self._replies[serial]

    async def receive(self, said: Callable[[Said], None], lost: Callable[[], None]) -> NoReturn:
        """Hand on signals, and replies to their calls, until the bus goes: raises `BusError`.

        `lost` is called for what was dropped: too large, unreadable, or too many at once.
        """
        frames = _Frames()
        try:
            while data := await self._reader.read(_CHUNK):
                handed_on = [self._hand_on(frame, said) for frame in frames.split(data)]
                if not all(handed_on):
                    lost()
                    await self._take_breath()
        except OSError as error:
            raise BusError(f"the bus went: {error}") from None
        except _UNREADABLE as error:
            raise BusError(f"the bus sends rubbish: {error!r}") from None
        raise BusError("the bus hung up")

    async def _take_breath(self) -> None:
        """In a flood, let the kernel gather more before it wakes us again."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(_BREATH_SECONDS)
        self._writer.transport.resume_reading()  # type: ignore[attr-defined]

    def _hand_on(self, frame: bytes, said: Callable[[Said], None]) -> bool:
        """Give a message to whom it concerns; false when it is dropped."""
        if not frame or (frame[1] == _SIGNAL and not self._allowance.take(len(frame))):
            return False
        try:
            message = Message.from_buffer(frame)
        except _UNREADABLE:
            return False
        fields = message.header.fields
        if message.header.message_type is MessageType.signal:
            sender, path, interface, member = (str(fields.get(name, "")) for name in _ENVELOPE)
            said(Said(sender, path, interface, member, message.body))
        elif message.header.message_type is not MessageType.method_call:
            reply = self._replies.get(fields.get(HeaderFields.reply_serial))
            if reply is not None and not reply.done():
                reply.set_result(message)
        return True


class _Frames:
    """Cuts what comes into messages, without reading them: of a flood most are dropped."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._skip = 0  # bytes to come of a message that is too large

    def split(self, data: bytes) -> Iterator[bytes]:
        """The messages that are complete now; an empty one stands for one too large."""
        self._held += data
        at = min(self._skip, len(self._held))
        self._skip -= at
        while len(self._held) - at >= _HEAD:
            size = calc_msg_size(self._held[at : at + _HEAD])
            have = len(self._held) - at
            if size > _LARGEST:
                self._skip = max(0, size - have)
                yield b""
            elif size > have:
                break
            else:
                yield bytes(self._held[at : at + size])
            at += min(size, have)
        del self._held[:at]


class _Allowance:
    """Bytes that may be parsed now: what is sent faster than that is dropped unread."""

    def __init__(self) -> None:
        self._left = float(_BURST)
        self._at = asyncio.get_running_loop().time()

    def take(self, size: int) -> bool:
        """Whether a message of this size may be parsed."""
        now = asyncio.get_running_loop().time()
        self._left = min(_BURST, self._left + (now - self._at) * _RATE)
        self._at = now
        if size > self._left:
            return False
        self._left -= size
        return True


@asynccontextmanager
async def connected(address: str, seconds: float) -> AsyncIterator[Connection]:
    """A connection to the bus at a D-Bus `address`, logged in. Each answer is due in `seconds`.

    Raises `BusError` when there is none. Say `Hello` before anything else, as the bus wants it.
    """
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_unix_connection(get_bus(address))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise BusError(f"no bus at {address}: {error}") from None
    try:
        await _log_in(reader, writer, seconds)
        yield Connection(reader, writer, seconds)
    finally:
        writer.transport.abort()  # nothing that was sent matters any more
        with suppress(OSError):
            await writer.wait_closed()


async def _log_in(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float
) -> None:
    dialogue = Authenticator()
    try:
        async with asyncio.timeout(seconds):
            for line in dialogue:
                writer.write(line)
                await writer.drain()
                if not (answer := await reader.read(1024)):
                    raise BusError("the bus hung up at the login")
                dialogue.feed(answer)
            writer.write(BEGIN)
            await writer.drain()
    except (OSError, ValueError) as error:
        raise BusError(f"the bus refuses the login: {error!r}") from None
