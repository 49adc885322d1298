"""The services of the system bus that the probes ask, and their properties, read with suspicion."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edge_agent.signals.system import Properties

UPOWER = "/org/freedesktop/UPower"
BATTERY = "/org/freedesktop/UPower/devices/DisplayDevice"  # all batteries, as one
NETWORK = "/org/freedesktop/NetworkManager"
LOGIN = "/org/freedesktop/login1"
TIME = "/org/freedesktop/timedate1"

SESSIONS = "Sessions"
"""What we add to the properties of `LOGIN`: the paths of all sessions, which it tells by a call."""

_LONGEST = 100  # characters of a text: names go into the log and the status


class BusError(Exception):
    """The bus or a service did not do as asked."""


class Refused(BusError):
    """A service answered with an error."""


@dataclass(frozen=True, eq=False)
class Service:
    """A service, and the objects of it that are mirrored.

    `objects` maps paths to interfaces. `every` seconds it is read again when somebody asks: not
    all that it knows is announced. `activated`: it runs only while somebody asks it, so asking may
    start it; all others are never started.
    """

    name: str
    objects: Mapping[str, str]
    every: float
    activated: bool = False


SESSION = "org.freedesktop.login1.Session"  # the interface of each session
LOGIND = Service(
    "org.freedesktop.login1",
    {LOGIN: "org.freedesktop.login1.Manager"},
    # A terminal's idleness comes from the time of its last use, and is not announced.
    every=20.0,
)
TIMEDATED = Service(
    "org.freedesktop.timedate1", {TIME: "org.freedesktop.timedate1"}, every=60.0, activated=True
)
SERVICES = (
    Service(
        "org.freedesktop.UPower",
        {UPOWER: "org.freedesktop.UPower", BATTERY: "org.freedesktop.UPower.Device"},
        every=600.0,
    ),
    Service(
        "org.freedesktop.NetworkManager", {NETWORK: "org.freedesktop.NetworkManager"}, every=600.0
    ),
    LOGIND,
)
"""Those that tell when they change."""

WANTED: Mapping[str, frozenset[str]] = {
    "org.freedesktop.UPower": frozenset({"OnBattery"}),
    "org.freedesktop.UPower.Device": frozenset({"IsPresent", "Percentage"}),
    "org.freedesktop.NetworkManager": frozenset({"Metered", "Connectivity", "State"}),
    "org.freedesktop.login1.Manager": frozenset({"IdleHint"}),
    SESSION: frozenset(
        {
            "Active",
            "Class",
            "IdleHint",
            "LockedHint",
            "Name",
            "Remote",
            "Seat",
            "State",
            "TTY",
        }
    ),
    "org.freedesktop.timedate1": frozenset({"NTP", "NTPSynchronized"}),
}
"""The properties that are mirrored, by interface. Changes of others wake nobody."""


def flag(properties: Properties, name: str) -> bool | None:
    """A truth value; `None` when it is missing or something else."""
    value = properties.get(name)
    return value if isinstance(value, bool) else None


def whole(properties: Properties, name: str) -> int | None:
    """A whole number; `None` when it is missing or something else."""
    value = properties.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def real(properties: Properties, name: str) -> float | None:
    """A finite number; `None` when it is missing or something else."""
    value = properties.get(name)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return whole(properties, name)


def words(properties: Properties, name: str) -> str:
    """A text; empty when it is missing or something else."""
    value = properties.get(name)
    return value if isinstance(value, str) else ""


def plain(value: object) -> object:
    """The value of a variant where it is a simple one, a text cut to a sane length; else `None`.

    A structure counts by its first field: a session's seat is a name and a path.
    """
    match value:
        case (str(), (str(first), *_)):
            return first[:_LONGEST]
        case (str(), str(text)):
            return text[:_LONGEST]
        case (str(), bool() | int() | float() as simple):
            return simple
    return None
