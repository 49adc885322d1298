"""Signals that come from the owner's configuration, not from the machine. Pure."""

from collections.abc import Mapping
from datetime import datetime

from edge_agent.config import Config
from edge_agent.signals.signal import Signal
from schedules.duration import human

CODES: Mapping[str, str] = {
    "window_closed": "outside the schedule's windows",
    "no_data": "the configuration names no folder of examples",
}


def window(config: Config, now: datetime) -> Signal:
    """Whether the schedule lets the device work at `now` (aware)."""
    wait = config.timing.seconds_to_opening(now)
    if wait > 0:
        opens = f"the next window opens in {human(wait)}"
        return Signal.no("window", "window_closed", opens)
    return Signal.yes("window", "inside the training window")


def data(config: Config) -> Signal:
    """Whether there is a folder of examples at all."""
    if config.data.folder is None and not config.data.tasks:
        return Signal.no("data", "no_data", "the configuration names no folder of examples")
    named = [config.data.folder, *config.data.tasks.values()]
    return Signal.yes("data", "examples in " + ", ".join(n for n in named if n))
