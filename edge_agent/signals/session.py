"""People: is somebody using a screen or a keyboard here? logind knows, where it runs."""

from collections.abc import Mapping
from typing import ClassVar

from edge_agent.config import Config
from edge_agent.signals.services import LOGIN, SESSIONS, flag, words
from edge_agent.signals.signal import Signal
from edge_agent.signals.system import Properties, System


class SessionProbe:
    """Whether nobody uses the machine."""

    name: ClassVar[str] = "session"
    codes: ClassVar[Mapping[str, str]] = {
        "in_use": "somebody is logged in, neither idle nor locked out",
    }

    def __init__(self, config: Config) -> None:
        self._config = config

    def look(self, system: System) -> Signal:
        manager = system.properties(LOGIN)
        paths = manager.get(SESSIONS)
        listed = paths if isinstance(paths, tuple) else ()
        sessions = [found for path in listed if (found := system.properties(path))]
        return judge(manager, sessions, self._config)


def judge(manager: Properties, sessions: list[Properties], config: Config) -> Signal:
    """The signal on logind's own properties and those of all sessions."""
    if config.eligibility.sessions == "any":
        return Signal.yes("session", "people may be using this machine")
    if not manager:
        return Signal.yes("session", "no login service runs here")
    if flag(manager, "IdleHint"):
        return Signal.yes("session", "all sessions are idle")
    # Many desktops never tell it that they are idle, and a login screen counts there.
    used = [session for session in sessions if _in_use(session)]
    if used:
        return Signal.no("session", "in_use", ", ".join(_who(session) for session in used[:3]))
    return Signal.yes("session", "nobody is using a session")


def _in_use(session: Properties) -> bool:
    """A person's session, in the foreground, neither idle nor locked nor about to end.

    What is not told counts as use.
    """
    kind = words(session, "Class")
    return (
        (not kind or kind.startswith("user"))
        and flag(session, "Active") is not False
        and words(session, "State") in ("active", "")
        and not flag(session, "LockedHint")
        and not flag(session, "IdleHint")
    )


def _who(session: Properties) -> str:
    """Who is where, for the owner."""
    name = words(session, "Name") or "somebody"
    if flag(session, "Remote"):
        return f"{name} from afar"
    places = [place for place in (words(session, "Seat"), words(session, "TTY")) if place]
    return f"{name} at {' '.join(places)}" if places else name
