"""What no single key of `[optimizer]` shows: values that contradict each other, or that float32,
in which devices reckon, does not have."""

import math
import struct
from collections.abc import Mapping

import msgspec

from coordinator.compiler.options.optimizers import Optimizer, Sgd
from coordinator.compiler.options.section import Section
from wire.rates import Cosine, Linear, RateSchedule

_BELOW_ONE = ("momentum", "beta1", "beta2", "alpha")


def problems(optimizer: Optimizer, rounds: int) -> list[str]:
    """What is wrong with `[optimizer]`; `rounds` are the task's, 0 for no end."""
    found = numbers("optimizer", optimizer)
    for key in _BELOW_ONE:
        if _in_float32(value := getattr(optimizer, key, 0.0)) >= 1:
            found.append(f"optimizer.{key} = {value}: must be below 1 in float32: 0.9999999")
    if isinstance(optimizer, Sgd) and optimizer.nesterov and not optimizer.momentum:
        found.append("optimizer.nesterov: needs an optimizer.momentum above 0")
    if optimizer.schedule is not None:
        found += numbers("optimizer.schedule", optimizer.schedule)
        found += _schedule_problems(optimizer.schedule, rounds)
    return found


def numbers(name: str, section: Section | RateSchedule) -> list[str]:
    """The numbers of a table that are none in float32."""
    found = []
    fields: Mapping[str, object] = msgspec.structs.asdict(section)
    for key, value in fields.items():
        if isinstance(value, float) and (why := _no_float32(value)):
            found.append(f"{name}.{key} = {value}: {why}")
    return found


def _no_float32(value: float) -> str:
    if not math.isfinite(value):
        return "must be finite"
    rounded = _in_float32(value)
    if math.isinf(rounded):
        return "too large: devices reckon in float32, up to 3.4e38"
    return "too small: devices reckon in float32, from 1e-45 on" if value and not rounded else ""


def _in_float32(value: float) -> float:
    try:
        (rounded,) = struct.unpack("f", struct.pack("f", value))
    except OverflowError:
        return math.inf
    return float(rounded)


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
