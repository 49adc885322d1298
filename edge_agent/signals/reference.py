"""Every reason why a device may not work, as a table for `docs/agent.md`.

Printed by `python -m edge_agent.signals.reference`.
"""

from collections.abc import Iterator

from edge_agent import eligibility
from edge_agent.config import Config
from edge_agent.signals import owner, watch
from schedules.clock import SystemClock


def codes() -> Iterator[tuple[str, str, str]]:
    """Signal, code and meaning, in the order in which `edge-agent check` shows them."""
    for name, reasons in owner.CODES.items():
        yield from ((name, code, meaning) for code, meaning in reasons.items())
    for probe in watch.default_probes(Config(), SystemClock(), ()):
        yield from ((probe.name, code, meaning) for code, meaning in probe.codes.items())
    yield from (("any", code, meaning) for code, meaning in watch.CODES.items())
    yield from (("settled", code, meaning) for code, meaning in eligibility.CODES.items())


def table() -> str:
    """For the document."""
    rows = [f"| {name} | `{code}` | {meaning} |" for name, code, meaning in codes()]
    return "\n".join(["| signal | code | means |", "|---|---|---|", *rows])


if __name__ == "__main__":
    print(table())
