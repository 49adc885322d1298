"""The live table: rounds, arrivals against the deadline, bytes, accuracy on held-out digits."""

from dataclasses import dataclass, field

from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from coordinator.views import AssignmentView, RoundView
from schedules.duration import human

_WIDTH = 24  # characters that stand for the time to the deadline
_EVENTS = 6


@dataclass
class Board:
    """What is shown. `accuracy` is by model version, `doing` by device."""

    deadline: float
    rounds: dict[int, RoundView] = field(default_factory=dict)
    accuracy: dict[int, float] = field(default_factory=dict)
    doing: dict[str, str] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0

    def render(self) -> RenderableType:
        """The whole picture."""
        events = Text.from_markup("\n".join(self.events[-_EVENTS:]))
        return Group(self._rounds(), self._devices(), events)

    def _rounds(self) -> Table:
        table = Table(
            title="lamplighter demo: handwritten digits on eight devices",
            caption=f"{human(round(self.seconds))}   updates up {self.bytes_up:,} B   "
            f"plans and models down {self.bytes_down:,} B",
            expand=False,
        )
        for column in ("round", "arrivals, to the deadline", "updates", "why", "up", "accuracy"):
            justify: JustifyMethod = "left" if column[0] in "aw" else "right"
            table.add_column(column, justify=justify, no_wrap=True)
        for number, view in sorted(self.rounds.items()):
            ended = view.round.phase != "open"
            arrived = [a for a in view.assignments if a.state == "accepted"]
            table.add_row(
                str(number),
                Text(timeline(view.assignments, self.deadline)),
                str(len(arrived)),
                view.round.reason or "[dim]open[/]",
                f"{sum(a.bytes or 0 for a in arrived):,} B",
                self._accuracy(view) if ended else "",
            )
        return table

    def _accuracy(self, view: RoundView) -> str:
        version = view.round.version + (view.round.phase == "closed")
        found = self.accuracy.get(version)
        return "" if found is None else f"{found:6.1%}"

    def _devices(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, doing in self.doing.items():
            table.add_row(f"[bold]{name}[/]", doing)
        return table


def timeline(assignments: list[AssignmentView], deadline: float) -> str:
    """Arrivals from the first assignment to the deadline: `●` counted, `○` did not make it."""
    line = ["·"] * _WIDTH
    for a in assignments:
        if a.ended is None:
            continue
        at = min(_WIDTH - 1, max(0, int(a.ended / deadline * _WIDTH)))
        line[at] = "●" if a.state == "accepted" else "○"
    return "".join(line) + "│"
