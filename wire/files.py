"""Files that survive a power cut: written aside, synced, renamed, and the folder synced.

The one place in this package that touches a disk: both sides keep what crosses the network, and
neither may import the other.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_durably(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, all of it or nothing, durable on return and readable by its owner
    alone. Blocking. Raises `OSError`."""
    aside = path.with_name(f".{path.name}.new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)  # a disk that is full should not stay so for this
        raise name_file(error, path) from None
    sync_folder(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """What fails in here, fails with the name of this file or folder: see `name_file`."""
    try:
        yield
    except OSError as error:
        raise name_file(error, path) from None


def name_file(error: OSError, path: Path) -> OSError:
    """The same error, that says of which file it is where it said of none: of a full disk, say, it
    is to be known which."""
    if error.filename is None and error.errno is not None:
        error.filename = str(path)
    return error


def remove_durably(path: Path) -> None:
    """Remove a file, if it is there; durable on return. Blocking. Raises `OSError`."""
    with suppress(FileNotFoundError):
        path.unlink()
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Blocking."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
