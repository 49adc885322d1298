"""The agent's ledger: what it served, measured and spent, kept in the history on the disk."""

import asyncio
import logging
from collections.abc import Callable

from edge_agent.budget import Spent
from edge_agent.costs import Costs
from edge_agent.errors import StateError
from edge_agent.job import Report
from edge_agent.state import History, Served, StateFolder
from edge_agent.traffic import Traffic
from schedules.clock import Clock
from wire.messages import Assignment, Evaluation

log = logging.getLogger(__name__)

_EVALUATIONS = 100  # that wait to be told, at most: what a check-in may hold
_UNWRITTEN = 1 << 20
"""Bytes sent and received that a power cut may take from the account. Each write wears the disk."""


class Ledger:
    """Over one device's history. `moving` gives the traffic of the errand under way."""

    def __init__(
        self, history: History, state: StateFolder, clock: Clock, moving: Callable[[], Traffic]
    ) -> None:
        self._state = state
        self._clock = clock
        self.history = history
        self.costs = Costs(history, clock, moving)
        self._measured = dict(history.evaluated)  # the newest version with metrics, by task
        self._written = self.costs.traffic()

    def spent(self) -> Spent:
        """What today and this month cost, up to now."""
        return self.costs.count()

    def served(self, work: Assignment, report: Report, outcome: str) -> None:
        """What became of an assignment; `waiting` in the outbox, or why not."""
        self.history.add(
            Served(
                assignment=work.id,
                task=work.task,
                round=work.round,
                outcome=outcome,
                detail="" if outcome == "waiting" else report.detail,
                examples=report.examples,
                loss=report.loss,
                seconds=report.seconds,
                ended=self._today(),
            )
        )

    def task_of(self, assignment: str) -> str:
        """Which task an assignment was of; empty where that is not remembered."""
        return next((s.task for s in self.history.served if s.assignment == assignment), "")

    def settled(self, assignment: str, outcome: str, detail: str, sent: int) -> Served:
        """What the coordinator said of an update, in `sent` bytes; the entry as it is now."""
        return self.history.settle(assignment, outcome, detail, sent, self._today())

    def measured(self, task: str, version: int, report: Report) -> bool:
        """Keep a version's metrics for the next check-in: once, and once more when its personal
        version has some, too. Whether they are new."""
        if report.metrics is None or report.held_out == 0:
            return False
        newest = self._measured.get(task, -1)
        if version < newest or (version == newest and not report.personal):
            return False
        self._measured[task] = version
        said = Evaluation(
            task=task,
            version=version,
            examples=report.held_out,
            metrics=report.metrics,
            personal=report.personal,
        )
        waiting = [e for e in self.history.evaluations if (e.task, e.version) != (task, version)]
        self.history.evaluations = [*waiting, said][-_EVALUATIONS:]
        return True

    def is_due(self) -> bool:
        """Whether so much was sent and received since it was written that it must be again."""
        since = self.costs.traffic().minus(self._written)
        return since.up + since.down >= _UNWRITTEN

    async def save(self, evaluated: dict[str, int], failed: int) -> None:
        """Write it. Work goes on without: a full disk is not a reason to stop."""
        self.costs.count()
        self._written = self.costs.traffic()
        self.history.evaluated, self.history.failed = dict(evaluated), failed
        try:
            await asyncio.to_thread(self._state.save_history, self.history)
        except StateError as error:
            log.error("%s", error)

    def _today(self) -> str:
        return self._clock.now().isoformat(timespec="seconds")
