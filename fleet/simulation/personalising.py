"""What devices gain by versions of their own of a published model."""

import math

from msgspec.structs import asdict

from coordinator.spread import gain
from fleet.simulation.crew import AT_ONCE, Crew
from fleet.simulation.data import Data
from fleet.simulation.learning import chance
from fleet.simulation.result import Personal
from fleet.simulation.workshop import Workshop
from wire.plan import Manifest

_NO_ROUND = 0
"""Rounds are counted from 1: no training has this chance."""


def personalised(
    manifest: Manifest, data: Data, crew: Crew, model: str, seed: int
) -> Personal | None:
    """Over the devices that have examples of both kinds and whose tuning does not diverge; `None`
    where there are none, or the plan asks for no personal versions. A figure that is not finite
    says nothing."""
    if manifest.tuning is None:
        return None
    asked = {
        device: crew.ask(AT_ONCE, Workshop.tune, model, device, chance(seed, device, _NO_ROUND))
        for device in range(len(data.shares.ends))
        if data.shares.size(device) and data.held_out.size(device)
    }
    found = {device: pending.result() for device, pending in asked.items()}
    pairs = {
        device: pair
        for device, pair in found.items()
        if pair is not None and all(map(math.isfinite, pair))
    }
    if not pairs:
        return None
    better = manifest.metrics[0].better
    return Personal(
        **asdict(gain([*pairs.values()], better)),
        per_device={device: gain([pair], better).mean for device, pair in pairs.items()},
    )
