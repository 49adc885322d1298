"""The formats, by suffix, and the files of a folder that are in one of them."""

import csv
import stat
import struct
import zipfile
import zlib
from pathlib import Path

from edge_agent.examples import csv_store, npz_store, parquet_store, sqlite_store
from edge_agent.examples.store import Store

STORES: dict[str, Store] = {
    ".npz": npz_store,
    ".csv": csv_store,
    ".parquet": parquet_store,
    ".sqlite": sqlite_store,
    ".db": sqlite_store,
}
# What the formats and the libraries under them raise for files that are damaged, or are
# something else; `Unreadable` is a ValueError.
UNREADABLE = (
    *(OSError, ValueError, EOFError, KeyError, NotImplementedError, RuntimeError),
    *(SyntaxError, csv.Error, zipfile.BadZipFile, zlib.error, struct.error),
)


def files(folder: Path) -> list[Path]:
    """The files of a folder that have a known suffix, by name. Raises `OSError`."""
    return sorted(path for path in folder.iterdir() if path.suffix in STORES)


def store_of(path: Path) -> Store:
    """The format of one of `files`. Raises `OSError` for what is no file: to open a pipe that is
    named as one would wait for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("it is not a file")
    return STORES[path.suffix]
