"""The last facts of a task's rounds, told when one of them has gone wrong."""

from collections import deque
from typing import NoReturn

from fleet.virtual.task import VirtualTask

_FACTS = 30  # that are remembered


class InvariantBroken(AssertionError):
    """The round did what it must not. The text is what, and the facts that led there."""


class Story:
    """One task's."""

    def __init__(self, task: VirtualTask) -> None:
        self._task = task
        self._facts: deque[tuple[float, str]] = deque(maxlen=_FACTS)

    def tell(self, now: float, fact: str) -> None:
        """Something happened at `now`, in seconds."""
        self._facts.append((now, fact))

    def broken(self, number: int, now: float, what: str, state: str) -> NoReturn:
        """Raise `InvariantBroken`."""
        head = (
            f"round {number} of {self._task.name} at {now:.3f} s: {what}",
            f"policy: {self._task.policy}",
            f"{state}; the last {len(self._facts)} facts:",
        )
        facts = (f"{moment:12.3f}  {fact}" for moment, fact in self._facts)
        raise InvariantBroken("\n".join([*head, *facts]))
