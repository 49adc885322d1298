"""The task file: what to train, how rounds run, who takes part. TOML, written by a person.

Unknown keys and bad values are errors that name the key, the value and what is allowed. The
classes below are the reference of every key; `docs/task-file.md` explains them.
"""

import math
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from coordinator import exact
from coordinator.aggregation.options import (
    Aggregation,
    FedAvg,
    FedNova,
    Scaffold,
    Streaming,
    fewest,
    kind_of,
)
from coordinator.aggregation.options import problems as aggregation_problems
from coordinator.codec_choice import AUTO, EXACT, contradiction
from coordinator.compiler.options import checks, metrics, numbers
from coordinator.compiler.options.losses import Loss
from coordinator.compiler.options.model import Model
from coordinator.compiler.options.optimizers import AdamW, Optimizer, Sgd
from coordinator.compiler.options.section import NotNegative, Section
from coordinator.compiler.options.statistics import Statistics
from coordinator.compiler.options.training import Training
from coordinator.selection.options import Selection, Uniform
from schedules.duration import Duration
from schedules.schedule import READY_MADE, Schedule, ready_made
from wire.errors import Rule, WireError
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


class AnyTask(Section, frozen=True, kw_only=True):
    """What the files of all tasks have in common."""

    name: Identifier
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
    def adds_up(self) -> bool:
        """Whether its strategy adds up what all updates ever said."""
        return isinstance(self.aggregation, Scaffold)

    @property
    def timing(self) -> Schedule:
        """The schedule itself, ready-made or written out."""
        return ready_made(self.schedule) if isinstance(self.schedule, str) else self.schedule

    @property
    def deadline(self) -> float:
        """Seconds from a round's first assignment to its close."""
        own = self.round.deadline
        return float(self.timing.round_deadline if own is None else own)


class TaskFile(AnyTask, frozen=True, kw_only=True):
    """The whole file of a task that trains a model."""

    model: Model
    loss: Loss | Annotated[tuple[Loss, ...], Meta(min_length=1, max_length=16)]
    optimizer: Optimizer

    @property
    def losses(self) -> tuple[Loss, ...]:
        """The losses whose weighted sum is trained: `[loss]`, or every `[[loss]]`."""
        return self.loss if isinstance(self.loss, tuple) else (self.loss,)


class StatisticsFile(AnyTask, frozen=True, kw_only=True):
    """The whole file of a task that gathers statistics of the devices' examples: every device
    counts alike in a round, and each of its examples once (see `coordinator.exact`).

    A device takes each new model: what is so of the fleet need not be so of its own examples.
    """

    statistics: Statistics
    training: Training = Training(batch=256)
    aggregation: Aggregation = FedAvg(by="uniform")
    keep: Keep = Keep(tolerance=1e30)


_TRAINING = ("model", "loss", "optimizer")
"""The tables that only a task which trains a model has."""


def parse(text: str, source: str = "task file") -> TaskFile | StatisticsFile:
    """Read a task file's text. Raises `TaskFileError`."""
    if len(text) > TASK_FILE_LIMIT:
        raise TaskFileError(f"{source}: over {TASK_FILE_LIMIT} characters")
    if any(line.count(".") > _MOST_DOTS for line in text.splitlines()):
        raise TaskFileError(f"{source}: not TOML: a line with over {_MOST_DOTS} dots")
    try:
        task = decode_toml(text, _kind_of(text), _HOOKS)
    except WireError as error:
        raise TaskFileError(f"{source}: {error.detail}") from None
    found = _of_statistics(task) if isinstance(task, StatisticsFile) else _problems(task)
    for problem in found:
        raise TaskFileError(f"{source}: {problem}")
    return task


