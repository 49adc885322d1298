"""Training windows: times of day, days of the week, a time zone."""

import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LOCAL = "local"
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)", re.ASCII)


class Window(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From `start` to `end` (`HH:MM`), on `days`; past midnight when `end` is not after `start`.

    A window belongs to the day it starts on. `zone` is an IANA name, or `local`: the zone of the
    time that is asked about, so a device's own. Equal `start` and `end` mean the whole day.
    """

    start: str
    end: str
    days: tuple[Day, ...] = DAYS
    zone: str = LOCAL

    def __post_init__(self) -> None:
        for key, text in (("start", self.start), ("end", self.end)):
            if not _TIME.fullmatch(text):
                raise ValueError(f"{key} = {text!r}: expected a time of day such as '01:30'")
        if not self.days:
            raise ValueError(f"days = []: name some of {', '.join(DAYS)}")
        if self.zone != LOCAL:
            try:
                ZoneInfo(self.zone)
            except (ZoneInfoNotFoundError, ValueError, OSError):
                raise ValueError(
                    f"zone = {self.zone!r}: expected 'local' or a name such as 'Europe/Berlin'"
                ) from None

    def contains(self, now: datetime) -> bool:
        """Whether `now` (aware) lies in the window."""
        return self.closes(now) is not None

    def closes(self, now: datetime) -> datetime | None:
        """When the window that `now` lies in ends (UTC); `None` outside it."""
        ends = [end for start, end in self._spans(now, -1, 1) if start <= now < end]
        return max(ends, default=None)

    def opens(self, now: datetime) -> datetime:
        """The window's next start after `now` (UTC)."""
        # 16 days: a clock change may skip a week's only window.
        return min(start for start, _ in self._spans(now, -1, 16) if start > now)

    def _spans(self, now: datetime, first: int, last: int) -> list[tuple[datetime, datetime]]:
        """The windows that start from `first` to `last` days after today, in UTC, none empty."""
        zone = now.tzinfo if self.zone == LOCAL else ZoneInfo(self.zone)
        if zone is None:
            raise ValueError("now must be aware of its time zone")
        today = now.astimezone(zone).date()
        days = (today + timedelta(days=offset) for offset in range(first, last + 1))
        spans = [self._span(day, zone) for day in days if DAYS[day.weekday()] in self.days]
        return [(start, end) for start, end in spans if start < end]

    def _span(self, day: date, zone: tzinfo) -> tuple[datetime, datetime]:
        # Compared in UTC: in one zone, Python compares wall clocks and overlooks a clock change.
        start, end = time.fromisoformat(self.start), time.fromisoformat(self.end)
        last = day if end > start else day + timedelta(days=1)
        return (
            datetime.combine(day, start, zone).astimezone(UTC),
            datetime.combine(last, end, zone).astimezone(UTC),
        )
