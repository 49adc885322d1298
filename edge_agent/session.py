"""A plan at work: training in a stock ONNX Runtime session. Runs in the training child only, and in
simulations.

Weights live in two sets of buffers: a step reads one and writes the other, so nothing is copied.
The optimiser's state has one, as plans promise to read it before they write it. Threads are counted
and never spin: the device has other work.
"""

import math
import mmap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from msgspec import UNSET

from edge_agent.draws import drawn
from edge_agent.errors import one_line
from edge_agent.examples import Examples
from edge_agent.limits import OutOfMemory, require_room_for
from wire.checkpoint import FLOAT32, Weights
from wire.onnx_fields import check_places
from wire.plan import FROZEN_NAME, TRAIN_NAME, FileName, Manifest
from wire.tensors import Array

# The runtime has no exception of its own for it. Threads want memory, too.
_OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate memory", "pthread_create")


class BadPlan(Exception):
    """ONNX Runtime cannot load or run a graph of the plan."""


class CannotRun(Exception):
    """A graph that was loaded fails on what it was given: on an example that the model cannot
    take, or on weights that are no numbers any more. The plan's files are as they should be."""


class Diverged(Exception):
    """The loss or a weight is no longer finite: the learning rate is too high for this data."""


class Preempted(Exception):
    """Training was asked to stop."""


@dataclass(frozen=True)
class Trained:
    """What training gave: the change of each weight, and how it went."""

    delta: Weights
    examples: int
    steps: int
    loss: float


@dataclass
class Progress:
    """Where a training stands: `position` examples into the epoch `epoch`, counted from 0.

    `loss` is summed over those examples. `shuffle` is the state that the random generator had when
    the epoch began: it draws the epoch's order anew, and all that comes after.
    """

    epoch: int = 0
    position: int = 0
    loss: float = 0.0
    shuffle: Mapping[str, Any] = field(default_factory=dict)


