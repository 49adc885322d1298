"""A real PostgreSQL server for tests and benchmarks, started here and gone afterwards.

    with server() as postgres, postgres.database() as url: ...

It wants the binaries of a PostgreSQL of 12 or later: on PATH, in /usr/lib/postgresql (Debian's
`postgresql` package), or where `pg_config` says. Nothing of the machine's own servers is touched.
`fsync` is on, as in real life. Blocking: call it off the event loop.
"""

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import asyncpg
from blockbuster import BlockBuster

PASSWORD = "a secret of the tests"
_START_SECONDS = 30.0
_SETTINGS = {
    "max_connections": "60",
    "shared_buffers": "32MB",
    "fsync": "on",
    "deadlock_timeout": "100ms",
}


class NoPostgres(Exception):
    """There are no binaries on this machine."""


class Server:
    """One server, in a folder of its own."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        """`folder` is empty and belongs to whom `owner()` names."""
        self.folder = folder
        self.data = folder / "data"
        self.log = folder / "log"
        self.port = 0
        self.settings = dict(_SETTINGS)
        """For the next start."""
        self._binaries = binaries
        self._process: subprocess.Popen[bytes] | None = None
        self._initialise()

    def url(self, database: str, tcp: bool = False) -> str:
        """Over its Unix socket, which asks for no password, or over TCP, which does."""
        if tcp:
            return f"postgresql://tests@127.0.0.1:{self.port}/{database}"
        return f"postgresql:///{database}?host={self.folder}&port={self.port}&user=tests"

    @contextmanager
    def database(self) -> Iterator[str]:
        """A database of one's own, empty; its URL."""
        name = f"d{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            if self.running:
                self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def execute(self, sql: str, database: str = "postgres") -> None:
        """Run statements as the superuser."""

        async def work() -> None:
            connection = await asyncpg.connect(self.url(database), timeout=10, command_timeout=30)
            try:
                await connection.execute(sql)
            finally:
                await connection.close()

        with ThreadPoolExecutor(1) as thread:  # the caller may have a loop of its own
            thread.submit(asyncio.run, work()).result()

    # Its life

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        if not self.port:
            self.port = _free_port()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self._binaries / "postgres", "-D", self.data, "-k", self.folder),
                    *("-h", "127.0.0.1", "-p", str(self.port)),
                    *(f"--{name}={value}" for name, value in self.settings.items()),
                ],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **_as(owner()),
            )
        limit = time.monotonic() + _START_SECONDS
        while not self._ready():
            assert self.running, self.log.read_text()
            assert time.monotonic() < limit, f"PostgreSQL does not start: {self.log.read_text()}"
            time.sleep(0.02)

    def stop(self, immediate: bool = False) -> None:
        """Stop it: in order, its clients thrown out, or at once and without a checkpoint, as a
        power cut would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT if immediate else signal.SIGINT)
        self._process.wait(timeout=_START_SECONDS)

    def restart(self, immediate: bool = False) -> None:
        """Stop and start it; what was in a hurry is recovered."""
        self.stop(immediate)
        self.start()

    def _ready(self) -> bool:
        # What `pg_ctl` looks at, too.
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        assert self._process is not None
        return len(lines) > 7 and lines[0] == str(self._process.pid) and lines[7].strip() == "ready"

    def _initialise(self) -> None:
        secret = self.folder / "password"
        secret.write_text(PASSWORD + "\n")
        secret.chmod(0o644)
        done = subprocess.run(
            [
                *(self._binaries / "initdb", "-D", self.data, "-U", "tests", "-E", "UTF8"),
                *("--no-locale", "--no-sync", "--auth-local=trust", "--auth-host=scram-sha-256"),
                f"--pwfile={secret}",
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=self.folder,
            **_as(owner()),
        )
        assert done.returncode == 0, done.stderr


@contextmanager
def server() -> Iterator[Server]:
    """A running server with no database of ours. Raises `NoPostgres`."""
    binaries = _binaries()
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path must be short
    try:
        if (user := owner()) is not None:
            shutil.chown(folder, user, pwd.getpwnam(user).pw_gid)
        made = Server(binaries, folder)
        made.start()
        try:
            yield made
        finally:
            if made.running:
                made.stop(immediate=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def let_asyncpg_connect(guard: BlockBuster) -> None:
    """When it connects, asyncpg looks for `~/.pgpass` and certificates, as `psql` does: small local
    files, and nothing that we could do elsewhere."""
    for name in ("os.stat", "os.readlink", "os.path.abspath", "io.TextIOWrapper.read"):
        guard.functions[name].can_block_in("asyncpg/connect_utils.py", "_parse_connect_arguments")


def owner() -> str | None:
    """Whom it runs as: PostgreSQL refuses to run as root. `None` is whoever we are."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _as(user: str | None) -> dict[str, object]:
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def _binaries() -> Path:
    found = [Path(path).resolve().parent for path in (shutil.which("postgres"),) if path]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    if (config := shutil.which("pg_config")) is not None:
        said = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        found.append(Path(said.stdout.strip()))
    for folder in found:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise NoPostgres("no PostgreSQL here: install Debian's `postgresql` package, or put it on PATH")


def _version(folder: Path) -> int:
    name = folder.parent.name
    return int(name) if name.isdigit() else 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
