"""Who takes part in a simulation: each device's examples, and how it behaves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.examples import Examples
from edge_agent.examples.loading import fits
from fleet.virtual import HONEST, Behaviour
from wire.plan import Input
from wire.tensors import Array


@dataclass(frozen=True, kw_only=True)
class Devices:
    """A fleet, whose devices are numbered from 0.

    `pool` holds the examples of all of them, arrays by the names of the plan's inputs. `shares`
    says for each device which of the pool's rows it trains on, `held_out` on which it evaluates.
    One whose share is empty takes no part in rounds. `behaviours` is one for all devices or one for
    each. Raises `ValueError` where these do not fit together.
    """

    pool: Examples
    shares: Sequence[npt.NDArray[Any]]
    held_out: Sequence[npt.NDArray[Any]] | None = None
    behaviours: Behaviour | Sequence[Behaviour] = HONEST

    def __post_init__(self) -> None:
        count = len(self.shares)
        if not count or not any(len(share) for share in self.shares):
            raise ValueError("shares: at least one device has examples")
        if self.held_out is not None and len(self.held_out) != count:
            raise ValueError(f"held_out: of {len(self.held_out)} devices; shares: of {count}")
        if not isinstance(self.behaviours, Behaviour) and len(self.behaviours) != count:
            raise ValueError(f"behaviours: of {len(self.behaviours)} devices; shares: of {count}")
        sizes = {name: len(array) for name, array in self.pool.arrays.items()}
        if len(set(sizes.values())) != 1:
            raise ValueError(f"pool: arrays of one length are expected: {sizes}")
        for name, parts in (("shares", self.shares), ("held_out", self.held_out or ())):
            for device, rows in enumerate(parts):
                _check(f"{name}[{device}]", np.asarray(rows), len(self.pool))

    def __len__(self) -> int:
        return len(self.shares)

    def behaviour(self, device: int) -> Behaviour:
        """That of one device."""
        found = self.behaviours
        return found if isinstance(found, Behaviour) else found[device]


def fitting(examples: Examples, inputs: tuple[Input, ...], what: str) -> dict[str, Array]:
    """The arrays that a plan takes, as its types. Raises `ValueError` for others than it can; a
    device would leave such examples out."""
    found: dict[str, Array] = {}
    for i in inputs:
        if i.name not in examples.arrays:
            names = ", ".join(map(repr, examples.arrays))
            raise ValueError(f"{what}: no array {i.name!r}, which the plan takes; only {names}")
        array = np.asarray(examples.arrays[i.name])
        if array.shape[1:] != i.shape:
            raise ValueError(
                f"{what}: {i.name!r} has examples of shape {array.shape[1:]}; the plan, {i.shape}"
            )
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{what}: {i.name!r} holds {array.dtype}: expected numbers")
        with np.errstate(all="ignore"):  # what is lost is looked for
            found[i.name] = array.astype(i.dtype, copy=False)
        right, others = fits(array, found[i.name], i)
        if not right.all():
            raise ValueError(f"{what}: {i.name!r} is {others}")
    if not all(map(len, found.values())):
        raise ValueError(f"{what}: no examples")
    return found


def _check(what: str, rows: npt.NDArray[Any], size: int) -> None:
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise ValueError(f"{what}: one row of whole numbers is expected")
    if rows.size and not (int(rows.min()) >= 0 and int(rows.max()) < size):
        raise ValueError(f"{what}: rows from 0 to {size - 1} are there")
