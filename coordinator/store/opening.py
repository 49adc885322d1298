"""Opening the coordinator's SQLite file: locked, checked, its tables made, left-overs cleared.

Whatever is wrong with it is said in one line that says what to do.
"""

import errno
import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from importlib import resources
from pathlib import Path

from coordinator.store import upgrades
from coordinator.store.redo import TooOld, redo
from coordinator.store.segments import Segments
from coordinator.store.sql import StoreError
from schedules.clock import Clock

SCHEMA_VERSION = "3"
DATABASE_FILE = "coordinator.sqlite"
SPOOL_FOLDER = "spool"
BUSY_SECONDS = 10.0
"""How long a transaction waits for those of other processes."""
_LOCK_FILE = "coordinator.lock"
_WORKERS_FILE = "workers.lock"
_STATEMENTS = 256  # prepared ones that are kept
_LOG_BYTES = 64 << 20  # the write-ahead log is cut back to this
_LITTLE = 1 << 20  # with less than this left, an I/O error is that of a full disk


def trouble(path: Path, error: Exception) -> str:
    """What went wrong with the database, in one line that says what to do."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    number = error.errno if isinstance(error, OSError) else None
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return (
            f"{path} is damaged ({error}): restore it from a backup, or move it away to start anew"
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"{path} is held by another program: end it"
    if code == sqlite3.SQLITE_FULL or number in (errno.ENOSPC, errno.EDQUOT) or _is_full(path):
        return f"the disk that holds {path} is full: free some space"
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM) or (
        number in (errno.EROFS, errno.EACCES, errno.EPERM)
    ):
        return f"{path} cannot be written ({error}): make its folder writable for this user"
    return f"{path} cannot be used ({error}): check its disk"


def _is_full(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < _LITTLE
    except OSError:
        return False


@contextmanager
def lock_state(state: Path) -> Iterator[None]:
    """Hold the state folder (made if need be): at most one coordinator, with all its workers, is
    over it. The lock goes with the process, however it ends. Blocking. Raises `StoreError`."""
    with troubles(state / DATABASE_FILE), ExitStack() as held:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not held.enter_context(_locked(state / _LOCK_FILE, fcntl.LOCK_EX)):
            raise StoreError(f"{state} is in use by another coordinator: stop it first")
        with _locked(state / _WORKERS_FILE, fcntl.LOCK_EX) as alone:
            if not alone:  # they outlived the one that started them
                raise StoreError(f"{state} is in use by workers of a coordinator: stop them first")
        release = held.pop_all()
    with release:
        yield


@contextmanager
def lock_worker(state: Path) -> Iterator[None]:
    """Keep others from taking the state folder for abandoned while this process works over it."""
    with _locked(state / _WORKERS_FILE, fcntl.LOCK_SH) as held:
        if not held:
            raise StoreError(f"{state} is being opened by another coordinator: stop it first")
        yield


@contextmanager
def _locked(path: Path, how: int) -> Iterator[bool]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def prepare(state: Path, clock: Clock) -> float:
    """Check the database or make it, and clear what a crash left behind: under `lock_state`, before
    any `connect`. Returns the anchor of its clock: its time less `clock.monotonic()`. Blocking.
    Raises `StoreError`."""
    path = state / DATABASE_FILE
    with troubles(path):
        (state / SPOOL_FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_log(path)
        path.touch(mode=0o600)
        with closing(connect(state)) as database:
            _make(database, path, _check(database, path))
            _sweep(database, path, Segments(state / SPOOL_FOLDER))
            return anchor_of(database, clock)


def connect(state: Path) -> sqlite3.Connection:
    """A connection to a database that `prepare` has seen; for one thread at a time."""
    database = sqlite3.connect(
        state / DATABASE_FILE,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=_STATEMENTS,
    )
    try:
        database.row_factory = sqlite3.Row
        for pragma in (
            "synchronous = FULL",  # a commit survives a power cut, not only `kill -9`
            "foreign_keys = ON",
            # What is deleted is overwritten: a device that leaves is not to be read from the file.
            "secure_delete = ON",
            f"journal_size_limit = {_LOG_BYTES}",
        ):
            database.execute(f"PRAGMA {pragma}").fetchall()
    except BaseException:
        database.close()
        raise
    return database


def anchor_of(database: sqlite3.Connection, clock: Clock) -> float:
    """The wall clock less the monotonic one; more where the store's time was ahead already, since
    it does not go back when the wall clock was set back while no coordinator ran."""
    (reached,) = database.execute("SELECT clock FROM driver").fetchone()
    return max(clock.now().timestamp(), float(reached)) - clock.monotonic()


def _check_log(path: Path) -> None:
    """A log without its database still holds what was acknowledged: SQLite would delete it."""
    log = path.with_name(f"{path.name}-wal")
    if not _size(path) and _size(log):
        raise StoreError(
            f"{path} is gone or empty, and its log {log.name} is not: restore both from a backup, "
            "or move the log away, too, to start anew"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check(database: sqlite3.Connection, path: Path) -> str | None:
    """The version of what is there; `None` for nothing."""
    names = {row["name"] for row in database.execute("SELECT name FROM sqlite_master")}
    if not names:
        return None
    version = None
    if "meta" in names:
        version = database.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    if version is None:
        raise StoreError(f"{path} is no coordinator's database: move it away")
    if version["value"] == "1":
        raise StoreError(f"{path} was made by an earlier development version: move it away")
    if version["value"] not in (SCHEMA_VERSION, *upgrades.SQLITE):
        raise StoreError(
            f"{path} has schema version {version['value']}, this coordinator reads "
            f"{SCHEMA_VERSION}: run the version that wrote it"
        )
    (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise StoreError(
            f"{path} is damaged ({' '.join(found.split())}): restore it from a backup, or move it "
            "away to start anew"
        )
    return str(version["value"])


def _make(database: sqlite3.Connection, path: Path, found: str | None) -> None:
    (mode,) = database.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreError(f"{path} needs a local disk (write-ahead logging): move the state folder")
    schema = "".join(
        resources.files(__package__).joinpath(name).read_text("utf-8")
        for name in ("schema.sql", "sqlite.sql")
    )
    before, after = upgrades.SQLITE.get(found or SCHEMA_VERSION, ("", ""))
    # All of it at once: half a schema is never found.
    database.executescript(f"BEGIN IMMEDIATE; {before} {schema} {after}")
    database.execute(
        "INSERT INTO meta VALUES ('schema_version', ?1)"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (SCHEMA_VERSION,),
    )
    # Something is always written: a disk that takes nothing is found out now.
    database.execute("UPDATE driver SET clock = clock")
    database.execute("COMMIT")


def _sweep(database: sqlite3.Connection, path: Path, segments: Segments) -> None:
    """What was to be done after a commit that a crash came after."""
    wipes = database.execute("SELECT segment, start, length FROM wipes").fetchall()
    for segment, start, length in wipes:
        segments.wipe(segment, start, length)
    if wipes:
        database.execute("DELETE FROM wipes")
    names = segments.names()
    try:  # all are looked at before any is deleted
        segments.sweep({name for name in names if redo(database, segments, name)})
    except TooOld as found:
        raise StoreError(
            f"{path} is older than the updates kept beside it ({found}): restore it with its -wal "
            f"file, or move {SPOOL_FOLDER}/{found.segment} away to go on without them"
        ) from None


@contextmanager
def troubles(path: Path) -> Iterator[None]:
    """What fails within is a `StoreError` that says what to do."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreError(trouble(path, error)) from None
