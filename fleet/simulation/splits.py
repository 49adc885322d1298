"""Who has which examples: ways to deal a pool of examples out to devices.

Each returns one array of row numbers a device, in the order of the devices; every row is dealt to
one of them. Chance comes from `rng` alone, so a seed gives a split. All raise `ValueError` where
there is too little to deal.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.intp]
"""Numbers of rows of the pool, of shape [n]."""
Column = npt.NDArray[Any]
"""A value for each row of the pool, of shape [rows]: its label, or the group it belongs to."""


def alike(n: int, devices: int, rng: np.random.Generator) -> list[Rows]:
    """Shuffled and cut: of `n` rows, all devices have as many, give or take one."""
    _enough(n, devices, f"examples for {devices} devices")
    return list(np.array_split(rng.permutation(n), devices))


def shards(labels: Column, devices: int, each: int, rng: np.random.Generator) -> list[Rows]:
    """As FedAvg's paper: sorted by label, cut into shards of one size, `each` of them a device; so
    with two a device most have two labels."""
    if each < 1:
        raise ValueError(f"{each} shards a device; at least 1")
    _enough(labels.size, each * devices, f"examples for {devices} devices of {each} shards")
    pieces = np.array_split(np.argsort(labels, kind="stable"), each * devices)
    order = rng.permutation(len(pieces))
    return [
        np.concatenate([pieces[n] for n in order[first : first + each]])
        for first in range(0, len(pieces), each)
    ]


def dirichlet(
    labels: Column, devices: int, concentration: float, rng: np.random.Generator
) -> list[Rows]:
    """Each label is split by a Dirichlet draw over the devices: 0.1 is very skewed, 0.5 skewed, 100
    nearly alike. A device that would have nothing takes one example of the device with the most."""
    if not concentration > 0:
        raise ValueError(f"concentration {concentration:g}; above 0")
    _enough(labels.size, devices, f"examples for {devices} devices")
    owner = np.empty(labels.size, np.intp)
    for label in np.unique(labels):
        where = np.flatnonzero(labels == label)
        weights = rng.dirichlet(np.full(devices, concentration))
        owner[where] = rng.choice(devices, size=len(where), p=weights)
    counts = np.bincount(owner, minlength=devices)
    for poor in np.flatnonzero(counts == 0):
        rich = counts.argmax()
        owner[rng.choice(np.flatnonzero(owner == rich))] = poor
        counts[rich] -= 1
    return [np.flatnonzero(owner == device) for device in range(devices)]


def majority(labels: Column, devices: int, share: float, rng: np.random.Generator) -> list[Rows]:
    """One label is most of a device's examples: `share` of them where all labels are as frequent.
    Device d has the label d mod labels.

    `share` of a label goes to the devices that have it, and the rest to all others alike.
    """
    kinds = np.unique(labels)
    _enough(devices, len(kinds), f"devices for {len(kinds)} labels")
    if not 0 < share <= 1:
        raise ValueError(f"share {share:g}; above 0, at most 1")
    found: list[list[Rows]] = [[] for _ in range(devices)]
    for kind, label in enumerate(kinds):
        rows = rng.permutation(np.flatnonzero(labels == label))
        own = list(range(kind, devices, len(kinds)))
        others = [device for device in range(devices) if device % len(kinds) != kind]
        cut = round(share * len(rows)) if others else len(rows)
        for group, part in ((own, rows[:cut]), (others, rows[cut:])):
            # Turned, or what does not divide would always be the first devices'.
            turned = rng.permutation(group)
            for device, piece in zip(
                turned, np.array_split(part, max(1, len(group))), strict=False
            ):
                found[device].append(piece)
    return [np.concatenate(parts) for parts in found]


def by_group(groups: Column, devices: int, rng: np.random.Generator) -> list[Rows]:
    """Whole groups, such as the engines or persons that examples are of, dealt round."""
    names, member = np.unique(groups, return_inverse=True)
    _enough(len(names), devices, f"groups for {devices} devices")
    order = rng.permutation(len(names))
    return [np.flatnonzero(np.isin(member, order[device::devices])) for device in range(devices)]


def hold_out(
    shares: list[Rows], fraction: float, rng: np.random.Generator
) -> tuple[list[Rows], list[Rows]]:
    """(train, held out): of each device's rows `fraction` by chance are held out of training. A
    device of one row keeps it, one of none has none; any other holds out at least one, and keeps at
    least one."""
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction {fraction:g}; at least 0, below 1")
    train, held = [], []
    for rows in shares:
        number = min(len(rows) - 1, max(1, round(fraction * len(rows)))) if fraction else 0
        number = max(0, number)
        mask = np.zeros(len(rows), bool)
        mask[rng.choice(len(rows), number, replace=False)] = True
        train.append(rows[~mask])
        held.append(rows[mask])
    return train, held


def _enough(there: int, needed: int, what: str) -> None:
    """Raise `ValueError` where there is too little."""
    if needed < 1:
        raise ValueError(f"{needed} devices; at least 1")
    if there < needed:
        raise ValueError(f"{there} {what}; at least {needed}")
