"""Check-in pacing: the coordinator tells each device when to come back.

A window, not a time: each device picks a moment in it at random. A small population is given the
same short window, so that it meets and a round fills; a large one is spread out, so that it does
not stampede (Bonawitz et al., 2019, section 2.3, pace steering). How large it is depends on the
hour: `Hours`. When all come at once nevertheless, as after an outage, `Gate` holds most off.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

CHECK_INS_PER_SECOND = 100.0
"""What one coordinator is asked to bear; a larger population waits longer instead."""

_NARROW = 0.1  # of the interval: the window in which a small population meets
_WIDEST = 0.5  # of the interval: a population that needs more to meet in is spread out instead
_SOONEST = 0.25  # of the interval: nobody is asked to a meeting sooner


class RetryWindow(NamedTuple):
    """Come back between `after` and `before` seconds from now."""

    after: float
    before: float

    def pick(self, fraction: float) -> float:
        """The moment at `fraction` (0 to 1) of the window, in seconds from now."""
        return self.after + fraction * (self.before - self.after)


def retry_window(
    wait: float,
    interval: float,
    population: int,
    phase: float = 0.0,
    rate: float = CHECK_INS_PER_SECOND,
) -> RetryWindow:
    """A window that opens in `wait` seconds or later.

    `interval` is the schedule's usual wait between check-ins; `population` the number of devices
    that may come back in the window; `rate` how many check-ins a second all coordinators together
    can bear; `phase` how far the coordinators' common clock is into the current interval. The time
    since any fixed moment does as well: whole intervals do not matter.

    A small population meets: at the opening, when there is one to wait for, or else when the
    clock next reaches a multiple of the interval. The window is just wide enough for the rate.

    A population for which that would be too narrow is spread over at least the interval, and over
    so much more as the rate demands: each waits half the width on average, so n devices that come
    back again and again make 2 n / width check-ins a second.
    """
    narrow = max(_NARROW * interval, population / rate)
    if narrow > _WIDEST * interval:
        after = max(wait, interval / 2)
        return RetryWindow(after, after + max(interval, 2 * population / rate))
    after = max(wait, _SOONEST * interval)
    if wait <= 0:
        after = interval - phase % interval
        if after < _SOONEST * interval:
            after += interval
    return RetryWindow(after, after + narrow)


# The time of day

_HOURS = 24
_UNKNOWN = -1.0
_UP, _DOWN = 0.5, 0.2
"""How far an hour's number goes towards the day's: a crowd is believed sooner than its absence."""


@dataclass(frozen=True)
class Hours:
    """How many devices check in within each hour of the day (UTC), learned day by day.

    `counts` has 24 moving averages over the days, -1 where nothing is known. `learned` is the
    newest hour that was counted, in hours since the epoch; -1 for none.
    """

    counts: tuple[float, ...] = (_UNKNOWN,) * _HOURS
    learned: int = -1

    @classmethod
    def load(cls, kept: Sequence[float]) -> "Hours":
        """What `dump` gave. Anything else, an empty list say, is nothing learned yet."""
        good = len(kept) == _HOURS + 1 and all(math.isfinite(value) for value in kept)
        return cls(tuple(kept[:_HOURS]), int(kept[_HOURS])) if good else cls()

    def dump(self) -> list[float]:
        """25 floats, for the store to keep."""
        return [*self.counts, float(self.learned)]

    def learn(self, now: float, devices: int) -> "Hours":
        """`devices` different ones checked in within the hour before `now` (seconds since the
        epoch). They belong to the hour of the day in which most of that time lies. Each hour is
        counted once: to tell more often, or from several processes, changes nothing."""
        if not self.due(now):
            return self
        hour = int((now - 1800) // 3600)
        known = self.counts[hour % _HOURS]
        share = 1.0 if known < 0 else _UP if devices > known else _DOWN
        counts = list(self.counts)
        counts[hour % _HOURS] = known + share * (devices - known)
        return Hours(tuple(counts), hour)

    def due(self, now: float) -> bool:
        """Whether the hour before `now` is not counted yet."""
        hour = int((now - 1800) // 3600)
        # Long before the newest one that is: the clock was put right.
        return not self.learned - _HOURS < hour <= self.learned

    def population(self, now: float, known: int) -> int:
        """How many devices to reckon with at `now` (seconds since the epoch), of `known` in all:
        those of the hour, or of the next one if they are more; all, while either is unknown."""
        hour = int(now // 3600)
        near = [self.counts[h % _HOURS] for h in (hour, hour + 1)]
        return known if min(near) < 0 else min(known, math.ceil(max(near)))


# Stampedes

_SHORTEST_PAUSE = 1.0
_LONGEST_PAUSE = 4 * 3600.0  # a night's window
_BLUR = 0.25
"""The windows grow with the wait. What was booked 1 / rate apart comes back a tenth more spread
out, which leaves room for those who come by unasked."""


@dataclass
class Gate:
    """A token bucket for check-ins: `rate` a second, after `burst` at once.

    Those beyond it are booked one after the other for the time to come, 1 / rate apart, and told
    to come back then. It knows none of them: who comes back is admitted if there is a token, and
    booked again at the end if not. So it keeps three numbers, however many there are. `now` is in
    seconds on the monotonic clock.
    """

    rate: float = CHECK_INS_PER_SECOND
    burst: float = 2 * CHECK_INS_PER_SECOND
    _used: float = field(default=0.0, init=False)  # tokens
    _at: float = field(default=-math.inf, init=False)
    _booked: float = field(default=-math.inf, init=False)

    def admit(self, now: float) -> RetryWindow | None:
        """`None`: go ahead. Otherwise when to come back."""
        self._used = max(0.0, self._used - self.rate * max(0.0, now - self._at))
        self._at = max(now, self._at)
        if self._used + 1 <= self.burst:
            self._used += 1
            return None
        return self.book(now)

    def book(self, now: float) -> RetryWindow:
        """When to come back, though there may be a token."""
        self._booked = max(self._booked, now + _SHORTEST_PAUSE) + 1 / self.rate
        wait = self._booked - now
        if wait <= _LONGEST_PAUSE:
            return RetryWindow(wait, wait * (1 + _BLUR))
        # More than that are not booked: they ask again, spread out as far as that goes.
        self._booked = now + _LONGEST_PAUSE
        return RetryWindow(_LONGEST_PAUSE / 2, _LONGEST_PAUSE * (1 + _BLUR))
