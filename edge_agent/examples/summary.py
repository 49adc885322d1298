"""What examples a device holds, for people: `edge-agent examples`. Blocks."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from edge_agent.examples.folder import bytes_of, ours, planned
from edge_agent.examples.formats import UNREADABLE, store_of
from edge_agent.examples.loading import usable
from edge_agent.examples.retention import Retention, Trimmed
from edge_agent.examples.store import Columns
from wire.plan import Input

_REASONS_SHOWN = 5


@dataclass
class File:
    """One file. `oldest` and `newest` are Unix seconds: of its rows where they have times, else
    when the file was last written. `problem`: why it cannot be read. `usable` counts the examples
    that fit the plan, `None` when there was none to compare with."""

    name: str
    bytes: int
    examples: int = 0
    oldest: float | None = None
    newest: float | None = None
    problem: str = ""
    usable: int | None = None
    skipped: int = 0
    reasons: list[str] = field(default_factory=list)

    def skip(self, count: int, reason: str) -> None:
        """Leave out `count` examples."""
        self.skipped += count
        if len(self.reasons) < _REASONS_SHOWN:
            self.reasons.append(reason)

    def text(self) -> str:
        """For people."""
        if self.problem:
            return f"  {self.name}: {self.bytes:,} bytes, cannot be read: {self.problem}"
        text = f"  {self.name}: {self.examples:,} examples, {self.bytes:,} bytes"
        if self.oldest is not None and self.newest is not None:
            days = dict.fromkeys((_day(self.oldest), _day(self.newest)))
            text += f", of {' to '.join(days)}"
        if self.usable is not None:
            text += f"; {self.usable:,} fit the plan, {self.skipped:,} do not"
        return "\n".join([text, *(f"    {reason}" for reason in self.reasons)])


@dataclass
class Summary:
    """A folder. `going` is what retention would delete now, `None` where it has no limits."""

    folder: Path
    files: list[File]
    going: Trimmed | None
    problems: list[str]

    def text(self) -> str:
        """For people."""
        examples, size = sum(f.examples for f in self.files), sum(f.bytes for f in self.files)
        lines = [f"{self.folder}: {examples:,} examples, {size:,} bytes"]
        lines += [file.text() for file in self.files]
        if self.going is not None:
            lines.append(
                f"  retention would delete now: {self.going.examples:,} examples "
                f"(whole files: {self.going.files:,}), about {self.going.bytes:,} bytes"
            )
        return "\n".join([*lines, *(f"  {problem}" for problem in self.problems)])


def describe(
    folder: Path,
    inputs: tuple[Input, ...] | None = None,
    columns: Columns | None = None,
    retention: Retention | None = None,
    now: float = 0.0,
) -> Summary:
    """Look at every file of a folder. With `inputs`, each is read through, to tell what fits. With
    a `retention` that has limits, what it would delete at `now`, Unix seconds."""
    paths, problems = ours(folder)
    found = [_file(path, inputs, columns or {}) for path in paths]
    going = None
    if retention is not None and retention != Retention():
        plan = planned(folder, retention, now)
        parts = plan.parts.values()
        going = Trimmed(
            sum(part.examples for part in parts),
            sum(part.last.row is None for part in parts),
            round(sum(part.bytes for part in parts)),
        )
        problems = plan.problems
    return Summary(folder, found, going, problems)


def _file(path: Path, inputs: tuple[Input, ...] | None, columns: Columns) -> File:
    file = File(path.name, bytes_of(path))
    try:
        count = store_of(path).count(path)
        written = path.stat().st_mtime
    except UNREADABLE as error:
        file.problem = str(error)
        return file
    file.examples = count.rows
    if count.rows:
        file.oldest = written if count.oldest is None else count.oldest
        file.newest = written if count.newest is None else count.newest
    if inputs is not None:
        parts = usable(path, inputs, columns, file.skip)
        file.usable = sum(len(part[inputs[0].name]) for part in parts)
    return file


def _day(seconds: float) -> str:
    """A date, local time; of a time that no calendar has, the number."""
    try:
        return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g}"
