"""Whether the machine can tell what the agent asks, and has room for it."""

from collections.abc import Iterator
from datetime import UTC, datetime

from edge_agent.config.schema import Config
from edge_agent.doctor.finding import Finding
from edge_agent.signals.disk import DiskProbe
from edge_agent.signals.memory import MemoryProbe
from edge_agent.signals.signal import Probe
from edge_agent.signals.supply import SupplyProbe
from edge_agent.signals.system import System
from edge_agent.signals.temperature import TemperatureProbe

_CMDLINE = "on a Raspberry Pi add {} to the one line of /boot/firmware/cmdline.txt, and restart"
_RELEASED = datetime(2026, 1, 1, tzinfo=UTC)  # no clock that is set shows less
# What a program that sets the clock leaves in /run.
_CLOCK_SETTERS = (
    "run/systemd/timesync/synchronized",
    "run/chrony",
    "run/chronyd.pid",
    "run/ntpd.pid",
)
# (service, what is there when it is, what is done without it)
_SERVICES = (
    ("NetworkManager", "run/NetworkManager", "the kind of network is told by its interface alone"),
    ("logind", "run/systemd/seats/seat0", "nobody tells whether somebody sits at the device"),
    (
        "UPower",
        "usr/share/dbus-1/system-services/org.freedesktop.UPower.service",
        "power is read from /sys",
    ),
)


def services(system: System) -> Iterator[Finding]:
    """systemd, and what it brings. The agent does without each of them."""
    if (system.root / "run/systemd/system").is_dir():
        yield Finding.ok("systemd runs")
    else:
        yield Finding.warn(
            "systemd does not run here", "start 'edge-agent run' yourself, at each boot"
        )
    for name, mark, without in _SERVICES:
        there = (system.root / mark).exists()
        yield Finding.ok(f"{name} is here" if there else f"no {name}: {without}")


def kernel(system: System) -> Iterator[Finding]:
    """What the kernel keeps account of."""
    if system.text("proc/pressure/io") and system.text("proc/pressure/memory"):
        yield Finding.ok("the kernel tells who waits for disk and memory")
    else:
        yield Finding.warn(
            "the kernel does not tell who waits for disk and memory (PSI)",
            _CMDLINE.format("psi=1"),
        )
    if "memory" in system.text("sys/fs/cgroup/cgroup.controllers").split():
        yield Finding.ok("the kernel can limit a service's memory")
    else:
        yield Finding.warn(
            "the kernel does not limit a service's memory: MemoryMax= does nothing",
            _CMDLINE.format("cgroup_enable=memory"),
        )


def clock(system: System, now: datetime) -> Finding:
    """Whether the clock is set, and by whom. `now` is aware."""
    if now < _RELEASED:
        return Finding.fail(
            f"the clock is not set: it says {now:%Y-%m-%d}",
            "sudo timedatectl set-ntp true, and see 'timedatectl'",
        )
    if any((system.root / mark).exists() for mark in _CLOCK_SETTERS):
        return Finding.ok(f"the clock is set: {now:%Y-%m-%d %H:%M}")
    return Finding.warn(
        f"nothing is known to set the clock; it says {now:%Y-%m-%d %H:%M}",
        "sudo apt install systemd-timesyncd, or another NTP client",
    )


def room(system: System, config: Config) -> Iterator[Finding]:
    """Disk, memory, temperature and supply, as the agent itself will judge them."""
    probes: tuple[Probe, ...] = (
        DiskProbe(config),
        MemoryProbe(config),
        TemperatureProbe(config),
        SupplyProbe(config),
    )
    for probe in probes:
        found = probe.look(system)
        said = f"{found.name}: {found.observed}"
        if found.ok:
            yield Finding.ok(said)
        else:
            yield Finding.warn(said, f"the agent waits until it is better ({found.code})")