def open_session(path: Path, threads: int) -> ort.InferenceSession:
    """A session on explicit, sleeping threads. Raises `BadPlan`, `OutOfMemory`."""
    _check_outside(path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # One block planned for all tensors of a step is larger than what they need in turn: by 24 MB of
    # 147 MB for the benchmarks' CNN with AdamW, and steps take as long.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    if threads > 1:
        require_room_for(threads)
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - the runtime's errors share no other base
        raise explained(path.name, error, BadPlan) from None


def _check_outside(path: Path) -> None:
    """Raise `BadPlan` for a graph with weights in any other file than the plan's own.

    The runtime would read whatever file the graph names, and the plan comes from the network.
    """
    frozen = path.parent / FROZEN_NAME
    files: dict[str, int] = {}
    try:
        if frozen.is_file():
            files[FROZEN_NAME] = frozen.stat().st_size
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        check_places(memoryview(data), files)
    except (OSError, ValueError) as error:  # an empty file cannot be mapped; BadModel
        raise BadPlan(f"{path.name} cannot be run: {error}") from None


def explained(graph: str, error: Exception, kind: type[Exception] = CannotRun) -> Exception:
    """What an error of the runtime means: only its text says so. `kind` is what most are."""
    text = str(error)
    if isinstance(error, MemoryError) or any(words in text for words in _OUT_OF_MEMORY):
        return OutOfMemory(f"{graph} cannot be run")
    # It quotes names of the graph, which comes from the network.
    return kind(f"{graph} cannot be run: {one_line(text)}")


class Trainer:
    """The plan's training graph with its weights and state; `step` runs one batch.

    `weights` are the model's, with what is given beside them: the base of a proximal term, and of
    the delta. A training that goes on brings its own, with its state, in `kept`, and the `steps`
    that it has made; one that begins takes the state in `carried` rather than its fill. `seed` is
    that of the random numbers that the plan takes, if any; `graph` is the plan's file.
    Raises `BadPlan`, `OutOfMemory`.
    """

    def __init__(
        self,
        manifest: Manifest,
        folder: Path,
        weights: Weights,
        threads: int,
        kept: Mapping[str, Array] | None = None,
        steps: int = 0,
        carried: Mapping[str, Array] | None = None,
        seed: int = 0,
        graph: FileName = TRAIN_NAME,
    ) -> None:
        self._manifest = manifest
        self._graph = graph
        self._session = open_session(folder / graph, threads)
        self._base = weights
        start = kept or (
            {p.name: weights[p.name] for p in manifest.parameters}
            | {s.name: np.full(s.shape, s.fill, FLOAT32) for s in manifest.state}
            | dict(carried or {})
        )
        made = {o.name for o in self._session.get_outputs()}
        fixed = {n: start[n] for n in manifest.carries if f"next/{n}" not in made}
        start = {n: start[n] for n in start if n not in fixed}
        # The two sets swap roles at each step; the state is in both. An OrtValue shares its array's
        # memory and holds the array, so each gets one of its own and `weights` stay as they are.
        now = {n: ort.OrtValue.ortvalue_from_numpy(np.array(a)) for n, a in start.items()}
        then = now | {
            p.name: ort.OrtValue.ortvalue_from_numpy(np.empty_like(start[p.name]))
            for p in manifest.parameters
        }
        self._sets = (now, then) if steps % 2 == 0 else (then, now)
        self._loss = ort.OrtValue.ortvalue_from_numpy(np.zeros((), FLOAT32))
        rate = np.asarray(manifest.learning_rate, FLOAT32)
        self._rate = ort.OrtValue.ortvalue_from_numpy(rate)
        # No step writes to these. The latter share the memory of `weights`.
        self._fixed = {n: ort.OrtValue.ortvalue_from_numpy(np.array(a)) for n, a in fixed.items()}
        bases = {name: weights[parameter] for parameter, name in manifest.bases.items()}
        bases |= {p.name: weights[p.name] for p in manifest.checkpoint if p.name not in start}
        self._bases = {n: ort.OrtValue.ortvalue_from_numpy(a) for n, a in bases.items()}
        first, second = self._sets
        self._bindings = (self._bind(first, second), self._bind(second, first))
        self.steps = steps
        self._seed = seed

    def _bind(self, read: dict[str, Any], write: dict[str, Any]) -> ort.IOBinding:
        binding = self._session.io_binding()
        taken = {i.name for i in self._session.get_inputs()}
        held = read | self._fixed | self._bases | {"learning_rate": self._rate}
        for name, value in held.items():
            if name in taken:
                binding.bind_ortvalue_input(name, value)
        each_step = {i.name for i in self._manifest.inputs} | {d.name for d in self._manifest.drawn}
        if unknown := sorted(taken - held.keys() - each_step):
            raise BadPlan(f"{self._graph} takes {unknown[0]!r}, which the manifest does not name")
        if lacking := sorted(each_step - taken):
            raise BadPlan(f"{self._graph} does not take {lacking[0]!r}, which the manifest names")
        for name, value in write.items():
            binding.bind_ortvalue_output(f"next/{name}", value)
        binding.bind_ortvalue_output("loss", self._loss)
        return binding

    def set_rate(self, rate: float) -> None:
        """The learning rate of the steps to come; until it is called, the plan's own."""
        self._rate.update_inplace(np.asarray(rate, FLOAT32))

    def step(self, batch: Examples) -> float:
        """One optimiser step; returns the batch's mean loss. Raises `CannotRun`,
        `OutOfMemory`."""
        binding = self._bindings[self.steps % 2]
        for i in self._manifest.inputs:
            binding.bind_cpu_input(i.name, np.ascontiguousarray(batch.arrays[i.name]))
        for name, numbers in self._drawn(len(batch)).items():
            binding.bind_cpu_input(name, numbers)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # noqa: BLE001 - the runtime's errors share no other base
            raise explained(self._graph, error) from None
        self.steps += 1
        return float(self._loss.numpy())

    def _drawn(self, batch: int) -> dict[str, Array]:
        """The random numbers of the step to come."""
        draws = self._manifest.drawn
        return drawn(draws, self._seed, self.steps, batch) if draws else {}

    def state(self) -> dict[str, Array]:
        """The weights and the optimiser's state now: the runtime's own memory, so until the next
        step."""
        now = self._sets[self.steps % 2] | self._fixed
        return {name: value.numpy() for name, value in now.items()}

    def weights(self) -> Weights:
        """The weights now, as copies: what `numpy()` shows is the runtime's own memory."""
        current = self.state()
        return {p.name: current[p.name].copy() for p in self._manifest.parameters}

    def delta(self) -> Weights:
        """The change of each weight since the start. Raises `Diverged` when one is not finite."""
        changed = self.weights()
        for name, values in changed.items():
            values -= self._base[name]
            if not np.isfinite(values).all():
                raise Diverged(f"the change of {name!r} is not finite")
        return changed


def train(
    trainer: Trainer,
    manifest: Manifest,
    examples: Examples,
    rng: np.random.Generator,
    stop: Callable[[], bool],
    progress: Progress | None = None,
    version: int = 0,
) -> Trained:
    """All epochs of one round, shuffled anew each time; asks `stop` after every batch.

    `progress` says where to go on, with a trainer and an `rng` of the same kind as before, and is
    kept up to date. `version` is that of the model that the round started from. Raises `Preempted`,
    or `Diverged` at the first loss that is not finite.
    """
    progress = progress or Progress()
    pace = _pace(trainer, manifest, version, len(examples))
    mean = 0.0
    if progress.shuffle:
        rng.bit_generator.state = progress.shuffle
    while progress.epoch < manifest.epochs:
        progress.shuffle = rng.bit_generator.state
        order = rng.permutation(len(examples))
        for chosen in _batches(order[progress.position :], manifest.batch):
            if pace is not None:
                pace()
            found = trainer.step(examples.where(chosen))
            if not math.isfinite(found):
                raise Diverged(f"the loss is {found} after {trainer.steps} steps")
            progress.loss += found * len(chosen)
            progress.position += len(chosen)
            if stop():
                raise Preempted
        mean = progress.loss / len(examples)
        progress.epoch, progress.position, progress.loss = progress.epoch + 1, 0, 0.0
    return Trained(trainer.delta(), len(examples), trainer.steps, mean)


def _pace(
    trainer: Trainer, manifest: Manifest, version: int, examples: int
) -> Callable[[], None] | None:
    """Set the learning rate; what is to be called before each step, if it changes between them."""
    steps = manifest.epochs * math.ceil(examples / manifest.batch)

    def pace() -> None:
        trainer.set_rate(manifest.rate(version, trainer.steps, steps))

    if manifest.schedule is UNSET:
        return None
    pace()
    return pace if manifest.schedule.over == "steps" else None


def _batches(order: np.ndarray[Any, Any], size: int) -> Iterator[np.ndarray[Any, Any]]:
    for start in range(0, len(order), size):
        yield order[start : start + size]
