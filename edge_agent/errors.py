"""What goes wrong on a device. One tree.

AgentError
  ConfigError              the configuration cannot be used
  StateError               the state folder cannot be used
    NotEnrolled            this device has not joined a fleet
  TransportError           the coordinator could not be asked
    Offline                no answer: a passing trouble (also a ConnectionError)
    Rejected               the coordinator said no; `code` is its stable code
    Interrupted            the network may not be used any more: a signal has turned
"""


class AgentError(Exception):
    """One line for the person at the device."""

    transient = True
    """Whether the same may succeed later."""


class ConfigError(AgentError):
    """The message names the file, the key and what is allowed."""


class StateError(AgentError):
    """The state folder is missing something, or in use."""


class NotEnrolled(StateError):
    """There is no identity."""


class TransportError(AgentError):
    """A request failed."""


class Offline(TransportError, ConnectionError):
    """No answer, or a broken one."""


class Silent(Offline):
    """The line is dead, or too slow to be of use: not the moment to try once more."""


class Rejected(TransportError):
    """The coordinator's answer was an error document.

    A status below 500 is final, but for "too many requests" and "request timeout".
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{detail or code} ({code})")
        self.status = status
        self.code = code
        self.detail = detail
        self.transient = status >= 500 or status in (408, 429)


class Interrupted(TransportError):
    """A transfer was stopped because a signal said no; what is done of it is kept."""


def one_line(text: str) -> str:
    """Text from the network, made fit for a log and a terminal: one line, printable."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:500]
