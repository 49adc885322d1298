"""Logging with fields, in the journal's own protocol; without a journal, lines on stderr.

The protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/): one datagram an entry, `NAME=value`
lines; a value with a newline is sent as `NAME`, newline, its length (64 bits, little endian), the
bytes. A log call gives fields of its own with `extra=fields(TASK=..., ROUND=...)`; then
`journalctl -u edge-agent TASK=wear` finds them.
"""

import errno
import logging
import os
import re
import socket
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

JOURNAL_SOCKET = Path("/run/systemd/journal/socket")

_CUT = 8192  # characters left of each value when an entry does not fit in one datagram
_NAME = re.compile(r"[^A-Z0-9_]")


Entry = Sequence[tuple[str, str]]
"""Names and values. A name may come more than once: the journal finds each of its values."""


def fields(**values: object) -> dict[str, dict[str, object]]:
    """For a log call's `extra`: the entry carries these fields. `None` leaves one out; a tuple is
    one field with several values."""
    return {"fields": {name: value for name, value in values.items() if value is not None}}


def setup_logging(verbose: bool, identifier: str) -> None:
    """Log to the journal where stderr is its, else to stderr in lines with the time."""
    handler: logging.Handler
    if stderr_is_journal():
        handler = JournalHandler(identifier)
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    root = logging.getLogger()
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)


def stderr_is_journal() -> bool:
    """Whether what is written to stderr ends in the journal, as `JOURNAL_STREAM` says."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    said = os.environ.get("JOURNAL_STREAM")
    return said == f"{found.st_dev}:{found.st_ino}" and JOURNAL_SOCKET.exists()


class JournalHandler(logging.Handler):
    """Sends records to journald. Never waits: what the journal cannot take is counted, and the
    next entry says so in its field `LOST`."""

    def __init__(self, identifier: str, journal: Path = JOURNAL_SOCKET) -> None:
        super().__init__()
        self._identifier = identifier
        self._journal = str(journal)
        self._lost = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            entry = self._entry(record)
        except Exception:  # noqa: BLE001 - as every handler: a bad log call stops nothing
            self.handleError(record)
            return
        try:
            self._send(entry)
        except OSError:
            self._lost += 1
        else:
            self._lost = 0

    def close(self) -> None:
        self._socket.close()
        super().close()

    def _entry(self, record: logging.LogRecord) -> Entry:
        own = {
            "MESSAGE": self.format(record),
            "PRIORITY": str(priority(record.levelno)),
            "LOGGER": record.name,
            "SYSLOG_IDENTIFIER": self._identifier,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName,
        }
        if self._lost:
            own["LOST"] = str(self._lost)
        given = getattr(record, "fields", None)
        theirs = _several(given) if isinstance(given, Mapping) else ()
        return [*((name, value) for name, value in theirs if name not in own), *own.items()]

    def _send(self, entry: Entry) -> None:
        """Raises `OSError` when the journal does not take it."""
        try:
            self._socket.sendto(encode(entry), self._journal)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._socket.sendto(encode(_cut(entry)), self._journal)


def _several(given: Mapping[object, object]) -> Iterator[tuple[str, str]]:
    """The fields of a log call, one by one."""
    for name, value in given.items():
        for each in value if isinstance(value, tuple) else (value,):
            yield field_name(str(name)), str(each)


def encode(entry: Entry) -> bytes:
    """One entry as a datagram."""
    return b"".join(_encode(name, value) for name, value in entry)


def _encode(name: str, value: str) -> bytes:
    data = value.encode(errors="backslashreplace")
    if b"\n" in data:
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"


def _cut(entry: Entry) -> Entry:
    """An entry that fits: every value cut, and the message says so."""
    return [
        (name, value if len(value) <= _CUT else f"{value[:_CUT]} [cut: {len(value)} characters]")
        for name, value in entry
    ]


def field_name(name: str) -> str:
    """A name as the journal wants it: capitals, digits and `_`, from a letter on, 64 at most."""
    found = _NAME.sub("_", name.upper()).lstrip("_0123456789")
    return found[:64] or "FIELD"


def priority(level: int) -> int:
    """A syslog priority, 7 (debug) to 2 (critical), for a logging level."""
    for at_least, found in ((50, 2), (40, 3), (30, 4), (20, 6)):
        if level >= at_least:
            return found
    return 7
