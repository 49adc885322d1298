"""The devices of an experiment: who has which examples, and who behaves how."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from edge_agent.examples import Examples
from fleet import virtual
from fleet.simulation import experiment, splits
from fleet.simulation.devices import Devices, fitting
from fleet.simulation.experiment import Behaving, Experiment, ExperimentError
from fleet.simulation.sources import Source
from fleet.simulation.splits import Rows
from fleet.virtual import HONEST, Behaviour
from wire.plan import Input
from wire.tensors import Array

_SPLIT, _HOLD, _BEHAVE, TEST = range(4)
"""What chance is drawn for, each by itself: another behaviour deals the same examples."""


def generator(seed: int, what: int) -> np.random.Generator:
    """Of a seed, for one purpose."""
    return np.random.default_rng([seed, what])


def devices_of(asked: Experiment, source: Source, inputs: tuple[Input, ...], seed: int) -> Devices:
    """Raises `ExperimentError`."""
    pool = fitted(source.pool, inputs, "data")
    shares = _shares(asked, source, inputs, generator(seed, _SPLIT))
    train, held = splits.hold_out(shares, asked.held_out, generator(seed, _HOLD))
    return Devices(
        pool=pool,
        shares=train,
        held_out=held if asked.held_out else None,
        behaviours=behave(asked.behaviours, len(shares), generator(seed, _BEHAVE)),
    )


def fitted(arrays: Mapping[str, Array], inputs: tuple[Input, ...], what: str) -> Examples:
    """As the plan takes them. Raises `ExperimentError` where it does not."""
    try:
        return Examples(fitting(Examples(dict(arrays)), inputs, what))
    except ValueError as error:
        raise ExperimentError(str(error)) from None


def _shares(
    asked: Experiment, source: Source, inputs: tuple[Input, ...], rng: np.random.Generator
) -> list[Rows]:
    if source.owned is not None:
        if asked.split is not None:
            raise ExperimentError("split: data.script has dealt each device its own already")
        if asked.devices not in (None, len(source.owned)):
            there = f"the data are of {len(source.owned)}; leave it out"
            raise ExperimentError(f"devices = {asked.devices}: {there}")
        return source.owned
    if asked.devices is None:
        raise ExperimentError("devices: missing: to how many are the examples dealt?")
    try:
        return _dealt(asked.split or experiment.Alike(), asked.devices, source, inputs, rng)
    except ValueError as error:
        if isinstance(error, ExperimentError):
            raise
        raise ExperimentError(f"split: {error}") from None


def _dealt(
    split: experiment.Split,
    devices: int,
    source: Source,
    inputs: tuple[Input, ...],
    rng: np.random.Generator,
) -> list[Rows]:
    match split:
        case experiment.Alike():
            return splits.alike(len(source), devices, rng)
        case experiment.Shards():
            return splits.shards(_labels(split.label, source, inputs), devices, split.each, rng)
        case experiment.Dirichlet():
            labels = _labels(split.label, source, inputs)
            return splits.dirichlet(labels, devices, split.concentration, rng)
        case experiment.Majority():
            return splits.majority(_labels(split.label, source, inputs), devices, split.share, rng)
        case experiment.Groups():
            return splits.by_group(_values("column", split.column, source), devices, rng)


def _labels(name: str | None, source: Source, inputs: tuple[Input, ...]) -> Array:
    """Those that the split asks for, or of the one input that has classes."""
    if name is None:
        found = [i.name for i in inputs if i.classes is not None and i.shape == ()]
        if len(found) != 1:
            which = f"{len(found)} inputs of the plan are labels"
            raise ExperimentError(f"split.label: missing: {which}; say by which to split")
        name = found[0]
    return _values("label", name, source)


def _values(key: str, name: str, source: Source) -> Array:
    array = source.pool.get(name)
    if array is None or array.ndim != 1:
        flat = ", ".join(repr(n) for n, a in source.pool.items() if a.ndim == 1) or "none"
        raise ExperimentError(f"split.{key} = {name!r}: expected one of {flat}")
    return array


def behave(
    asked: Sequence[Behaving], devices: int, rng: np.random.Generator
) -> Behaviour | list[Behaviour]:
    """One for each device, by chance in the numbers asked; who is left is honest."""
    if not asked:
        return HONEST
    wanted = np.array([b.share for b in asked] + [max(0.0, 1 - sum(b.share for b in asked))])
    exact = wanted / wanted.sum() * devices
    counts = np.floor(exact + 1e-9).astype(int)
    # What is left over goes to those who lost most by rounding.
    for kind in np.argsort(counts - exact, kind="stable")[: devices - counts.sum()]:
        counts[kind] += 1
    kinds = [*map(behaviour_of, asked), HONEST]
    order = rng.permutation(np.repeat(np.arange(len(kinds)), counts))
    return [kinds[kind] for kind in order]


def behaviour_of(asked: Behaving) -> Behaviour:
    """A ready-made one, but for what is said."""
    like: Behaviour = getattr(virtual, asked.like.upper())
    own: dict[str, Any] = {
        key: float(value) if isinstance(value, float) else value
        for key, value in msgspec.structs.asdict(asked).items()
        if key not in ("share", "like") and value is not None
    }
    return dataclasses.replace(like, **own)
