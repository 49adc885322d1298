"""What no single key of a task file shows: values that contradict each other. Pure."""

import math

from msgspec import structs

from coordinator import exact
from coordinator.aggregation.options import FedNova, Scaffold, fewest, kind_of
from coordinator.aggregation.options import problems as aggregation_problems
from coordinator.codec_choice import AUTO, EXACT, contradiction
from coordinator.compiler.options import checks, metrics, numbers
from coordinator.compiler.options.losses import Contrastive
from coordinator.compiler.options.optimizers import AdamW, Sgd
from coordinator.tables import AnyTask, StatisticsFile, TaskFile
from schedules.duration import Duration
from schedules.schedule import READY_MADE

_EXAMPLES = 500  # of a device: what an error message reckons with


def problems(task: TaskFile | StatisticsFile) -> list[str]:
    """Each contradiction, with the key, its value and what is expected."""
    return _of_statistics(task) if isinstance(task, StatisticsFile) else _of_training(task)


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


def _of_training(task: TaskFile) -> list[str]:
    """What is wrong with a task that trains a model."""
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
    if task.personal is not None:
        found += numbers.problems("personal", task.personal)
    several = isinstance(task.loss, tuple)
    for i, loss in enumerate(task.losses):
        found += numbers.problems(f"loss[{i}]" if several else "loss", loss)
        if isinstance(loss, Contrastive) and task.training.batch == 1:
            found.append(
                "training.batch = 1: at least 2, since the loss 'contrastive' compares the "
                "examples of a batch with each other"
            )
    return found or _overshooting(task) or _overshooting_alone(task)


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


def _overshooting_alone(task: TaskFile) -> list[str]:
    """The same of a device that makes a model its own: there, only decay pulls."""
    if task.personal is None or not isinstance(task.optimizer, Sgd | AdamW):
        return []
    rate = task.personal.rate(task.optimizer.learning_rate)
    own = structs.replace(task.optimizer, learning_rate=rate)
    limit = _most_pull(own)
    if own.weight_decay < limit:
        return []
    return [
        f"personal.learning_rate = {rate:g}: with it optimizer.weight_decay ({own.weight_decay}) "
        f"must be below {limit:g}, or each step overshoots by more than the one before it"
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
