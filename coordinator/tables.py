"""The tables of a task file: what to train or gather, how rounds run, who takes part.

These classes are the reference of every key; `docs/task-file.md` explains them.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from coordinator.aggregation.options import Aggregation, FedAvg, Scaffold, Streaming
from coordinator.codec_choice import AUTO
from coordinator.compiler.options.losses import Loss
from coordinator.compiler.options.model import Model
from coordinator.compiler.options.optimizers import Optimizer
from coordinator.compiler.options.section import NotNegative, Positive, Section
from coordinator.compiler.options.statistics import Statistics
from coordinator.compiler.options.training import Training
from coordinator.selection.options import Selection, Uniform
from schedules.duration import Duration
from schedules.schedule import Schedule, ready_made
from wire.messages import Identifier, Labels
from wire.sizes import Size


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


class Personal(Section, frozen=True, kw_only=True):
    """Each device makes every model that it adopts its own: so many more passes over its training
    examples, with the task's loss and optimiser. Its local programs get the personal version where
    it does better on the held-out examples, by the first of `training.metrics`; it never leaves the
    device, and rounds go on from the published one.

    `weights` are names or patterns of those that change, of all that are trained. `learning_rate`:
    by default the optimiser's. It stays as it is, whatever `optimizer.schedule` says, and neither
    `training.proximal` nor SCAFFOLD holds the device near the fleet.
    """

    epochs: Annotated[int, Meta(ge=1, le=10_000)] = 1
    learning_rate: Positive | None = None
    weights: Annotated[tuple[str, ...], Meta(min_length=1)] = ("*",)

    def rate(self, common: float) -> float:
        """The learning rate; `common` is the optimiser's."""
        return common if self.learning_rate is None else self.learning_rate


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
    personal: Personal | None = None

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
