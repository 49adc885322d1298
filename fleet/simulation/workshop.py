"""Where devices' work is done: in a process of its own, or in the simulation's. Blocking.

What comes in and what goes out is plain data; nothing that is done here depends on what was done
before, but for what a device keeps in its own folder.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from edge_agent import personal, session
from edge_agent.carried import Carried
from edge_agent.evaluation import Evaluator, Totals, metrics_of
from edge_agent.examples import Examples
from edge_agent.job import Outcome
from edge_agent.reporting import Reporting
from edge_agent.session import CannotRun, Diverged, Trained
from edge_agent.state import StateFolder
from fleet.simulation.data import Data
from fleet.simulation.result import Learnt
from fleet.simulation.trainee import Trainee
from wire import checkpoint, update
from wire.checkpoint import Weights
from wire.errors import WireError
from wire.messages import Assignment
from wire.plan import Manifest

ACCEPTED, LATE = "accepted", "late"

_BATCH = 250
"""Examples that are evaluated at a time: more than on a device, whose memory is small."""


class Training(NamedTuple):
    """A device trains for an assignment, from the model in the file `model`. `seconds` is the
    virtual time it takes; `heard`: what became of earlier updates, by assignment, as the device
    has heard since it trained last. A `watched` one is measured."""

    device: int
    assignment: Assignment
    model: str
    seconds: float
    heard: tuple[tuple[str, str], ...] = ()
    watched: bool = False


class Done(NamedTuple):
    """How a training ended; `data` are the bytes of its update, if there is one, and `learnt` what
    a watched device learnt."""

    outcome: Outcome
    data: bytes = b""
    detail: str = ""
    learnt: Learnt | None = None


class Workshop:
    """Of one plan. `folder` is for what devices keep, if the plan's task has them keep something;
    `scratch` is this workshop's own."""

    def __init__(
        self, manifest: Manifest, plan: Path, data: Data, folder: Path | None, scratch: Path
    ) -> None:
        self._manifest = manifest
        self._plan = plan
        self._data = data
        self._folder = folder
        self._scratch = scratch
        self._trainee: Trainee | None = None
        self._evaluator: Evaluator | None = None
        self._model: tuple[str, Weights] = ("", {})

    # Training

    def train(self, training: Training) -> Done:
        """Raises `BadPlan`, `OutOfMemory`, `OSError`."""
        work = training.assignment
        state = self._state_of(training)
        path = state.update_path(work.id) if state else self._scratch / f"{work.id}.update"
        try:
            learnt = self._write(training, path, state)
        except Diverged as error:
            return Done(Outcome.DIVERGED, detail=str(error))
        except CannotRun as error:
            return Done(Outcome.CRASHED, detail=str(error))
        data = path.read_bytes()
        if state is None:
            path.unlink()
        return Done(Outcome.DONE, data, learnt=learnt)

    def _write(self, training: Training, path: Path, state: StateFolder | None) -> Learnt | None:
        """Train, and write the update, as the agent's training child does."""
        manifest, work = self._manifest, training.assignment
        weights = self._weights(training.model)
        kept = str(state.residuals) if state else None
        carried = Carried(work, manifest, path.parent, kept)
        reporting = Reporting(work, manifest, path, kept)
        rng = np.random.default_rng(work.seed)
        trainer = self._begun(weights, carried, work.seed)
        examples = self._data.training(training.device)
        trained = session.train(trainer, manifest, examples, rng, stop=_never, version=work.version)
        carried.end(trainer.state())
        own = {p.name: weights[p.name] for p in manifest.parameters}
        header = _header(training, trained)
        try:
            reporting.write(header, own, trained.delta, rng)
        except WireError as error:
            raise Diverged(error.detail) from None
        if not training.watched:
            return None
        made = weights | {name: own[name] + change for name, change in trained.delta.items()}
        return Learnt(self.metrics(weights, examples), self.metrics(made, examples))

    def _begun(self, weights: Weights, carried: Carried, seed: int) -> Trainee:
        if self._trainee is None:
            self._trainee = Trainee(self._manifest, self._plan)
        self._trainee.begin(weights, carried.begin(), seed)
        return self._trainee

    def _state_of(self, training: Training) -> StateFolder | None:
        """What the device keeps, once it has heard what it should know by now."""
        if self._folder is None:
            return None
        state = StateFolder(self._folder / str(training.device))
        state.create()
        for assignment, answer in training.heard:
            late = self._manifest.task if answer == LATE else ""
            state.forget_update(assignment, late, accepted=answer == ACCEPTED)
        return state

    # Evaluating

    def totals(self, model: str, start: int, stop: int) -> Totals:
        """Of a part of the test set."""
        assert self._data.test is not None
        return self._totals(self._weights(model), _part(self._data.test, start, stop))

    def evaluate(self, model: str, devices: Sequence[int]) -> list[dict[str, float]]:
        """The metrics of each of these devices on its held-out examples."""
        return [self.metrics(self._weights(model), self._data.held(device)) for device in devices]

    def metrics(self, weights: Weights, examples: Examples) -> dict[str, float]:
        """Of at least one example."""
        return metrics_of(self._manifest, self._totals(weights, examples), len(examples))

    def _totals(self, weights: Weights, examples: Examples) -> Totals:
        if self._evaluator is None:
            self._evaluator = Evaluator(self._manifest, self._plan, threads=1)
        return self._evaluator.totals(weights, examples, _BATCH)

    def _weights(self, model: str) -> Weights:
        if self._model[0] != model:
            data = Path(model).read_bytes()
            self._model = model, checkpoint.read(data, self._manifest.checkpoint)
        return self._model[1]

    # A version of its own

    def tune(self, model: str, device: int, seed: int) -> tuple[float, float] | None:
        """The first of the metrics on a device's held-out examples: of a published model, and
        of the version that the device makes of it; `None` where that diverges."""
        weights = self._weights(model)
        try:
            tuned = personal.tune(
                *(self._manifest, self._plan, weights),
                *(self._data.training(device), self._data.held(device)),
                threads=1,
                seed=seed,
                stop=_never,
            )
        except Diverged:
            return None
        name = self._manifest.metrics[0].name
        return tuned.published[name], tuned.metrics[name]

    # Alone

    def alone(self, model: str, device: int, epochs: int, seed: int) -> list[dict[str, float]]:
        """A device trains alone: the metrics on the test set before the first epoch and after
        each, which are the same for one without examples. Raises `Diverged`, too."""
        manifest = _of_epochs(self._manifest, epochs)
        test = self._data.test
        assert test is not None
        weights, examples = self._weights(model), self._data.training(device)
        found = [self.metrics(weights, test)]
        if not len(examples):
            return found * (epochs + 1)
        trainer = Trainee(manifest, self._plan)
        trainer.begin(weights, {}, seed)
        progress = session.Progress()

        def after_batch() -> bool:
            if progress.position == len(examples):
                found.append(self.metrics(weights | trainer.weights(), test))
            return False

        rng = np.random.default_rng(seed)
        session.train(trainer, manifest, examples, rng, after_batch, progress)
        return found


def _never() -> bool:
    return False


def _of_epochs(manifest: Manifest, epochs: int) -> Manifest:
    return msgspec.structs.replace(manifest, epochs=epochs)


def _part(examples: Examples, start: int, stop: int) -> Examples:
    return Examples({name: array[start:stop] for name, array in examples.arrays.items()})


def _header(training: Training, trained: Trained) -> update.UpdateHeader:
    work = training.assignment
    return update.UpdateHeader(
        assignment=work.id,
        plan=work.plan,
        base=work.model,
        codec=work.codec,
        examples=trained.examples,
        steps=trained.steps,
        loss=trained.loss,
        seconds=training.seconds,
    )
