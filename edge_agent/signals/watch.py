"""All signals together: looked at by all probes, and watched by the events that the system has.

A look is bounded, whatever a probe does; so is the number of looks that a storm of events causes.
"""

import asyncio
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from edge_agent.config import Config
from edge_agent.signals import plugins
from edge_agent.signals.bus import Bus, mirrored
from edge_agent.signals.clock import ClockProbe, keeps_time
from edge_agent.signals.disk import DiskProbe
from edge_agent.signals.gpu import GpuProbe
from edge_agent.signals.load import LoadProbe
from edge_agent.signals.memory import MemoryProbe
from edge_agent.signals.network import NetworkProbe
from edge_agent.signals.power import PowerProbe
from edge_agent.signals.pressure import PressureProbe
from edge_agent.signals.psi import psi_events
from edge_agent.signals.session import SessionProbe
from edge_agent.signals.signal import Probe, Signal
from edge_agent.signals.supply import SupplyProbe
from edge_agent.signals.system import System
from edge_agent.signals.temperature import TemperatureProbe
from schedules.clock import Clock

CODES: Mapping[str, str] = {
    "probe_failed": "the probe itself broke, so nothing is known",
    "probe_slow": "the probe has not answered yet, so nothing is known",
}
"""The reasons that any signal may have, beside those of its probe."""

_SLOW_SECONDS = 3.0  # for all probes together
_QUIET_SECONDS = 0.3  # between two early wake-ups, at least
_LONGEST = 200  # characters of what is observed


def default_probes(config: Config, clock: Clock, own_pids: Collection[int]) -> tuple[Probe, ...]:
    """One of each, in the order in which people read them; then the owner's."""
    ours: tuple[Probe, ...] = (
        PowerProbe(config),
        SupplyProbe(config),
        TemperatureProbe(config),
        LoadProbe(config, lambda: own_pids),
        PressureProbe(config, lambda: own_pids),
        GpuProbe(config),
        SessionProbe(config),
        NetworkProbe(config),
        ClockProbe(config, clock.now),
        MemoryProbe(config, lambda: own_pids),
        DiskProbe(config),
    )
    return (*ours, *plugins.load(config, [probe.name for probe in ours]))


class Watch:
    """An asynchronous context: inside of it, `look`, and `wait` for a reason to look again.

    `state` is the agent's state folder; `slow` the seconds that probes may take. `own_pids` are the
    agent's children that run now: what they use is not others' use.
    """

    def __init__(
        self,
        config: Config,
        state: Path,
        clock: Clock,
        probes: Sequence[Probe] | None = None,
        slow: float = _SLOW_SECONDS,
    ) -> None:
        self._address = config.system_bus
        self.own_pids: set[int] = set()
        self._default = partial(default_probes, config, clock, self.own_pids)
        self._probes = None if probes is None else tuple(probes)
        self._slow = slow
        self._system = System(Path(config.system_root), state)
        self._bus: Bus | None = None
        self._changed = asyncio.Event()
        self._woken = float("-inf")
        self._rounds: list[_Round] = []
        self._inside = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if self._probes is None:
            self._probes = await asyncio.to_thread(self._default)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(psi_events(self._system.root, self._changed.set))
            if self._address:
                ask_time = not await asyncio.to_thread(keeps_time, self._system)
                mirror = mirrored(self._address, self._changed.set, ask_time)
                self._bus = await stack.enter_async_context(mirror)
                self._system.properties = self._bus.properties
            self._inside = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._inside.__aexit__(kind, error, trace)

    async def look(self) -> tuple[Signal, ...]:
        """What each probe says, in their order. One look at a time."""
        assert self._probes is not None, "look inside the context"
        if self._bus:
            await self._bus.refresh()
        self._changed.clear()
        self._rounds = [this for this in self._rounds if this.runs]
        stuck = {id(this.hangs_at) for this in self._rounds}
        found: dict[int, Signal] = {}
        rest, seconds = [p for p in self._probes if id(p) not in stuck], self._slow
        while rest:
            this = _Round(rest, self._system)
            self._rounds.append(this)
            signals = await this.signals(seconds)
            found |= zip(map(id, rest), signals, strict=False)
            rest, seconds = rest[len(signals) + 1 :], seconds / 2  # all of it is bounded
        return tuple(found.get(id(probe)) or _silent(probe) for probe in self._probes)

    async def wait(self, seconds: float) -> bool:
        """Wait so long, or until something has changed, as far as the system tells: then true.

        It does not end early more than a few times a second.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
                await asyncio.sleep(self._woken + _QUIET_SECONDS - loop.time())
        except TimeoutError:
            return False
        self._woken = loop.time()
        self._changed.clear()
        return True


class _Round:
    """Several probes, one after the other, in a thread of their own.

    Not one of a pool: a probe that hangs would take it away for good, and hold up the exit.
    """

    def __init__(self, probes: Sequence[Probe], system: System) -> None:
        self._probes = tuple(probes)
        self._system = system
        self._found: list[Signal] = []
        self._given_up = False
        self.hangs_at: Probe | None = None
        self._done = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._look, name="signals", daemon=True)

    @property
    def runs(self) -> bool:
        """Whether its thread is still at it."""
        return self._thread.is_alive()

    async def signals(self, seconds: float) -> list[Signal]:
        """What the probes say, up to one that hangs."""
        self._thread.start()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._done.wait()
        finally:  # also when the look is cancelled
            self._given_up = True
            signals = list(self._found)
            if len(signals) < len(self._probes):
                self.hangs_at = self._probes[len(signals)]
        return signals

    def _look(self) -> None:
        for probe in self._probes:
            if self._given_up:
                return
            self._found.append(_guarded(probe, self._system))
        with suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(self._done.set)


def _guarded(probe: Probe, system: System) -> Signal:
    """A probe's signal; when it breaks, a no with the reason."""
    try:
        found = probe.look(system)
        if not isinstance(found, Signal):
            raise TypeError(f"it gave no signal, but {found!r}")
    except Exception as error:  # noqa: BLE001 - it may be anybody's code, and raise anything
        return Signal.no(probe.name, "probe_failed", f"{type(error).__name__}: {error}"[:_LONGEST])
    return found._replace(observed=found.observed[:_LONGEST])


def _silent(probe: Probe) -> Signal:
    return Signal.no(probe.name, "probe_slow", "it has not answered yet")
