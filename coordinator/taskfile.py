"""The task file: what to train, how rounds run, who takes part. TOML, written by a person.

Unknown keys and bad values are errors that name the key, the value and what is allowed. The
classes below are the reference of every key; `docs/task-file.md` explains them.
"""

import math
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from coordinator.aggregation.options import (
    Aggregation,
    FedAvg,
    FedNova,
    Streaming,
    fewest,
    kind_of,
)
from coordinator.aggregation.options import problems as aggregation_problems
from coordinator.codec_choice import AUTO, contradiction
from coordinator.compiler.options import numbers
from coordinator.compiler.options.losses import CrossEntropy, Loss, MeanSquaredError
from coordinator.compiler.options.model import Model
from coordinator.compiler.options.optimizers import Optimizer, Sgd
from coordinator.compiler.options.section import NotNegative, Section
from coordinator.compiler.options.training import Training
from coordinator.selection.options import Selection, Uniform
from schedules.duration import Duration
from schedules.schedule import READY_MADE, Schedule, ready_made
from wire.errors import WireError
from wire.messages import Identifier, Labels
from wire.sizes import Size
from wire.strict import decode_toml

TASK_FILE_LIMIT = 1 << 20
_MOST_DOTS = 1000  # of a line: `a.a.a...` costs the TOML parser the square of its length in memory
_HOOKS = {Duration: Duration.parse, Size: Size.parse}
_EXAMPLES = 500  # of a device: what an error message reckons with


class TaskFileError(ValueError):
    """A task file that cannot be used; the message names the file, the key and what is allowed."""


class Round(Section, frozen=True, kw_only=True):
    """When a round closes: at `goal` updates, or `deadline` after its first assignment.

    Fewer than `minimum` updates leave the model as it was. `over_selection` times the goal are
    asked, since some never answer: a first guess, which adapts to how many do, from 1 to
    `over_selection_limit`. The task ends at model version `rounds`; 0 runs until stopped.

    `late` says what an update is that arrives after its round's end: refused; folded into the next
    round; or, with `buffer`, as welcome as any, since rounds do not wait for devices. Then one made
    from a model s versions ago weighs (1 + s)^-staleness_exponent as much, and is refused when s is
    above `max_staleness`. See `coordinator.round`.
    """

    goal: Annotated[int, Meta(ge=1, le=1_000_000)]
    minimum: Annotated[int, Meta(ge=1)] = 1
    deadline: Duration | None = None
    over_selection: Annotated[float, Meta(ge=1, le=10)] = 1.3
    over_selection_limit: Annotated[float, Meta(ge=1, le=10)] = 3.0
    late: Literal["refuse", "fold", "buffer"] = "refuse"
    max_staleness: Annotated[int, Meta(ge=1, le=1000)] = 5
    staleness_exponent: NotNegative = 0.5
    rounds: Annotated[int, Meta(ge=0)] = 0


class Upload(Section, frozen=True, kw_only=True):
    """How an update is coded on its way up: a codec of `wire.codecs.spec`, or `auto`, the one with
    the least error of which an update has `budget` bytes at most; without a budget, the default.

    `lazy`: a device says "nothing new", and keeps its change for the next time, while that is less
    than `lazy` times as long as the model's own movement a version (LAG, Chen et al., 2018; see
    `edge_agent.lazy`). 0: it always sends."""

    codec: str = AUTO
    budget: Size | None = None
    lazy: NotNegative = 0.0


class Keep(Section, frozen=True, kw_only=True):
    """When a device hands a new model to its local programs.

    Both the new model and the one they have are measured on the device's own held-out examples, by
    the first of `training.metrics`. The new one is kept unless it is worse by more than
    `tolerance`, in the metric's own unit: 0.01 is one point of accuracy, or 0.01 of the loss.
    """

    tolerance: NotNegative = 0.0


class Participants(Section, frozen=True, kw_only=True):
    """Who may take part: devices that carry all of these labels (given at enrolment)."""

    labels: Labels = msgspec.field(default_factory=dict)


class TaskFile(Section, frozen=True, kw_only=True):
    """The whole file."""

    name: Identifier
    model: Model
    loss: Loss
    optimizer: Optimizer
    training: Training = Training()
    round: Round
    aggregation: Aggregation = FedAvg()
    upload: Upload = Upload()
    keep: Keep = Keep()
    schedule: str | Schedule = "continuous"
    participants: Participants = Participants()
    selection: Selection = Uniform()

    @property
    def looks_at_each(self) -> bool:
        """Whether its strategy looks at single updates, rather than at their sum."""
        return not isinstance(self.aggregation, Streaming)

    @property
    def timing(self) -> Schedule:
        """The schedule itself, ready-made or written out."""
        return ready_made(self.schedule) if isinstance(self.schedule, str) else self.schedule

    @property
    def deadline(self) -> float:
        """Seconds from a round's first assignment to its close."""
        own = self.round.deadline
        return float(self.timing.round_deadline if own is None else own)


