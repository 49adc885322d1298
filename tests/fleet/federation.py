"""A small fleet in one process: a task's devices, whose trainings are real ones, and its rounds.

A device trains by `edge_agent.sitting` on the compiled plan, with its own examples and state
folder. The coordinator reads, checks and sums its update, and closes the round, by the task's
aggregator. Nothing is random: what a device shuffles by is the round's number and its own.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx

from coordinator.aggregation import Contribution, aggregator
from coordinator.compiler.compile import compile_task
from coordinator.compiler.folder import write_plan_dir
from coordinator.plans import codec_of
from coordinator.taskfile import TaskFile
from edge_agent.job import Job, Outcome
from edge_agent.sitting import run
from edge_agent.state import StateFolder
from wire import checkpoint, update
from wire.checkpoint import Weights
from wire.digest import digest_of
from wire.messages import Assignment

Arrays = dict[str, np.ndarray]


class Fleet:
    """`rounds` have made the model `weights`; `folder` is a new one."""

    def __init__(
        self, task: TaskFile, model: onnx.ModelProto, examples: Sequence[Arrays], folder: Path
    ) -> None:
        folder.mkdir()
        self.plan = folder / "plan"
        onnx.save(model, folder / task.model.file)
        compiled = compile_task(task, folder / task.model.file)
        write_plan_dir(compiled, self.plan)
        self.manifest = compiled.manifest
        self.codec = codec_of(task, self.manifest)
        self.devices = range(len(examples))
        self.rounds = 0
        self._data = compiled.initial
        self._aggregator = aggregator(task.aggregation, self.manifest.parameters)
        self._state: bytes | None = None
        self._folder = folder
        for device, arrays in enumerate(examples):
            StateFolder(folder / str(device)).create()
            (folder / str(device) / "examples").mkdir()
            np.savez(folder / str(device) / "examples" / "all.npz", **arrays)

    @property
    def weights(self) -> Weights:
        """Of the newest model, with what is given beside them."""
        return checkpoint.read(self._data, self.manifest.checkpoint)

    def state_of(self, device: int) -> StateFolder:
        return StateFolder(self._folder / str(device))

    def round(self, chosen: Iterable[int] = (), refused: Iterable[int] = ()) -> None:
        """One round of those that are chosen, all by default; it closes without the `refused`."""
        self.rounds += 1
        total = self._aggregator.empty()
        (self._folder / "model").write_bytes(self._data)
        for device in chosen or self.devices:
            accepted = device not in refused
            contribution = self.serve(device, accepted)
            self._aggregator.check(contribution)
            if accepted:
                total.add(contribution)
        made = self._aggregator.close(self.weights, self._state, total)
        self._data, self._state = checkpoint.write(made.weights), made.state

    def serve(self, device: int, accepted: bool = True) -> Contribution:
        """A device trains, and uploads; what comes of it at the coordinator."""
        work = self.assignment(device)
        report = run(self.job(device, work), listen=lambda: lambda: False)
        assert report.outcome is Outcome.DONE, report
        state = self.state_of(device)
        found = update.read(state.update(work.id), self.manifest.parameters, self.codec)
        state.forget_update(work.id, accepted=accepted)
        return Contribution(found.delta, found.header.examples, found.header.steps, 0)

    def job(self, device: int, work: Assignment) -> Job:
        state = self.state_of(device)
        return Job(
            plan=str(self.plan),
            model=str(self._folder / "model"),
            examples=str(state.folder / "examples"),
            columns={},
            hold_out=0.0,
            threads=1,
            evaluate=False,
            assignment=work,
            update=str(state.update_path(work.id)),
            checkpoint=str(state.checkpoint_path(work.id)),
            residuals=str(state.residuals),
        )

    def assignment(self, device: int) -> Assignment:
        return Assignment(
            id=f"{self.manifest.task}-{self.rounds}-{device}",
            task=self.manifest.task,
            round=self.rounds,
            version=self.rounds,
            plan=self.manifest.digest(),
            model=digest_of(self._data),
            codec=self.codec,
            deadline=3600.0,
            upload_limit=update.size_limit(self.manifest.parameters, self.codec),
            seed=1000 * self.rounds + device,
        )
