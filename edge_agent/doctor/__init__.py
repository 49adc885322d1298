"""`edge-agent doctor`: what is missing on this device, and how to get it.

It changes nothing, and asks the network only when the owner has agreed.
"""

import asyncio
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from edge_agent.config.schema import Config
from edge_agent.doctor import home, machine, software
from edge_agent.doctor.finding import Finding, Level, exit_code, text
from edge_agent.errors import ConfigError
from edge_agent.signals.system import System
from edge_agent.state import Identity, StateFolder
from schedules.clock import Clock, SystemClock

__all__ = ["Finding", "Level", "doctor", "exit_code", "text"]


async def doctor(
    config: Config | ConfigError,
    state: StateFolder,
    consented: bool = False,
    clock: Clock | None = None,
) -> list[Finding]:
    """All findings, in order. `config` may be the error that reading it gave. Takes some seconds,
    on a small device half a minute; every wait has a bound."""
    error = config if isinstance(config, ConfigError) else None
    read = Config() if isinstance(config, ConfigError) else config
    system = System(Path(read.system_root), state.folder)
    findings = await asyncio.to_thread(lambda: list(_software(system)))
    findings += [await software.runtime(), await software.worker(state.folder / "no-such-plan")]
    clock = clock or SystemClock()
    findings += await asyncio.to_thread(lambda: list(_machine(system, read, clock)))
    findings.append(home.configuration(error))
    found, more = await asyncio.to_thread(_home, system, read, state)
    findings += more
    if found and consented:
        findings.append(await home.coordinator(found))
    elif found:
        findings.append(
            Finding.warn(
                "the owner has not agreed: nothing is trained or sent", "edge-agent consent"
            )
        )
    return findings


def _software(system: System) -> Iterator[Finding]:
    kind = platform.machine()
    yield software.python(sys.version_info[:3])
    yield software.bits(sys.maxsize > 1 << 32, kind)
    yield software.c_library(*platform.libc_ver())
    yield software.processor(system.text("proc/cpuinfo"), kind)
    found = software.installed()
    yield from software.dependencies(software.requirements(), found)
    yield software.runtimes(found)
    yield software.telemetry(os.environ.get("ORT_DISABLE_TELEMETRY"))


def _machine(system: System, config: Config, clock: Clock) -> Iterator[Finding]:
    yield from machine.services(system)
    yield from machine.kernel(system)
    yield machine.clock(system, clock.now())
    yield from machine.room(system, config)


def _home(
    system: System, config: Config, state: StateFolder
) -> tuple[Identity | None, list[Finding]]:
    findings = [*home.state(state.folder, home.mounts(system)), *home.examples(config)]
    found, finding = home.identity(state)
    return found, [*findings, finding]
