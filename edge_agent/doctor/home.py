"""What the owner gave the agent: its configuration, its folder, examples, a coordinator."""

import asyncio
import re
import ssl
import stat
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

from edge_agent.config.schema import Config
from edge_agent.doctor.finding import Finding
from edge_agent.errors import ConfigError, StateError
from edge_agent.signals.system import System
from edge_agent.state import Identity, StateFolder

_MOST_FILES = 10_000  # of a folder of examples, looked at
_REACH_SECONDS = 15.0
_AS_WHOM = "ask as the user that the agent runs as: with sudo for the service"
_FORGETFUL = {"tmpfs", "ramfs", "overlay"}
_FOREIGN = {"vfat", "exfat", "ntfs", "ntfs3", "fuseblk"}
_REMOTE = {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"}


def configuration(error: ConfigError | None) -> Finding:
    """`error` is what was wrong when it was read."""
    if error is None:
        return Finding.ok("the configuration is valid")
    return Finding.fail(
        f"the configuration: {error}", "'edge-agent config explain' tells what is allowed"
    )


def state(folder: Path, mountinfo: str) -> Iterator[Finding]:
    """The state folder: who may read it, whether it can be written, where it lives. Blocking."""
    try:
        yield from _state(folder, mountinfo)
    except OSError as error:
        yield Finding.fail(f"{folder} cannot be used: {error.strerror}", _AS_WHOM)


def _state(folder: Path, mountinfo: str) -> Iterator[Finding]:
    if not folder.exists():
        yield Finding.warn(f"no state yet in {folder}", "'edge-agent enroll' makes it")
        return
    if not folder.is_dir():
        yield Finding.fail(f"{folder} is not a folder", f"sudo rm {folder}")
        return
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o027:  # its group may look at the models, and is closed out of all else
        yield Finding.warn(f"others may look into {folder} ({mode:o})", f"chmod 750 {folder}")
    yield _writable(folder)
    yield file_system(folder, *mount_of(folder.resolve(), mountinfo))


def _writable(folder: Path) -> Finding:
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            return Finding.ok(f"{folder} can be written")
    except OSError as error:
        return Finding.fail(f"{folder} cannot be written: {error.strerror}", _AS_WHOM)


def file_system(folder: Path, kind: str, device: str) -> Finding:
    """Whether a kind of file system suits the state."""
    said = f"{folder} is on {kind or 'a file system that is not told'}"
    if kind in _FORGETFUL:
        return Finding.warn(
            f"{said}: a restart of the machine empties it",
            "give --state a folder on a disk; on a Raspberry Pi see the overlay in 'raspi-config'",
        )
    if kind in _FOREIGN:
        return Finding.warn(f"{said}: it cannot keep others out", "use ext4, say")
    if kind in _REMOTE:
        return Finding.warn(f"{said}: on another machine", "give --state a folder on this one")
    if "mmcblk" in device:
        return Finding.ok(f"{said}, a card ({device}): the agent writes to it rarely")
    return Finding.ok(f"{said} ({device})" if device else said)


def mount_of(path: Path, mountinfo: str) -> tuple[str, str]:
    """Kind and device of the file system that holds a path, after `/proc/self/mountinfo`; empty
    when it does not say."""
    best, found = -1, ("", "")
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, source = left.split(" "), right.split(" ")
        if len(fields) < 5 or len(source) < 2:
            continue
        # A blank in a name is written \040.
        point = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4]))
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, found = len(point.parts), (source[0], source[1])
    return found


def examples(config: Config) -> Iterator[Finding]:
    """The folders of examples. Blocking."""
    named = [config.data.folder, *config.data.tasks.values()]
    folders = [Path(name) for name in dict.fromkeys(named) if name]
    if not folders:
        yield Finding.warn(
            "no folder of examples is configured: there is nothing to train on",
            "[data]\nfolder = '/var/lib/my-program/examples'",
        )
    for folder in folders:
        yield _examples(folder)


def _examples(folder: Path) -> Finding:
    from edge_agent.examples.formats import STORES  # and with it numpy, which a status needs not

    share = f"the agent's user must be able to read it: ls -ld {folder}"
    try:
        found = sum(p.suffix in STORES for p in islice(folder.iterdir(), _MOST_FILES))
    except FileNotFoundError:
        return Finding.fail(f"no folder {folder}", f"mkdir {folder}, or name another one")
    except OSError as error:
        return Finding.fail(f"{folder} cannot be read: {error.strerror}", share)
    if not found:
        return Finding.warn(
            f"no examples in {folder} yet", f"files that are known: {', '.join(sorted(STORES))}"
        )
    return Finding.ok(f"{found} files of examples in {folder}")


def identity(folder: StateFolder) -> tuple[Identity | None, Finding]:
    """Whether the device has joined a fleet. Blocking."""
    file = folder.folder / "identity.json"
    try:
        if not file.exists():
            return None, Finding.warn(
                "this device has not joined a fleet", "edge-agent enroll URL TOKEN"
            )
        found = folder.identity()
        mode = stat.S_IMODE(file.stat().st_mode)
    except StateError as error:
        return None, Finding.fail(str(error), "edge-agent enroll --again URL TOKEN")
    except OSError as error:
        return None, Finding.fail(f"{file} cannot be read: {error.strerror}", _AS_WHOM)
    if mode & 0o077:
        return found, Finding.warn(f"others may read {file} ({mode:o})", f"chmod 600 {file}")
    return found, Finding.ok(f"joined {found.url} as {found.device}")


async def coordinator(found: Identity, seconds: float = _REACH_SECONDS) -> Finding:
    """Whether the coordinator's address answers, with a certificate that is trusted. Sends
    nothing but the handshake."""
    parts = urlsplit(found.url)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    wrong = f"{found.url} is not reached"
    try:
        async with asyncio.timeout(seconds):
            context = await asyncio.to_thread(_context, found.ca) if secure else None
            _, writer = await asyncio.open_connection(parts.hostname, port, ssl=context)
            writer.transport.abort()
    except ssl.SSLCertVerificationError as error:
        return Finding.fail(
            f"{found.url}: its certificate is not trusted: {error.verify_message}",
            "is the clock right? a private authority is given with 'enroll --ca-file'",
        )
    except TimeoutError:
        return Finding.fail(f"{wrong}: no answer within {seconds:.0f} s", "is there a firewall?")
    except OSError as error:
        return Finding.fail(f"{wrong}: {error}", "is this device online, and the coordinator up?")
    return Finding.ok(f"{found.url} answers")


def mounts(system: System) -> str:
    """The machine's mounts, as `mount_of` reads them."""
    return system.text("proc/self/mountinfo")


def _context(ca: str | None) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=ca)
