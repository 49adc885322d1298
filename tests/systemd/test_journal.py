"""What the journal is sent, on a real datagram socket; and which way the log goes."""

import logging
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from systemd.journal import JournalHandler, field_name, fields


def decode(datagram: bytes) -> dict[str, str]:
    """Read an entry as journald does."""
    entry = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + length], rest[8 + length :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        entry[name.decode()], datagram = value.decode(), rest
    return entry


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.setblocking(False)
        yield listener


@pytest.fixture
def log(tmp_path: Path, journal: socket.socket) -> Iterator[logging.Logger]:
    """A logger whose records go to `journal` alone."""
    logger, handler = (
        logging.Logger("agent.round"),
        JournalHandler("edge-agent", tmp_path / "socket"),
    )
    logger.addHandler(handler)
    yield logger
    handler.close()


def test_an_entry_says_what_how_bad_and_from_where(log: logging.Logger, journal: socket.socket):
    log.warning("round %d: %s", 12, "not closed")
    entry = decode(journal.recv(65536))
    assert entry["MESSAGE"] == "round 12: not closed"
    assert entry["PRIORITY"] == "4"
    assert entry["LOGGER"] == "agent.round"
    assert entry["SYSLOG_IDENTIFIER"] == "edge-agent"
    assert entry["CODE_FILE"] == __file__
    assert entry["CODE_FUNC"] == "test_an_entry_says_what_how_bad_and_from_where"
    assert int(entry["CODE_LINE"]) > 0


@pytest.mark.parametrize(
    ("level", "priority"),
    [("DEBUG", "7"), ("INFO", "6"), ("WARNING", "4"), ("ERROR", "3"), ("CRITICAL", "2")],
)
def test_levels_are_priorities(
    log: logging.Logger, journal: socket.socket, level: str, priority: str
):
    log.log(getattr(logging, level), "x")
    assert decode(journal.recv(65536))["PRIORITY"] == priority


def test_fields_of_the_call_are_the_entrys(log: logging.Logger, journal: socket.socket):
    log.info("x", extra=fields(TASK="wear", round=3, REASON=None, MESSAGE="another"))
    entry = decode(journal.recv(65536))
    assert (entry["TASK"], entry["ROUND"], entry["MESSAGE"]) == ("wear", "3", "x")
    assert "REASON" not in entry


def test_a_field_may_have_several_values(log: logging.Logger, journal: socket.socket):
    log.info("x", extra=fields(REASON=("busy", "metered")))
    assert b"REASON=busy\nREASON=metered\n" in journal.recv(65536)


def test_lines_in_a_value_cannot_forge_a_field(log: logging.Logger, journal: socket.socket):
    log.info("two\nPRIORITY=0\n\nlines", extra=fields(TASK="a\nROUND=9", REASON="\udcff"))
    entry = decode(journal.recv(65536))
    assert entry["MESSAGE"] == "two\nPRIORITY=0\n\nlines"
    assert entry["TASK"] == "a\nROUND=9"
    assert entry["REASON"] == "\\udcff"
    assert entry["PRIORITY"] == "6"
    assert "ROUND" not in entry


def test_a_failure_is_logged_with_its_trace(log: logging.Logger, journal: socket.socket):
    try:
        raise KeyError("why")
    except KeyError:
        log.exception("failed")
    assert "KeyError: 'why'" in decode(journal.recv(65536))["MESSAGE"]


def test_what_does_not_fit_is_cut_and_says_so(log: logging.Logger, journal: socket.socket):
    log.info("x" * 3_000_000, extra=fields(TASK="wear", REASON="y" * 3_000_000))
    entry = decode(journal.recv(65536))
    assert entry["MESSAGE"] == "x" * 8192 + " [cut: 3000000 characters]"
    assert entry["REASON"].endswith(" [cut: 3000000 characters]")
    assert entry["TASK"] == "wear"


def test_a_full_journal_delays_nothing_and_what_was_lost_is_counted(
    log: logging.Logger, journal: socket.socket
):
    for _ in range(2000):
        log.info("x")
    taken = 0
    try:
        while decode(journal.recv(65536)):
            taken += 1
    except BlockingIOError:
        pass
    assert 0 < taken < 2000
    log.info("y")
    assert decode(journal.recv(65536))["LOST"] == str(2000 - taken)
    log.info("z")
    assert "LOST" not in decode(journal.recv(65536))


@pytest.mark.parametrize(
    ("given", "found"),
    [("task", "TASK"), ("a-b c", "A_B_C"), ("_PID", "PID"), ("9", "FIELD"), ("x" * 99, "X" * 64)],
)
def test_names_are_made_such_as_the_journal_takes(given: str, found: str):
    assert field_name(given) == found


def test_without_a_journal_the_log_is_lines_on_stderr():
    """Also when the variable is inherited and stderr was sent elsewhere since."""
    program = (
        "import logging\nfrom systemd.journal import setup_logging\n"
        "setup_logging(False, 'x')\nlogging.getLogger('a').info('hello')\n"
        "logging.getLogger('a').debug('quiet')"
    )
    for stream in ("", "8:12345", "nonsense"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=30,
            env=os.environ | {"JOURNAL_STREAM": stream},
        )
        assert done.stderr.endswith("INFO    hello\n")
        assert "quiet" not in done.stderr
