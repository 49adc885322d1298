"""What the doctor found, and how it is said."""

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    """`warn`: it works, less well or less long. `fail`: it does not work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(NamedTuple):
    """One thing that was checked."""

    level: Level
    what: str
    how_to_fix: str = ""

    @classmethod
    def ok(cls, what: str) -> "Finding":
        """Fine."""
        return cls(Level.OK, what)

    @classmethod
    def warn(cls, what: str, how_to_fix: str) -> "Finding":
        """Works, but."""
        return cls(Level.WARN, what, how_to_fix)

    @classmethod
    def fail(cls, what: str, how_to_fix: str) -> "Finding":
        """Does not work."""
        return cls(Level.FAIL, what, how_to_fix)


def text(findings: Iterable[Finding]) -> str:
    """For people: a line each, and under it what to do."""
    findings = list(findings)
    lines = []
    for found in findings:
        lines.append(f"{found.level:4}  {found.what}")
        lines += [f"      -> {line}" for line in found.how_to_fix.splitlines()]
    counts = {level: sum(f.level is level for f in findings) for level in Level}
    lines.append(f"{counts[Level.FAIL]} to mend, {counts[Level.WARN]} to know about")
    return "\n".join(lines)


def exit_code(findings: Iterable[Finding]) -> int:
    """1 when something does not work."""
    return int(any(found.level is Level.FAIL for found in findings))
