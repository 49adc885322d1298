"""The examples of a whole fleet, for several processes: arrays in files that are mapped, not read,
so that all processes share one copy and none holds what no device trains on just now."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.examples import Examples
from fleet.simulation.devices import Devices, fitting
from fleet.simulation.splits import Rows
from wire.files import name_file
from wire.plan import Input
from wire.tensors import Array

_NO_ROWS: Rows = np.empty(0, np.intp)


@dataclass(frozen=True)
class Shares:
    """Rows of a pool, some for each device: those of device d end at `ends[d]`."""

    rows: Rows
    ends: Rows

    def of(self, device: int) -> Rows:
        """Those of one device."""
        start = int(self.ends[device - 1]) if device else 0
        return self.rows[start : int(self.ends[device])]

    def size(self, device: int) -> int:
        """How many one device has."""
        return len(self.of(device))


@dataclass(frozen=True)
class Data:
    """The pool, who trains and evaluates on which rows of it, and the test set, if any."""

    pool: Examples
    shares: Shares
    held_out: Shares
    test: Examples | None

    def training(self, device: int) -> Examples:
        """What a device trains on: a copy."""
        return self.pool.where(self.shares.of(device))

    def held(self, device: int) -> Examples:
        """What a device evaluates on: a copy."""
        return self.pool.where(self.held_out.of(device))


def gather(devices: Devices, inputs: tuple[Input, ...], test: Examples | None) -> Data:
    """In memory. Raises `ValueError` for what a plan with these inputs cannot take."""
    held_out = devices.held_out or [_NO_ROWS] * len(devices)
    return Data(
        pool=Examples(fitting(devices.pool, inputs, "pool")),
        shares=_shares(devices.shares),
        held_out=_shares(held_out),
        test=None if test is None else Examples(fitting(test, inputs, "test")),
    )


def write(data: Data, folder: Path) -> None:
    """Into files in a folder. Raises `OSError` that names the file."""
    for number, (name, array) in enumerate(data.pool.arrays.items()):
        _save(folder / f"pool-{number}.npy", array)
        if data.test is not None:
            _save(folder / f"test-{number}.npy", data.test.arrays[name])
    for name, owned in (("shares", data.shares), ("held-out", data.held_out)):
        _save(folder / f"{name}-rows.npy", owned.rows)
        _save(folder / f"{name}-ends.npy", owned.ends)


def _save(path: Path, array: Array) -> None:
    try:
        np.save(path, array)
    except OSError as error:
        if error.errno is None:  # numpy counts what it wrote, and does not say why that is not all
            raise OSError(f"{path}: is the disk full? {error}") from None
        raise name_file(error, path) from None


def read(folder: Path, inputs: tuple[Input, ...]) -> Data:
    """From the files, mapped. Raises `OSError`."""

    def examples(name: str) -> Examples:
        return Examples({i.name: _map(folder / f"{name}-{n}.npy") for n, i in enumerate(inputs)})

    def owned(name: str) -> Shares:
        return Shares(_map(folder / f"{name}-rows.npy"), np.load(folder / f"{name}-ends.npy"))

    test = (folder / "test-0.npy").exists()
    return Data(
        pool=examples("pool"),
        shares=owned("shares"),
        held_out=owned("held-out"),
        test=examples("test") if test else None,
    )


def _map(path: Path) -> Array:
    found: Array = np.load(path, mmap_mode="r")
    return found


def _shares(parts: Sequence[npt.NDArray[Any]]) -> Shares:
    rows = [np.asarray(part, np.intp) for part in parts]
    return Shares(np.concatenate(rows), np.cumsum([len(part) for part in rows]))
