"""May the device work now? Pure: readings in, a verdict out, each signal with its reason.

Whatever is not known counts as no: a guest asks before it helps itself.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from edge_agent.config import Config
from schedules.duration import human


class Signal(NamedTuple):
    """One condition. `code` is stable: `ok`, or why not; `observed` is for people."""

    name: str
    ok: bool
    code: str
    observed: str


class Verdict(NamedTuple):
    """All conditions together."""

    signals: tuple[Signal, ...]

    @property
    def eligible(self) -> bool:
        """Whether the device may train."""
        return all(s.ok for s in self.signals)

    @property
    def may_send(self) -> bool:
        """Whether the network may be used: enough to deliver what was trained before."""
        return all(s.ok for s in self.signals if s.name == "network")

    @property
    def measuring(self) -> bool:
        """Whether the load is not known yet: it is that between two looks."""
        return any(s.code == "load_unknown" for s in self.signals)

    @property
    def refusals(self) -> tuple[Signal, ...]:
        """The signals that say no."""
        return tuple(s for s in self.signals if not s.ok)

    def why(self) -> str:
        """The refusals in one line, `eligible` when there is none."""
        return "; ".join(f"{s.code}: {s.observed}" for s in self.refusals) or "eligible"


@dataclass(frozen=True)
class Readings:
    """What the platform observes. `None` is unknown.

    `on_mains`: external power. `battery`: percent; here `None` is no battery. `busy`: percent of
    all cores used by others than us. `network`: `unmetered`, `metered`, `none` (no route) or
    `None`; `interface` is its name.
    """

    on_mains: bool | None = None
    battery: float | None = None
    busy: float | None = None
    network: str | None = None
    interface: str = ""


def judge(readings: Readings, config: Config, now: datetime) -> Verdict:
    """The verdict on these readings under this configuration."""
    return Verdict(
        (
            _power(readings, config),
            _idle(readings, config),
            _network(readings, config),
            _window(config, now),
            _data(config),
        )
    )


def _power(readings: Readings, config: Config) -> Signal:
    battery = readings.battery
    charge = "no battery" if battery is None else f"battery at {battery:.0f} %"
    if config.eligibility.power == "mains" and readings.on_mains is not True:
        if readings.on_mains is None:
            return Signal("power", False, "power_unknown", "no sign of external power")
        return Signal("power", False, "on_battery", charge)
    if battery is not None and battery < config.eligibility.min_battery:
        least = config.eligibility.min_battery
        return Signal("power", False, "battery_low", f"{charge}, at least {least:.0f} % wanted")
    return Signal("power", True, "ok", ("on mains, " if readings.on_mains else "") + charge)


def _idle(readings: Readings, config: Config) -> Signal:
    if readings.busy is None:
        return Signal("idle", False, "load_unknown", "measuring the load")
    observed = f"other programs use {readings.busy:.0f} % of the processor"
    limit = config.eligibility.max_busy
    if readings.busy > limit:
        return Signal("idle", False, "busy", f"{observed}, at most {limit:.0f} % wanted")
    return Signal("idle", True, "ok", observed)


def _network(readings: Readings, config: Config) -> Signal:
    if config.eligibility.network == "any":
        return Signal("network", True, "ok", "any network will do")
    if readings.network == "none":
        return Signal("network", False, "offline", "no default route")
    known = readings.network or config.eligibility.unknown_network
    kind = known if readings.network else f"of unknown kind, taken as {known}"
    observed = f"{readings.interface or 'the network'} is {kind}"
    if known == "metered":
        return Signal("network", False, "metered", observed)
    return Signal("network", True, "ok", observed)


def _window(config: Config, now: datetime) -> Signal:
    wait = config.timing.seconds_to_opening(now)
    if wait > 0:
        return Signal("window", False, "window_closed", f"the next window opens in {human(wait)}")
    return Signal("window", True, "ok", "inside the training window")


def _data(config: Config) -> Signal:
    if config.data.folder is None and not config.data.tasks:
        return Signal("data", False, "no_data", "the configuration names no folder of examples")
    named = [config.data.folder, *config.data.tasks.values()]
    return Signal("data", True, "ok", "examples in " + ", ".join(n for n in named if n))