def parse(text: str, source: str = "task file") -> TaskFile:
    """Read a task file's text. Raises `TaskFileError`."""
    if len(text) > TASK_FILE_LIMIT:
        raise TaskFileError(f"{source}: over {TASK_FILE_LIMIT} characters")
    if any(line.count(".") > _MOST_DOTS for line in text.splitlines()):
        raise TaskFileError(f"{source}: not TOML: a line with over {_MOST_DOTS} dots")
    try:
        task = decode_toml(text, TaskFile, _HOOKS)
    except WireError as error:
        raise TaskFileError(f"{source}: {error.detail}") from None
    for problem in _problems(task):
        raise TaskFileError(f"{source}: {problem}")
    return task


def load(path: Path) -> TaskFile:
    """Read a task file from disk. Raises `TaskFileError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskFileError(f"{path}: cannot be read: {error}") from None
    return parse(text, str(path))


def _problems(task: TaskFile) -> list[str]:
    """What no single key shows: values that contradict each other."""
    found = []
    if isinstance(task.schedule, str) and task.schedule not in READY_MADE:
        found.append(
            f"schedule = {task.schedule!r}: expected one of {', '.join(READY_MADE)}, "
            "or a [schedule] table"
        )
        return found
    if task.round.minimum > task.round.goal:
        found.append(
            f"round.minimum = {task.round.minimum}: at most round.goal ({task.round.goal})"
        )
    if task.round.minimum < fewest(task.aggregation):
        found.append(
            f"round.minimum = {task.round.minimum}: at least {fewest(task.aggregation)}, since "
            f"aggregation.kind = {kind_of(task.aggregation)!r} cannot combine fewer"
        )
    if not 1 <= task.deadline <= 30 * 86400:
        found.append(f"round.deadline = {Duration(task.deadline)}: from 1 s to 30 days")
    if "accuracy" in task.training.metrics and not isinstance(task.loss, CrossEntropy):
        found.append("training.metrics: 'accuracy' needs the loss 'cross_entropy'")
    if "rmse" in task.training.metrics and not isinstance(task.loss, MeanSquaredError):
        found.append("training.metrics: 'rmse' needs the loss 'mse'")
    found += aggregation_problems(task.aggregation)
    found += _upload_problems(task)
    if isinstance(task.aggregation, FedNova):
        found += _normalised(task, task.aggregation)
    if len(set(task.training.metrics)) != len(task.training.metrics):
        found.append("training.metrics: a metric is named twice")
    for name in ("loss", "optimizer", "training", "upload", "keep", "round"):
        for key, value in _floats(name, getattr(task, name)):
            if problem := numbers.problem(value):
                found.append(f"{key} = {value}: {problem}")
    return found or _overshooting(task)


def _upload_problems(task: TaskFile) -> list[str]:
    """What is wrong with how updates are coded."""
    if task.upload.lazy and task.looks_at_each:
        return [
            f"upload.lazy = {task.upload.lazy}: expected 0, since aggregation.kind = "
            f"{kind_of(task.aggregation)!r} takes many changes of zero for the honest ones"
        ]
    one_by_one = kind_of(task.aggregation) if task.looks_at_each else None
    problem = contradiction(task.upload.codec, task.upload.budget, one_by_one)
    return [problem] if problem else []


def _normalised(task: TaskFile, options: FedNova) -> list[str]:
    """What FedNova must know of the devices' work."""
    found = []
    if isinstance(task.optimizer, Sgd) and task.optimizer.momentum != options.momentum:
        own, its = task.optimizer.momentum, options.momentum
        found.append(f"aggregation.momentum = {its}: must be optimizer.momentum ({own})")
    if options.max_steps is None:
        # How many examples a device has, only it knows.
        steps = task.training.epochs * math.ceil(_EXAMPLES / task.training.batch)
        found.append(
            "aggregation.max_steps: 'fednova' needs it, since a device that claims more steps than "
            "it did lengthens the step of all: write training.epochs x the examples of a device / "
            f"training.batch; with {_EXAMPLES} examples, max_steps = {steps}"
        )
    return found


def _overshooting(task: TaskFile) -> list[str]:
    """A proximal term by which SGD diverges on any data.

    A step leaves 1 - rate mu of the distance to the base, which grows when that is below -1 (with
    momentum m, below -1 - 2 m). AdamW's steps are of one size, whatever the gradient's.
    """
    if not isinstance(task.optimizer, Sgd):
        return []
    most = 2 * (1 + task.optimizer.momentum) / task.optimizer.learning_rate
    if task.training.proximal < most:
        return []
    return [
        f"training.proximal = {task.training.proximal}: below {most:g} at this "
        "optimizer.learning_rate, or each step overshoots by more than the one before it"
    ]


def _floats(name: str, section: Section) -> list[tuple[str, float]]:
    fields = msgspec.structs.asdict(section).items()
    return [(f"{name}.{key}", value) for key, value in fields if isinstance(value, float)]
