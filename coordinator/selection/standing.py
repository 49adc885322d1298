"""What selection knows: of one device, and of all that may take part; and when a device rests."""

import msgspec

from schedules.backoff import Backoff

FORGIVEN = 2
"""So many failures in a row are bad luck: a reboot, a lost network, the owner came back."""

RESTING = Backoff(first=600.0, limit=86400.0)


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one device in one task.

    `accepted`: its updates that counted. `failed`: its assignments that came to nothing (it
    vanished, gave up, or was refused), `streak` of them in a row until now, the last at
    `failed_at`, in seconds since the epoch. An update that was only too late to be needed, since
    the round had reached its goal, is no failure. `examples`: those of its last update. `seconds`:
    the moving average of its time from assignment to arrival.
    """

    accepted: int = 0
    failed: int = 0
    streak: int = 0
    failed_at: float | None = None
    examples: int | None = None
    seconds: float | None = None


class Crowd(msgspec.Struct, frozen=True, kw_only=True):
    """The devices that may take part, as a whole; a little stale does no harm.

    Only devices that were seen lately belong here: places are kept for all of them, and who is gone
    for good never takes his. `examples`: the mean of `Standing.examples` over those that have one,
    each capped near their median, so that one lie does not shift it. `accepted`: how many devices
    have that many accepted updates; those of the population that are in no entry have none.
    `dropout`: the share of assignments that come to nothing.
    """

    population: int
    examples: float | None = None
    accepted: dict[int, int] = {}
    dropout: float = 0.0


def rests_until(standing: Standing) -> float | None:
    """When a device that keeps failing may be asked again, in seconds since the epoch; `None` when
    it need not rest. The pauses double from ten minutes to a day; one success ends them."""
    if standing.streak <= FORGIVEN or standing.failed_at is None:
        return None
    return standing.failed_at + RESTING.delay(standing.streak - FORGIVEN, 1.0)
