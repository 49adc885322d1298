"""A device that really trains, in this process: the agent's own training, uploaded by real HTTP.

    learner = Learner(await Device.enroll(url, token), plan, {"x": x, "label": label}, (1,))
    await learner.learn()

An agent is a process with a training child; of learners one machine runs twenty at once. What the
device does with its update is its own: a `FlippedDevice` learns, too, before it lies.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from edge_agent import session
from edge_agent.examples import Examples
from edge_agent.session import Trained
from fleet.clients import Device
from wire.checkpoint import Weights
from wire.messages import Assignment
from wire.plan import Manifest
from wire.tensors import Array


class Learner:
    """A device, a compiled plan's folder, and the device's own examples (arrays by input name).

    Chance is drawn from `seed` (any whole numbers) and the round's number alone, so the same fleet
    makes the same updates again.
    """

    def __init__(
        self, device: Device, plan: Path, examples: Mapping[str, Array], seed: tuple[int, ...]
    ) -> None:
        self.device = device
        self._plan = plan
        self._examples = Examples(dict(examples))
        self._seed = seed

    async def learn(self) -> Assignment:
        """One round: take an assignment, train the model on all examples, deliver the change.

        Raises `NoWork`, and what `edge_agent.session.train` raises.
        """
        assignment = await self.device.take()
        manifest, weights = await self.device.fetch(assignment)
        seed = np.random.SeedSequence([*self._seed, assignment.round]).generate_state(1)[0]
        assignment = msgspec.structs.replace(assignment, seed=int(seed))
        trained = await asyncio.to_thread(self._train, manifest, weights, assignment)
        data = self.device.write(
            *(assignment, trained.delta, trained.examples),
            steps=trained.steps,
            loss=trained.loss,
        )
        await self.device.deliver(assignment, data)
        return assignment

    def _train(self, manifest: Manifest, weights: Weights, assignment: Assignment) -> Trained:
        """Blocking."""
        trainer = session.Trainer(manifest, self._plan, weights, threads=1, seed=assignment.seed)
        rng = np.random.default_rng(assignment.seed)
        return session.train(
            *(trainer, manifest, self._examples, rng),
            stop=lambda: False,
            version=assignment.version,
        )
