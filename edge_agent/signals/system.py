"""The machine, as probes see it: its files under a root, and its services on the system bus."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

Properties = Mapping[str, object]
"""Properties of one D-Bus object, by name."""
Services = Callable[[str], Properties]
"""Properties of an object by its path; none when its service is not there."""

_LARGEST = 1 << 16  # bytes of a file of sysfs or procfs


def no_services(path: str) -> Properties:
    """A machine without a system bus."""
    return {}


class System:
    """Everything that a probe may ask. Blocking: use it off the event loop.

    `root` is `/`; tests and the demo give a folder with a `sys` and a `proc` of their own. `state`
    is the agent's state folder.
    """

    def __init__(self, root: Path, state: Path, services: Services = no_services) -> None:
        self.root = root
        self.state = state
        self.properties = services

    def text(self, path: str) -> str:
        """A small file's text, stripped; empty when there is none. `path` is relative."""
        return text(self.root / path)

    def number(self, path: str) -> float | None:
        """A small file that holds one number."""
        return number(self.root / path)

    def folders(self, path: str) -> list[Path]:
        """What a folder holds, in order of name; nothing when it is not there."""
        try:
            return sorted((self.root / path).iterdir())
        except OSError:
            return []


def text(path: Path) -> str:
    """A small file's text, stripped; empty when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def number(path: Path) -> float | None:
    """The one number in a small file; `None` when it holds something else."""
    try:
        found = float(text(path))
    except ValueError:
        return None
    return found if math.isfinite(found) else None
