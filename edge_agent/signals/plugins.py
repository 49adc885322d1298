"""Own signals: probes of other packages, by the entry point group `lamplighter.probes`.

A kiosk that must not train while a visitor stands before it needs a package with this module,

    # kiosk.py
    from edge_agent.signals.signal import Signal

    class VisitorProbe:
        name = "visitor"
        codes = {"visitor_present": "somebody stands before the kiosk"}

        def __init__(self, config):  # edge_agent.config.Config
            pass

        def look(self, system):  # edge_agent.signals.system.System; in a thread, may block a moment
            near = system.number("sys/bus/iio/devices/iio:device0/in_proximity_raw")
            if near is not None and near < 100:
                return Signal.no("visitor", "visitor_present", "somebody stands there")
            return Signal.yes("visitor", "nobody there")

and this in its `pyproject.toml`:

    [project.entry-points."lamplighter.probes"]
    visitor = "kiosk:VisitorProbe"

Install it in the agent's environment, restart the agent, and see `edge-agent check`. A probe that
cannot be loaded, or fails, says `probe_failed`, which ends work like every other reason: what was
meant to protect the device must not be passed over in silence.
"""

import logging
from collections.abc import Collection, Mapping
from importlib.metadata import EntryPoint, entry_points

from edge_agent.config import Config
from edge_agent.signals.signal import OK, Probe, Signal
from edge_agent.signals.system import System

GROUP = "lamplighter.probes"
FAILED = "probe_failed"
CODES: Mapping[str, str] = {FAILED: "an own probe cannot be loaded, or fails: the log says why"}
"""The reason that any own probe may give besides its own codes."""

log = logging.getLogger(__name__)


class ExternalProbe:
    """A probe of somebody else: whatever it does, a signal comes of it."""

    def __init__(self, name: str, probe: Probe | None, why: str = "") -> None:
        self.name = name
        self.codes: Mapping[str, str] = CODES if probe is None else {**probe.codes, **CODES}
        self._probe = probe
        self._why = why

    def look(self, system: System) -> Signal:
        """What the probe says, when it says something valid."""
        if self._probe is None:
            return Signal.no(self.name, FAILED, self._why)
        try:
            found = self._probe.look(system)
            return found if self._is_valid(found) else self._failed(f"it says {found!r}")
        except Exception as error:  # noqa: BLE001 - anybody's code
            return self._failed(_line(error))

    def _is_valid(self, found: Signal) -> bool:
        if not isinstance(found, Signal) or found.name != self.name:
            return False
        return found.ok is (found.code == OK) and (found.ok or found.code in self.codes)

    def _failed(self, why: str) -> Signal:
        if why != self._why:  # once, not at every look
            log.warning("the probe %s failed: %s", self.name, why)
            self._why = why
        return Signal.no(self.name, FAILED, why[:500])


def load(config: Config, taken: Collection[str]) -> list[ExternalProbe]:
    """Every installed own probe; names in `taken` are those of our own probes."""
    names = set(taken)
    found = []
    for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        probe = _load(entry, config, names)
        names.add(probe.name)
        found.append(probe)
    return found


def _load(entry: EntryPoint, config: Config, names: Collection[str]) -> ExternalProbe:
    broken = f"plugin:{entry.name}"  # no probe of ours has such a name
    try:
        probe = entry.load()(config)
        why = _unfit(probe, names)
    except Exception as error:  # noqa: BLE001 - anybody's code
        probe, why = None, _line(error)
    if probe is None or why:
        why = f"{entry.value}: {why or 'it gives no probe'}"
        log.error("the probe %s cannot be used: %s", entry.name, why)
        return ExternalProbe(broken, None, why[:500])
    return ExternalProbe(probe.name, probe)


def _unfit(probe: object, names: Collection[str]) -> str:
    """What is wrong with a probe; empty when nothing is."""
    name = getattr(probe, "name", None)
    codes = getattr(probe, "codes", None)
    if not isinstance(name, str) or not name:
        return "it has no name"
    if name in names:
        return f"the name {name!r} is taken"
    if not isinstance(codes, Mapping) or not codes:
        return "it has no codes"
    if not callable(getattr(probe, "look", None)):
        return "it has no look()"
    return ""


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
