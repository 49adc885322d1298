"""A schedule: when devices may train, how long a round is open, how often devices check in."""

from datetime import datetime
from functools import cache
from importlib import resources

import msgspec

from schedules.duration import Duration
from schedules.window import Window

READY_MADE = ("nightly", "hourly", "continuous")
"""Schedules that ship with the package, each a TOML file beside this module."""


class Schedule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """No `windows` means always. `check_in` is the usual wait between two check-ins."""

    round_deadline: Duration
    check_in: Duration
    windows: tuple[Window, ...] = ()

    def __post_init__(self) -> None:
        if not 0.05 <= self.check_in <= 7 * 86400:
            raise ValueError(f"check_in = {self.check_in}: from 50 ms to 7 days")

    def open_at(self, now: datetime) -> bool:
        """Whether work may start at `now` (aware)."""
        return not self.windows or any(w.contains(now) for w in self.windows)

    def seconds_to_opening(self, now: datetime) -> float:
        """Seconds until work may start; 0 when it may now."""
        if self.open_at(now):
            return 0.0
        return (min(w.opens(now) for w in self.windows) - now).total_seconds()


@cache
def ready_made(name: str) -> Schedule:
    """A schedule of `READY_MADE`. Raises `ValueError` that lists them for any other name."""
    if name not in READY_MADE:
        raise ValueError(f"no schedule {name!r}; ready-made: {', '.join(READY_MADE)}")
    text = resources.files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return msgspec.convert(
        msgspec.toml.decode(text), Schedule, dec_hook=lambda kind, raw: kind.parse(raw)
    )
