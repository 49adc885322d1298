"""Watches over a fake machine and a private bus."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from edge_agent.config import Config, parse
from edge_agent.signals.signal import Probe, Signal
from edge_agent.signals.watch import Watch
from schedules.clock import SystemClock


def config(root: Path, address: str = "", more: str = "") -> Config:
    """A configuration of a device at `root`; `more` are keys of `[eligibility]`."""
    return parse(f'system_root = "{root}"\nsystem_bus = "{address}"\n[eligibility]\n{more}\n')


def watch(config: Config, *probes: Probe, slow: float = 5.0) -> Watch:
    """A watch by these probes."""
    return Watch(config, Path(config.system_root), SystemClock(), probes, slow)


async def comes(watch: Watch, code: str, observed: str = "", seconds: float = 10.0) -> Signal:
    """Until the first probe says so. It must wake up for that: nobody looks without a reason."""
    found: Sequence[Signal] = ()
    try:
        async with asyncio.timeout(seconds):
            while True:
                found = await watch.look()
                if found[0].code == code and observed in found[0].observed:
                    return found[0]
                await watch.wait(seconds)
    except TimeoutError:
        raise AssertionError(f"{code} never came, but {found}") from None
