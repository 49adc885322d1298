"""What the agent asks of its training child, and what the child answers. JSON on its pipes."""

from enum import StrEnum

import msgspec

from edge_agent.examples.retention import Retention
from edge_agent.keeping import Decision, Offer
from wire.messages import Assignment


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Evaluate a model on the held-out examples, then train it when there is an assignment.

    `plan` is the plan's folder, `model` the checkpoint's file, `update` where the update goes.

    `checkpoint` is the file where a stopped training is kept and from which it goes on; it is
    removed when the update is written. It is also written every `checkpoint_every` seconds of
    training, so that a power cut loses no more; 0 means only when stopped. Each time costs the
    disk the size of the weights and of the optimiser's state.

    `residuals` is the folder where what was learnt and not sent is kept for the next update, and
    what a plan carries from one round to the next.

    `memory_limit` is in bytes of the child's own memory. `retention` limits the examples that are
    kept; `offer` is the model as local programs may get it. `tuning_seconds` is the time in which
    it may be made this device's own, where its plan asks for that; 0: it is not.
    """

    plan: str
    model: str
    examples: str
    columns: dict[str, tuple[str, ...]]
    hold_out: float
    threads: int
    evaluate: bool
    assignment: Assignment | None = None
    update: str | None = None
    checkpoint: str | None = None
    checkpoint_every: float = 300.0
    residuals: str | None = None
    memory_limit: int | None = None
    retention: Retention = Retention()
    offer: Offer | None = None
    tuning_seconds: float = 0.0


class Outcome(StrEnum):
    """How a job ended; every value but `done` is also the reason given to the coordinator.

    `bad_plan`: the plan or the model cannot be read or loaded. `crashed`: training ended by itself,
    or ONNX Runtime could not go on with these examples.
    """

    DONE = "done"
    NO_EXAMPLES = "no_examples"
    DIVERGED = "diverged"
    PREEMPTED = "preempted"
    OUT_OF_TIME = "out_of_time"
    OUT_OF_MEMORY = "out_of_memory"
    CRASHED = "crashed"
    BAD_PLAN = "bad_plan"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a job. `metrics` are over `held_out` examples.

    `steps` and `seconds` of training are those of all sittings; this one went on at `resumed_at`
    steps. `restarted` is why a training that was kept could not be gone on with;
    `trimmed` counts the examples that were deleted. `refused` are the
    limits that the system would not let the child set itself.

    `nothing_new`: the change did not matter, and the update says so; `lost` is why what was not
    sent before could not be added to this one. `forgot` is why what the last round left could not
    be used, of plans that carry something.

    `personal` are the metrics of the personal version over the same examples, if one was made.
    """

    outcome: Outcome
    detail: str = ""
    examples: int = 0
    held_out: int = 0
    skipped: int = 0
    steps: int = 0
    resumed_at: int = 0
    restarted: str = ""
    trimmed: int = 0
    loss: float | None = None
    seconds: float = 0.0
    metrics: dict[str, float] | None = None
    peak_bytes: int = 0
    refused: tuple[str, ...] = ()
    decision: Decision | None = None
    nothing_new: bool = False
    lost: str = ""
    forgot: str = ""
    personal: dict[str, float] = {}