def load(path: Path) -> TaskFile | StatisticsFile:
    """Read a task file from disk. Raises `TaskFileError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskFileError(f"{path}: cannot be read: {error}") from None
    return parse(text, str(path))


def _kind_of(text: str) -> type[TaskFile] | type[StatisticsFile]:
    """Which of the two a text is, well written or not. Raises `WireError` where nobody can tell."""
    try:
        tables = msgspec.toml.decode(text)
    except (ValueError, RecursionError):
        return TaskFile  # it is decoded once more, and then told what is wrong
    model = [f"[{name}]" for name in _TRAINING if name in tables]
    either = "[model], [loss] and [optimizer] say what to train, [statistics] what to gather"
    if model and "statistics" in tables:
        raise WireError(
            Rule.BAD_MESSAGE, f"[statistics] and {', '.join(model)}: {either}; a task does one"
        )
    if "name" in tables and not model and "statistics" not in tables:
        raise WireError(Rule.BAD_MESSAGE, f"nothing to do: {either}; one of them is needed")
    return StatisticsFile if "statistics" in tables else TaskFile


def _of_rounds(task: AnyTask) -> list[str]:
    """What is wrong with when rounds are, and when they close."""
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
    return found


def _problems(task: TaskFile) -> list[str]:
    """What no single key shows: values that contradict each other."""
    found = _of_rounds(task)
    found += metrics.problems(task.training.metrics, task.losses)
    found += aggregation_problems(task.aggregation)
    found += _upload_problems(task)
    if isinstance(task.aggregation, FedNova):
        found += _normalised(task, task.aggregation)
    if isinstance(task.aggregation, Scaffold):
        found += _corrected(task, task.aggregation)
    if len(set(task.training.metrics)) != len(task.training.metrics):
        found.append("training.metrics: a metric is named twice")
    found += checks.problems(task.optimizer, task.round.rounds)
    if task.model.lora is not None:
        found += numbers.problems("model.lora", task.model.lora)
    found += _numbers(task, "training", "upload", "keep", "round")
    several = isinstance(task.loss, tuple)
    for i, loss in enumerate(task.losses):
        found += numbers.problems(f"loss[{i}]" if several else "loss", loss)
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
    if isinstance(task.optimizer, Sgd) and task.optimizer.nesterov:
        found.append("optimizer.nesterov: 'fednova' reckons with plain momentum, not Nesterov's")
    schedule = task.optimizer.schedule
    if schedule is not None and schedule.over == "steps":
        found.append(
            "optimizer.schedule.over: 'fednova' reckons with steps of one length: 'rounds'"
        )
    return found + _boasts(task, options)


def _boasts(task: TaskFile, options: FedNova | Scaffold) -> list[str]:
    """How many steps a device can claim must be said."""
    if options.max_steps is not None:
        return []
    # How many examples a device has, only it knows.
    steps = task.training.epochs * math.ceil(_EXAMPLES / task.training.batch)
    return [
        f"aggregation.max_steps: {kind_of(options)!r} needs it, since a device that claims more "
        "steps than it did lengthens the step of all: write training.epochs x the examples of a "
        f"device / training.batch; with {_EXAMPLES} examples, max_steps = {steps}"
    ]


def _corrected(task: TaskFile, options: Scaffold) -> list[str]:
    """What SCAFFOLD's control variates need: each is the mean of the plain gradients of a device,
    and the server's the mean of all of them, so that what a device tells must be what counts."""
    found = _boasts(task, options)
    kind = "aggregation.kind = 'scaffold'"
    if task.optimizer != Sgd(learning_rate=task.optimizer.learning_rate):
        found.append(
            f"optimizer: {kind} corrects the gradients of plain SGD alone; expected kind = 'sgd' "
            "and a learning_rate, and nothing else"
        )
    if task.training.proximal:
        found.append(
            f"training.proximal = {task.training.proximal}: expected 0, since {kind} holds devices "
            "together by itself"
        )
    if options.devices < task.round.goal:
        found.append(
            f"aggregation.devices = {options.devices}: at least round.goal ({task.round.goal}); it "
            "is how many devices the whole fleet has"
        )
    if task.round.late != "refuse":
        found.append(
            f"round.late = {task.round.late!r}: expected 'refuse', since {kind} cannot use what is "
            "of an older model"
        )
    if task.upload.lazy:
        found.append(
            f"upload.lazy = {task.upload.lazy}: expected 0, since {kind} takes no change for a "
            "gradient of its own"
        )
    if task.upload.codec not in (AUTO, *EXACT):
        found.append(
            f"upload.codec = {task.upload.codec!r}: expected {AUTO}, {', '.join(EXACT[:-1])} or "
            f"{EXACT[-1]}, since {kind} adds up what updates say, and their errors with it"
        )
    return found


def _overshooting(task: TaskFile) -> list[str]:
    """A pull, to the base or to zero, by which steps diverge on any data.

    A step of SGD leaves 1 - rate mu of the distance to the base, which grows when that is below -1
    (with momentum m, below -1 - 2 m; with Nesterov's, below -1 / (1 + 2 m)). Decay pulls as well,
    AdamW's without momentum. What is clipped has no force to diverge by, but decay is not clipped.
    The rate is what a schedule makes of it, at most. An adaptive optimiser's steps are of about one
    size, whatever the gradient's.
    """
    own = task.optimizer
    found = []
    most = math.inf
    if isinstance(own, Sgd | AdamW):
        most = _most_pull(own) - own.weight_decay
        if most <= 0:
            limit = most + own.weight_decay
            found.append(f"optimizer.weight_decay = {own.weight_decay}: below {limit:g}")
    if isinstance(own, Sgd) and own.clip_norm is None and task.training.proximal >= most > 0:
        found.append(f"training.proximal = {task.training.proximal}: below {most:g}")
    return [
        f"{pull} at this optimizer.learning_rate, or each step overshoots by more than the one "
        "before it"
        for pull in found
    ]


def _of_statistics(task: StatisticsFile) -> list[str]:
    """What contradicts that statistics are exact, or itself."""
    infinite = _numbers(task, "statistics", "training", "upload", "keep", "round")
    return _of_rounds(task) + infinite + exact.contradictions(task)


def _numbers(task: AnyTask, *names: str) -> list[str]:
    """Numbers of these tables that are none."""
    return [p for name in names for p in numbers.problems(name, getattr(task, name))]


def _most_pull(optimizer: Sgd | AdamW) -> float:
    """The pull from which on an optimiser overshoots."""
    if isinstance(optimizer, AdamW):
        return 2 / optimizer.learning_rate
    most = 2 * (1 + optimizer.momentum) / optimizer.learning_rate
    return most / (1 + 2 * optimizer.momentum) if optimizer.nesterov else most
