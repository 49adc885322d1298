"""The network: does its use cost money, and does it lead anywhere?

NetworkManager knows what the owner said of a connection. Where it does not run, or does not know,
the kind of the default route's interface tells.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import ClassVar, NamedTuple

from edge_agent.config import Config
from edge_agent.signals.interfaces import Kind, Route, way_out
from edge_agent.signals.services import NETWORK, whole
from edge_agent.signals.signal import Signal
from edge_agent.signals.system import Properties, System


class Metered(IntEnum):
    """NMMetered, as in NetworkManager's D-Bus reference."""

    YES = 1
    NO = 2
    GUESS_YES = 3
    GUESS_NO = 4


class Connectivity(IntEnum):
    """NMConnectivityState: what NetworkManager's own check found."""

    NONE = 1
    PORTAL = 2
    LIMITED = 3


_CONNECTED = 50  # NMState, from there on: it has brought up a connection
_CONNECTED_SITE = 60  # from there on: one with a default route


class Link(NamedTuple):
    """The way to the coordinator.

    `route`: the default route; its kind is `None` when it cannot be told. `trouble`: what
    NetworkManager's check found wrong.
    """

    route: Route | None
    trouble: Connectivity | None = None


class NetworkProbe:
    """Whether the network may be used."""

    name: ClassVar[str] = "network"
    codes: ClassVar[Mapping[str, str]] = {
        "offline": "there is no default route",
        "captive_portal": "the network wants a login in a browser first",
        "unreachable": "the network leads nowhere, as NetworkManager found",
        "metered": "the network's use costs money, or its kind is unknown and counts as such",
    }

    def __init__(self, config: Config) -> None:
        self._config = config

    def look(self, system: System) -> Signal:
        return judge(observe(system), self._config)


def judge(link: Link, config: Config) -> Signal:
    """The signal on this link. With `any`, a coordinator on this machine needs no route."""
    if link.trouble is Connectivity.PORTAL:
        return Signal.no("network", "captive_portal", "a login in a browser is wanted")
    if link.trouble is not None:
        return Signal.no("network", "unreachable", f"connectivity is {link.trouble.name.lower()}")
    if config.eligibility.network == "any":
        return Signal.yes("network", "any network will do")
    if link.route is None:
        return Signal.no("network", "offline", "no default route")
    known = link.route.kind or config.eligibility.unknown_network
    kind = known if link.route.kind else f"of unknown kind, taken as {known}"
    observed = f"{link.route.interface or 'the network'} is {kind}"
    return Signal.yes("network", observed) if known == "unmetered" else _metered(observed)


def _metered(observed: str) -> Signal:
    return Signal.no("network", "metered", observed)


def observe(system: System) -> Link:
    """The link now."""
    route = way_out(system)
    manager = system.properties(NETWORK)
    state = whole(manager, "State") or 0
    if state < _CONNECTED:
        return Link(route)  # it does not run, or others than it made the connection
    if route is None and state >= _CONNECTED_SITE:
        route = Route("", None)
    return Link(
        route and route._replace(kind=_kind(manager, route.kind)),
        _trouble(whole(manager, "Connectivity")),
    )


def _kind(manager: Properties, hardware: Kind | None) -> Kind | None:
    """NetworkManager knows what it was told; its guess does not outdo a modem or a phone."""
    match whole(manager, "Metered"):
        case Metered.YES | Metered.GUESS_YES:
            return "metered"
        case Metered.NO:
            return "unmetered"
        case Metered.GUESS_NO:
            return hardware or "unmetered"
    return hardware


def _trouble(told: int | None) -> Connectivity | None:
    return Connectivity(told) if told in set(Connectivity) else None
