"""The agent's lookout: the signals of the machine and of the owner, together and settled; and who
waits until one of them says no."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from edge_agent import consent
from edge_agent.budget import Spent
from edge_agent.config import Config
from edge_agent.eligibility import Settling, Verdict
from edge_agent.job import Outcome
from edge_agent.signals import owner
from edge_agent.signals.signal import Signal
from edge_agent.state import Identity, StateFolder
from schedules.clock import Clock
from systemd.journal import fields

log = logging.getLogger(__name__)

_WATCH_SECONDS = 0.5  # between two looks at the signals while something runs, at most
_SAVE_SECONDS = 300.0  # of training between two times that its costs are written


class Observer(Protocol):
    """What reads the machine's signals: `edge_agent.signals.watch.Watch` does."""

    async def look(self) -> tuple[Signal, ...]:
        """All signals of the machine, now."""

    async def wait(self, seconds: float) -> bool:
        """Return after `seconds`, or, true then, as soon as a signal may have turned."""

    @property
    def own_pids(self) -> set[int]:
        """The agent's children that run now: what they use is not others' use."""


class Lookout:
    """Looks for one agent. `spent` tells what today and this month cost so far; `save` writes that
    down, and `is_due` tells whether it must, for what was sent and received."""

    def __init__(
        self,
        config: Config,
        state: StateFolder,
        identity: Identity,
        clock: Clock,
        observer: Observer,
        spent: Callable[[], Spent],
        save: Callable[[], Awaitable[None]],
        is_due: Callable[[], bool],
    ) -> None:
        self._config = config
        self._folder = state.folder
        self._url = identity.url
        self._clock = clock
        self._observer = observer
        self._spent = spent
        self._save = save
        self._is_due = is_due
        self._settling = Settling(config.eligibility.settle)
        self._codes: list[str] = []
        self._pause = min(_WATCH_SECONDS, config.poll)

    def settle_at_once(self) -> None:
        """Asked for by hand, work waits for no settling."""
        self._settling = Settling(0.0)

    async def look(self) -> Verdict:
        """The verdict on this moment; a change of it is logged, once."""
        signals = (*await self._owners_signals(), *await self._observer.look())
        verdict = self._settling.judge(signals, self._clock.monotonic())
        codes = [s.code for s in verdict.signals]
        if codes != self._codes:
            reasons = tuple(s.code for s in verdict.refusals)
            log.info("eligibility: %s", verdict.why(), extra=fields(REASON=reasons or "eligible"))
        self._codes = codes
        return verdict

    async def job_refused(self, limit: float) -> Outcome:
        """Wait until a job must end, at `limit` on the monotonic clock at the latest."""
        saved = self._clock.monotonic()
        while True:
            await self._observer.wait(self._pause)
            now = self._clock.monotonic()
            if now >= limit:
                return Outcome.OUT_OF_TIME
            if not (await self.look()).eligible:
                return Outcome.PREEMPTED
            if now >= saved + _SAVE_SECONDS:  # a power cut must not give the day anew
                await self._save()
                saved = now

    async def network_refused(self) -> str:
        """Wait until the network may not be used; returns why."""
        while True:
            await self._observer.wait(self._pause)
            if self._is_due():
                await self._save()
            verdict = await self.look()
            if not verdict.may_send:
                return verdict.why()

    async def _owners_signals(self) -> tuple[Signal, ...]:
        """What does not depend on the machine."""
        answer = await asyncio.to_thread(consent.given, self._folder, self._url)
        agreed = Signal("consent", *answer)
        return owner.signals(self._config, agreed, self._spent(), self._clock.now())
