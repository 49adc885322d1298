"""The `[aggregation]` table of a task file: one class a kind, picked by `kind`.

What each kind computes is told where it is computed: `coordinator.aggregation.server` and
`coordinator.aggregation.robust`.
"""

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Positive = Annotated[float, Meta(gt=0)]
Fraction = Annotated[float, Meta(ge=0, lt=1)]
Minority = Annotated[float, Meta(ge=0, lt=0.5)]


CONTROL = "control/"
"""What SCAFFOLD puts before a weight's name for the server's control variate of it."""

_MOST_UPDATES = 1_000_000
"""The largest `round.goal`."""


class Kind(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What every kind is built on."""


class Streaming(Kind, frozen=True, kw_only=True):
    """A kind that folds each update into a sum and forgets it.

    An update weighs as much as it has examples, `max_examples` at most (a device can claim that
    many and no more: set it near what an honest device has), or 1 with `by = "uniform"`.
    An update whose Euclidean norm is over `max_norm` is scaled down to it (Sun et al., 2019).
    """

    max_examples: Annotated[int, Meta(ge=1, le=1 << 31)] = 10_000
    by: Literal["examples", "uniform"] = "examples"
    max_norm: Positive | None = None


class FedAvg(Streaming, frozen=True, kw_only=True, tag="fedavg"):
    """The weighted mean of the updates (McMahan et al., 2017)."""


class FedAvgM(Streaming, frozen=True, kw_only=True, tag="fedavgm"):
    """FedAvg with momentum on the server (Hsu et al., 2019)."""

    learning_rate: Positive = 1.0
    momentum: Fraction = 0.9


class FedAdagrad(Streaming, frozen=True, kw_only=True, tag="fedadagrad"):
    """Adagrad on the server (Reddi et al., 2021, algorithm 2). `tau` is its adaptivity."""

    learning_rate: Positive = 0.1
    beta1: Fraction = 0.0
    tau: Positive = 1e-3


class FedAdam(Streaming, frozen=True, kw_only=True, tag="fedadam"):
    """Adam on the server (Reddi et al., 2021, algorithm 2). `tau` is its adaptivity."""

    learning_rate: Positive = 0.01
    beta1: Fraction = 0.9
    beta2: Fraction = 0.99
    tau: Positive = 1e-3


class FedYogi(Streaming, frozen=True, kw_only=True, tag="fedyogi"):
    """Yogi on the server (Reddi et al., 2021, algorithm 2). `tau` is its adaptivity."""

    learning_rate: Positive = 0.01
    beta1: Fraction = 0.9
    beta2: Fraction = 0.99
    tau: Positive = 1e-3


class FedNova(Streaming, frozen=True, kw_only=True, tag="fednova"):
    """The mean of the updates, each divided by its local steps (Wang et al., 2020).

    For devices that do unequal work. `momentum` is that of the devices' own optimiser. A device
    can claim `max_steps` steps and no more: near what an honest device does. A task file must say
    it; `None` takes everybody's word.
    """

    momentum: Fraction = 0.0
    max_steps: Annotated[int, Meta(ge=1, le=1 << 31)] | None = None


class Scaffold(Streaming, frozen=True, kw_only=True, tag="scaffold"):
    """Control variates against the drift of devices that are unlike (Karimireddy et al., 2020).

    `devices` is how many there are in the fleet: a round hears of some of them, and the server's
    control variate is to be the mean over all. `learning_rate` is the server's. `max_steps` is
    as FedNova's.
    """

    devices: Annotated[int, Meta(ge=1, le=1 << 31)]
    learning_rate: Positive = 1.0
    max_steps: Annotated[int, Meta(ge=1, le=1 << 31)] | None = None


class Median(Kind, frozen=True, kw_only=True, tag="median"):
    """The median of each weight's changes (Yin et al., 2018). Every update counts alike."""


class TrimmedMean(Kind, frozen=True, kw_only=True, tag="trimmed_mean"):
    """The mean of each weight's changes without the least and the greatest (Yin et al., 2018).

    `trim` is the share of the updates left out at each end, rounded down to whole updates.
    """

    trim: Minority = 0.2


class Krum(Kind, frozen=True, kw_only=True, tag="krum"):
    """The one update nearest to its neighbours (Blanchard et al., 2017).

    `byzantine` is the share of the updates that may lie, rounded down to whole updates.
    """

    byzantine: Minority = 0.2


class MultiKrum(Kind, frozen=True, kw_only=True, tag="multi_krum"):
    """The mean of the updates nearest to their neighbours (Blanchard et al., 2017).

    `byzantine` is the share f of the updates that may lie, rounded down to whole updates. The
    best `keep` of n are averaged, n - f - 2 unless fewer are asked for.
    """

    byzantine: Minority = 0.2
    keep: Annotated[int, Meta(ge=1)] | None = None


Aggregation = (
    FedAvg
    | FedAvgM
    | FedAdagrad
    | FedAdam
    | FedYogi
    | FedNova
    | Scaffold
    | Median
    | TrimmedMean
    | Krum
    | MultiKrum
)


def kind_of(options: Aggregation) -> str:
    """The name of the kind, as in the task file."""
    return str(options.__struct_config__.tag)


def problems(options: Aggregation) -> list[str]:
    """What no single key shows, a sentence each; empty when there is nothing to say."""
    fields = msgspec.structs.asdict(options).items()
    return [
        f"aggregation.{key} = {value}: must be finite"
        for key, value in fields
        if isinstance(value, float) and not math.isfinite(value)
    ]


def counted(options: Aggregation, examples: int) -> int:
    """As how many examples one device's claim counts, where what devices say is averaged: as much
    as its update weighs in the model."""
    if not isinstance(options, Streaming) or options.by == "uniform":
        return 1
    return min(examples, options.max_examples)


def share_of(share: float, updates: int) -> int:
    """That share of so many updates, rounded down; 0.29 of 100 is 29 though floats say 28.99."""
    return math.floor(share * updates + 1e-9)


def fewest(options: Aggregation) -> int:
    """The fewest updates with which a round can close: from there on, any number will do.

    A task's `round.minimum` should be at least this.
    """
    if isinstance(options, TrimmedMean) and options.trim > 0:
        return math.ceil(1 / options.trim - 1e-9)  # from there on something is trimmed
    if not isinstance(options, Krum | MultiKrum):
        return 1
    # n >= 2f + 3 with f <= share * n holds for certain from 3 / (1 - 2 share) on.
    enough = math.ceil(3 / (1 - 2 * options.byzantine))
    # More than any round may have: to find the least of so many would take for ever.
    while 3 < enough <= _MOST_UPDATES and holds(
        enough - 1, share_of(options.byzantine, enough - 1)
    ):
        enough -= 1
    return enough


def holds(updates: int, liars: int) -> bool:
    """Whether Krum holds against so many liars among so many updates."""
    return updates >= 2 * liars + 3
