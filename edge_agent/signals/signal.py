"""What a signal is, and what gives one."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from edge_agent.signals.system import System

OK = "ok"


class Signal(NamedTuple):
    """One condition for work. `code` is stable: `ok`, or why not; `observed` is for people."""

    name: str
    ok: bool
    code: str
    observed: str

    @classmethod
    def yes(cls, name: str, observed: str) -> "Signal":
        """The condition holds."""
        return cls(name, True, OK, observed)

    @classmethod
    def no(cls, name: str, code: str, observed: str) -> "Signal":
        """The condition does not hold."""
        return cls(name, False, code, observed)


class Probe(Protocol):
    """Looks at one condition of the machine.

    `codes` are the reasons that it may give, each with its meaning: `docs/agent.md` lists them.
    """

    @property
    def name(self) -> str:
        """Of the signal that it gives."""

    @property
    def codes(self) -> Mapping[str, str]:
        """Its reasons."""

    def look(self, system: System) -> Signal:
        """The condition now. May block for a moment; raises nothing that it can foresee."""
