"""`coordinator rounds`: the journal. What each round came to; who was in one, who came when, who
did not and what is known of why."""

from typing import Annotated

import typer
from rich.table import Table

from coordinator.cli.common import (
    All,
    AsJson,
    CaFile,
    Complaint,
    State,
    TaskName,
    TokenFile,
    Url,
    guard,
    narrow_table,
    out,
    plain,
    with_client,
)
from coordinator.cli.telling import failing, say_more, say_troubles, selected, took, write_lines
from coordinator.client import PAGE, AdminClient
from coordinator.views import AssignmentView, RoundSummary, RoundView
from schedules.duration import human

_SHOWN = 100
_MOST_ROUNDS = 1000
_PLACE = ("selected", "came", "examples", "bytes", "loss", "stale")
_NUMBERS = ("places", "selected", "arrived", "dropped", "examples")


def rounds_command(
    state: State,
    name: TaskName,
    last: Annotated[int, typer.Option(help="How many rounds, the newest.")] = 20,
    number: Annotated[
        int | None, typer.Option("--round", help="Everyone in this one.", metavar="N")
    ] = None,
    every: All = False,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Say what a task's rounds came to; with --round who was selected, who came when against the
    deadline, who did not and what is known of why."""

    def check() -> None:
        if not 1 <= last <= _MOST_ROUNDS:
            raise Complaint(f"--last: from 1 to {_MOST_ROUNDS}, not {last}")
        if number is not None and not 1 <= number < 10**9:
            raise Complaint(f"--round: 1 or more, below a billion, not {number}")

    async def work(client: AdminClient) -> None:
        if number is None:
            _show_rounds(await client.rounds(name, last), as_json)
        elif as_json:
            await _write_round(client, name, number)
        else:
            await _show_round(client, name, number, every)

    guard(check)
    with_client(work, state, url, token_file, ca_file)


# All rounds


def _show_rounds(rounds: list[RoundSummary], as_json: bool) -> None:
    if as_json:
        write_lines(rounds)
        return
    out.print(_rounds_table(rounds))
    say_troubles(rounds)


def _rounds_table(rounds: list[RoundSummary]) -> Table:
    names = ("round", "from", "phase", *_NUMBERS, "took")
    table = narrow_table(names, wraps=("phase", "took"), numbers=_NUMBERS)
    for r in rounds:
        table.add_row(
            *(str(r.number), f"v{r.version}", f"{r.phase}: {r.reason}" if r.reason else r.phase),
            *(str(r.places), selected(r), str(r.updates), str(r.dropped), str(r.examples)),
            took(r),
        )
    return table


# One round


async def _write_round(client: AdminClient, name: str, number: int) -> None:
    """Everyone, a page in memory at a time: a script must not be handed half."""
    after: str | None = ""
    while after is not None:
        view = await client.round(name, number, after)
        write_lines(view.assignments)
        after = view.after


async def _show_round(client: AdminClient, name: str, number: int, every: bool) -> None:
    view = await client.round(name, number, limit=PAGE if every else _SHOWN)
    _show_head(view)
    if view.round.selected is None:
        out.print("  who was in it is not kept any more")
    shown = len(view.assignments)
    _show_places(view)
    while every and view.after is not None:
        view = await client.round(name, number, view.after)
        shown += len(view.assignments)
        _show_places(view)
    if view.after is not None:
        say_more(sum(o.assignments for o in view.outcomes) - shown)


def _show_head(view: RoundView) -> None:
    r = view.round
    why = f" ({r.reason})" if r.reason else ""
    out.print(
        f"[bold]round {r.number} of {r.task}[/]: {r.phase}{why}, from model version {r.version}"
    )
    out.print(
        f"  {r.places} places, {selected(r)} selected, {r.updates} arrived, {r.dropped} dropped; "
        f"took {took(r)}"
    )
    say_troubles([r])
    said = [
        f"{o.assignments:,} {o.state}" + (f" ({o.reason})" if o.reason else "")
        for o in view.outcomes
    ]
    if said:
        out.print(plain("  " + ", ".join(said)))


def _show_places(view: RoundView) -> None:
    if not view.assignments:
        return
    stale = any(a.staleness for a in view.assignments)
    names = ("device", "name", *_PLACE[:2], "outcome", *(_PLACE if stale else _PLACE[:-1])[2:])
    wraps = ("name", "came", "outcome")  # "-59 min 59 s" is long
    table = narrow_table(names, wraps, numbers=_PLACE)
    for a in view.assignments:
        here = a.round == view.round.number
        cells = [
            *map(plain, (a.device, a.name)),
            plain(f"{_signed(a.assigned)}" if here else f"in round {a.round}"),
            plain("" if a.lateness is None else _signed(a.lateness)),
            plain("; ".join(filter(None, (outcome(a, view.round), _failing(a))))),
            *(plain("" if n is None else f"{n:,}") for n in (a.examples, a.bytes)),
            plain("" if a.loss is None else f"{a.loss:.4g}"),
            plain(str(a.staleness) if a.staleness else ""),
        ]
        table.add_row(*cells[: len(names)])
    out.print(table)


def outcome(a: AssignmentView, r: RoundSummary) -> str:
    """What became of an assignment, and what is known of why. Text as devices brought it."""
    if a.late is not None:
        closed = r.ended is not None and a.lateness is not None and a.lateness < 0
        return "refused: late, the round had closed before" if closed else "refused: late"
    if a.state == "accepted":
        return "counts" if a.counted in (None, r.number) else f"counts in round {a.counted}"
    if a.state == "working":
        return "still working"
    if a.state == "expired":
        after = a.seen_after
        return f"seen again {human(after)} after" if after > 0 else "never seen since"
    said = ": ".join(filter(None, (a.reason, a.detail)))
    verb = "gave up" if a.state == "given_up" else a.state
    return f"{verb}: {said}" if said else verb


def _failing(a: AssignmentView) -> str:
    said = failing(a.streak, a.rests)
    return f"by now it {said}" if said else ""


def _signed(seconds: float) -> str:
    return human(seconds) if seconds < 0 else f"+{human(seconds)}"


def add_to(app: typer.Typer) -> None:
    """This module's command."""
    app.command("rounds")(rounds_command)
