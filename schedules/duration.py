"""Durations as people write them: `90s`, `15m`, `1h30m`, `2d`."""

import math
import re

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_ALLOWED = "a duration such as '30s', '15m', '1h30m' or '2d'"


class Duration(float):
    """Seconds. In a TOML file it is a string with units; `parse` reads it."""

    @classmethod
    def parse(cls, text: object) -> "Duration":
        """Raises `ValueError` that says what is allowed."""
        if not isinstance(text, str) or not text or _PART.sub("", text):
            raise ValueError(f"expected {_ALLOWED}")
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
        if not math.isfinite(seconds):
            raise ValueError(f"expected {_ALLOWED}")
        return cls(seconds)

    def __str__(self) -> str:
        return human(self)


def human(seconds: float) -> str:
    """A duration for people, two units at most: `1 h 5 min`, `12 s`, `350 ms`."""
    if seconds < 0:
        return f"-{human(-seconds)}"
    if not math.isfinite(seconds):
        return f"{float(seconds)} s"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{round(seconds, 1):g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    if whole < 86400:
        hours, rest = divmod(whole // 60, 60)
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    days, rest = divmod(whole // 3600, 24)
    return f"{days} d {rest} h" if rest else f"{days} d"
