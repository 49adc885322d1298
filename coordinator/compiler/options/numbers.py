"""Numbers of a task file that a plan computes with: they must be something in float32."""

import math
import struct
from collections.abc import Iterator, Mapping

import msgspec

from coordinator.compiler.options.section import Section
from wire.rates import RateSchedule

_LARGEST, _SMALLEST = 3.4028234e38, 1.1754944e-38


def problem(value: float) -> str | None:
    """What is wrong with a number, if anything."""
    if not math.isfinite(value):
        return "must be finite"
    if abs(value) > _LARGEST or 0 < abs(value) < _SMALLEST:
        return f"float32, which devices compute with, goes from {_SMALLEST:.3g} to {_LARGEST:.3g}"
    if value < 1 and struct.unpack("f", struct.pack("f", value))[0] == 1:
        return "is 1 in float32, which devices compute with; at most 0.9999999"
    return None


def problems(name: str, table: Section | RateSchedule) -> list[str]:
    """What is wrong with the numbers of a table, those of its lists too; `name` is the table's."""
    return [
        f"{name}.{key} = {value}: {why}" for key, value in _floats(table) if (why := problem(value))
    ]


def _floats(table: Section | RateSchedule) -> Iterator[tuple[str, float]]:
    fields: Mapping[str, object] = msgspec.structs.asdict(table)
    for key, value in fields.items():
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, float):
                yield key, part
