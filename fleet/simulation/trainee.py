"""One training session that serves many devices, one after the other: to open one takes a third of
the time that a device's training of a small network does."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edge_agent.session import Trainer
from wire.checkpoint import FLOAT32, Weights
from wire.plan import Manifest
from wire.tensors import Array


class Trainee(Trainer):
    """The trainer of whichever device is to train now: see `begin`."""

    def __init__(self, manifest: Manifest, plan: Path) -> None:
        zeros = {p.name: np.zeros(p.shape, FLOAT32) for p in manifest.checkpoint}
        super().__init__(manifest, plan, zeros, threads=1)

    def begin(self, weights: Weights, carried: Mapping[str, Array], seed: int) -> None:
        """Be as a new trainer would, with these arguments."""
        self.steps, self._seed = 0, seed
        for name, values in self._base.items():  # the runtime's own memory, as below
            np.copyto(values, weights[name])
        now = self.state()
        for p in self._manifest.parameters:
            np.copyto(now[p.name], weights[p.name])
        for slot in self._manifest.state:
            np.copyto(now[slot.name], carried.get(slot.name, slot.fill))
        self.set_rate(self._manifest.learning_rate)
