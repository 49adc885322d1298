"""`[optimizer]`: one class a kind. What each does is told in `coordinator.compiler.optimizers`."""

from coordinator.compiler.options import numbers
from coordinator.compiler.options.section import Fraction, NotNegative, Positive, Section
from wire.rates import Cosine, Linear, RateSchedule


class _Optimizer(Section, frozen=True, kw_only=True):
    """What every kind has.

    `clip_norm`: all trained weights' gradients together are scaled down to this Euclidean norm.
    None: never. `schedule` says how the learning rate changes (see `wire.rates`). None: it stays.
    """

    clip_norm: Positive | None = None
    schedule: RateSchedule | None = None


class Sgd(_Optimizer, frozen=True, kw_only=True, tag_field="kind", tag="sgd"):
    """w <- w - rate * v, v <- momentum * v + gradient (no velocity when the momentum is 0).

    `nesterov`: the step goes along gradient + momentum * v instead. `weight_decay` times the weight
    is added to the gradient (coupled decay, L2 regularisation).
    """

    learning_rate: Positive
    momentum: Fraction = 0.0
    nesterov: bool = False
    weight_decay: NotNegative = 0.0


class AdamW(_Optimizer, frozen=True, kw_only=True, tag_field="kind", tag="adamw"):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019, algorithm 2)."""

    learning_rate: Positive = 1e-3
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    epsilon: Positive = 1e-8
    weight_decay: NotNegative = 0.01


class RmsProp(_Optimizer, frozen=True, kw_only=True, tag_field="kind", tag="rmsprop"):
    """Each weight's gradient divided by the root of its squares' running mean (Tieleman and Hinton,
    2012). `weight_decay` is coupled, as for `sgd`."""

    learning_rate: Positive = 0.01
    alpha: Fraction = 0.99
    epsilon: Positive = 1e-8
    momentum: Fraction = 0.0
    weight_decay: NotNegative = 0.0


class Adagrad(_Optimizer, frozen=True, kw_only=True, tag_field="kind", tag="adagrad"):
    """Each weight's gradient divided by the root of its squares' sum, which begins at `initial`
    (Duchi et al., 2011). `weight_decay` is coupled, as for `sgd`."""

    learning_rate: Positive = 0.01
    initial: NotNegative = 0.0
    epsilon: Positive = 1e-10
    weight_decay: NotNegative = 0.0


Optimizer = Sgd | AdamW | RmsProp | Adagrad


def problems(optimizer: Optimizer, rounds: int) -> list[str]:
    """What is wrong with `[optimizer]` that no type of a key shows. `rounds` are the task's, 0 for
    no end."""
    found = numbers.problems("optimizer", optimizer)
    if isinstance(optimizer, Sgd) and optimizer.nesterov and not optimizer.momentum:
        found.append("optimizer.nesterov: needs an optimizer.momentum above 0")
    if optimizer.schedule is not None:
        found += numbers.problems("optimizer.schedule", optimizer.schedule)
        found += _schedule_problems(optimizer.schedule, rounds)
    return found


def _schedule_problems(schedule: RateSchedule, rounds: int) -> list[str]:
    warmup = schedule.warmup
    length = schedule.length if isinstance(schedule, Cosine | Linear) else None
    if schedule.over == "rounds":
        if rounds and warmup >= rounds:
            return [
                f"optimizer.schedule.warmup = {warmup}: below round.rounds ({rounds}), or the "
                "rate never becomes the whole one"
            ]
        if isinstance(schedule, Cosine | Linear) and length is None and not rounds:
            return [
                "optimizer.schedule.length: needed, since round.rounds = 0 says no end: the rounds "
                "until the rate has come down"
            ]
    if length is not None and warmup >= length:
        return [f"optimizer.schedule.warmup = {warmup}: below optimizer.schedule.length ({length})"]
    return []
