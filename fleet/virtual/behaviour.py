"""What a virtual device does with its work. The troubles combine: one device may have several."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

MOST_SPREAD = 50.0
"""Of the logarithm of a training's time: of more, no number could hold the tail."""


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """All times in seconds, all chances from 0 to 1.

    `training` is the median of a log-normal time, `spread` the standard deviation of its
    logarithm: 0.2 is even, above 1 the tail is heavy. `network` is the mean time of a message, one
    way. What it does otherwise than an honest device:

    `vanishes`: the chance that it takes an assignment and is not heard of for `away` on average,
    after which it has forgotten everything; infinite is for good.
    `up`, `down`: mean lengths of the spells in which it reaches the network and does not; a `down`
    of 0 is always up.
    `gives_up`: the chance that it stops in mid-training and says so.
    `late_by`: how long after the deadline its update is sent, on average; 0 keeps to the deadline.
    `repeats`: how many answers to each update are lost on their way, so that it is sent again.
    `lies`: the chance that an update breaks a rule: not finite, or absurdly large.
    `drift`: its clock runs too fast or too slow by up to this share.
    `offset`: its clock has run for up to so many seconds before the simulation starts.
    """

    training: float = 60.0
    spread: float = 0.2
    network: float = 0.2
    vanishes: float = 0.0
    away: float = math.inf
    up: float = 600.0
    down: float = 0.0
    gives_up: float = 0.0
    late_by: float = 0.0
    repeats: int = 0
    lies: float = 0.0
    drift: float = 0.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not (self.training > 0 and self.up > 0 and self.network > 0 and self.away > 0):
            raise ValueError("training, up, network and away: seconds above 0")
        others = (self.spread, self.down, self.late_by, self.repeats, self.offset)
        if not all(value >= 0 for value in others):  # NaN neither
            raise ValueError("spread, down, late_by, repeats and offset: 0 or more")
        if self.spread > MOST_SPREAD:
            raise ValueError(f"spread: at most {MOST_SPREAD:g}")
        if not all(0 <= chance <= 1 for chance in (self.vanishes, self.gives_up, self.lies)):
            raise ValueError("vanishes, gives_up and lies: chances from 0 to 1")
        if not 0 <= self.drift < 1:
            raise ValueError("drift: from 0 to below 1")


HONEST = Behaviour()
SLOW = Behaviour(training=240.0, spread=1.5)
"""Some take minutes, a few take hours and run out of time."""
SILENT = Behaviour(vanishes=1.0, away=3600.0)
FLAPPING = Behaviour(up=120.0, down=60.0, gives_up=0.3)
LATE = Behaviour(late_by=60.0)
DUPLICATE = Behaviour(repeats=1)
LYING = Behaviour(lies=1.0)
SKEWED = Behaviour(spread=0.5, drift=0.05, offset=1e6)
"""Its clock began days ago and goes wrong by up to three minutes in an hour."""

REAL_LOOKING: Mapping[Behaviour, int] = {
    SILENT: 3000,
    Behaviour(spread=0.5): 2500,
    SLOW: 1500,
    Behaviour(training=90.0, spread=0.7, up=300.0, down=60.0, gives_up=0.2, drift=0.01): 1200,
    SKEWED: 800,
    LATE: 400,
    DUPLICATE: 300,
    LYING: 300,
}
"""Ten thousand devices as one meets them: 30 % are silent, others slow, flapping, lying or late."""
