"""How things are told: the same words for the same facts, whichever command says them."""

import sys
from collections.abc import Iterable, Sequence

import msgspec

from coordinator.cli.common import out, plain
from coordinator.views import RoundSummary
from schedules.duration import human


def write_lines(values: Iterable[msgspec.Struct]) -> None:
    """For scripts: each is one line of JSON."""
    for value in values:
        sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def say_more(number: int | None) -> None:
    """So many are not shown; `None`: nobody has counted them."""
    if number is None or number > 0:
        out.print(f"and {'perhaps' if number is None else f'{number:,}'} more: --all")


def say_troubles(rounds: Sequence[RoundSummary]) -> None:
    """Which of them cannot be closed, and why."""
    for r in rounds:
        if r.trouble is not None:
            out.print(plain(f"round {r.number} is not closed yet: {r.trouble}"))


def failing(streak: int, rests: float | None) -> str:
    """How often a device has failed in a row, and for how many seconds it rests; empty if it has
    not."""
    if not streak:
        return ""
    return f"failed {streak} in a row" + (f", rests {human(rests)}" if rests else "")


def selected(r: RoundSummary) -> str:
    """How many devices had a place."""
    return "?" if r.selected is None else str(r.selected)


def took(r: RoundSummary) -> str:
    """How much of the time that a round may take."""
    if r.elapsed is None:
        return "not started" if r.ended is None else "never started"
    found = f"{human(r.elapsed)} of {human(r.deadline)}"
    return found if r.ended is not None else f"{found} until now"
