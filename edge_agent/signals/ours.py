"""What is ours, so that a probe does not take it for somebody else's: our processes, our cgroup.

The agent tells the ids of its running children itself. Finding them would mean to look at every
process of the machine, and `/proc/PID/task/PID/children` is not in every kernel.
"""

import re
from collections.abc import Callable, Collection

from edge_agent.signals.system import System

OwnPids = Callable[[], Collection[int]]
"""The ids of the children that run now, each until it is reaped; not our own."""

_UNIFIED = re.compile(r"^0::(/.*)$", re.MULTILINE)


def no_children() -> Collection[int]:
    """An agent that trains nothing now."""
    return ()


def cgroups(system: System) -> list[str]:
    """Folders of our cgroups (version 2), relative to the root: the innermost first, up to the
    hierarchy's top. None where there is no such thing, or where it is out of our sight."""
    found = _UNIFIED.search(system.text("proc/self/cgroup"))
    if not found or "/../" in f"{found[1]}/":
        return []
    for top in ("sys/fs/cgroup", "sys/fs/cgroup/unified"):
        if (system.root / top / "cgroup.controllers").exists():
            break
    else:
        return []
    names = [name for name in found[1].split("/") if name]
    return ["/".join((top, *names[:depth])) for depth in range(len(names), -1, -1)]


def alone(system: System, cgroup: str, children: Collection[int]) -> bool:
    """Whether a cgroup holds nothing but this process and its children."""
    inside = set(system.text(f"{cgroup}/cgroup.procs").split())
    ours = {system.text("proc/self/stat").partition(" ")[0], *map(str, children)}
    return bool(inside) and inside <= ours
