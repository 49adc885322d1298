"""How a learning rate changes: over the model's versions, or over the steps of one round.

Both sides read a schedule from the same struct: the task file's `[optimizer.schedule]` is the
plan's `schedule`. `rate` is all that there is to it, and depends on nothing but what is handed in,
so that a training which was stopped goes on at the rates it would have had.
"""

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

_Count = Annotated[int, Meta(ge=0, le=1 << 31)]
_Part = Annotated[float, Meta(ge=0, le=1)]
_Factor = Annotated[float, Meta(gt=0, le=1)]


class _Schedule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every kind has.

    `over`: what is counted, from 0: the versions of the model ("rounds"), or a device's own steps
    within a round. For the first `warmup` of them the rate rises, in equal steps, to the whole
    one; what the kind says comes after.
    """

    over: Literal["rounds", "steps"] = "rounds"
    warmup: _Count = 0


class Constant(_Schedule, frozen=True, kw_only=True, tag_field="kind", tag="constant"):
    """The whole rate."""


class Step(_Schedule, frozen=True, kw_only=True, tag_field="kind", tag="step"):
    """The rate times `factor` after each `every`, and never below the part `floor` of it."""

    every: Annotated[int, Meta(ge=1, le=1 << 31)]
    factor: _Factor = 0.1
    floor: _Part = 0.0


class Exponential(_Schedule, frozen=True, kw_only=True, tag_field="kind", tag="exponential"):
    """The rate times `factor` after each one, and never below the part `floor` of it."""

    factor: _Factor
    floor: _Part = 0.0


class _Bounded(_Schedule, frozen=True, kw_only=True):
    """What goes from the whole rate to the part `floor` of it, which it has from `length` on, the
    warmup included. None: the task's last round, or all steps of a round."""

    length: Annotated[int, Meta(ge=1, le=1 << 31)] | None = None
    floor: _Part = 0.0


class Cosine(_Bounded, frozen=True, kw_only=True, tag_field="kind", tag="cosine"):
    """Along half a cosine (Loshchilov and Hutter, 2017, "SGDR", without restarts)."""


class Linear(_Bounded, frozen=True, kw_only=True, tag_field="kind", tag="linear"):
    """Along a straight line."""


RateSchedule = Constant | Step | Exponential | Cosine | Linear


def rate(schedule: RateSchedule, base: float, version: int, step: int, steps: int) -> float:
    """The learning rate of a step.

    `base` is the whole rate, `version` that of the model that the round started from, counted from
    0, `step` the step within the round's `steps`, counted from 0. At most `base`, at least 0.
    """
    place = step if schedule.over == "steps" else version
    if place < schedule.warmup:
        return base * (place + 1) / (schedule.warmup + 1)
    past = place - schedule.warmup
    match schedule:
        case Constant():
            return base
        case Step():
            part = schedule.factor ** (past // schedule.every)
        case Exponential():
            part = schedule.factor**past
        case Cosine() | Linear():
            length = schedule.length if schedule.length is not None else steps
            done = min(past / max(length - schedule.warmup, 1), 1.0)
            left = (1 + math.cos(math.pi * done)) / 2 if isinstance(schedule, Cosine) else 1 - done
            part = schedule.floor + (1 - schedule.floor) * left
    return base * max(part, schedule.floor)
