"""`coordinator rounds`: the journal. What each round came to; who was in one, who came when, who
did not and what is known of why."""

import sys
from typing import Annotated

import msgspec
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
    out,
    plain,
    with_client,
)
from coordinator.client import PAGE, AdminClient
from coordinator.views import AssignmentView, RoundSummary, RoundView
from schedules.duration import human

_SHOWN = 100
_MOST_ROUNDS = 1000


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
        for each in rounds:
            _write(each)
        return
    table = Table(
        *("round", "from", "phase", "why", "places", "selected", "arrived", "dropped"),
        *("examples", "deadline", "took"),
    )
    for r in rounds:
        table.add_row(
            *(str(r.number), f"v{r.version}", r.phase, r.reason or "", str(r.places)),
            *(_selected(r), str(r.updates), str(r.dropped), str(r.examples)),
            *(human(r.deadline), _took(r)),
        )
    out.print(table)
    say_troubles(rounds)


def say_troubles(rounds: list[RoundSummary]) -> None:
    """Which of them cannot be closed, and why."""
    for r in rounds:
        if r.trouble is not None:
            out.print(plain(f"round {r.number} is not closed yet: {r.trouble}"))


def _selected(r: RoundSummary) -> str:
    return "?" if r.selected is None else str(r.selected)


def _took(r: RoundSummary) -> str:
    if r.elapsed is None:
        return "not started" if r.ended is None else "never started"
    return human(r.elapsed) if r.ended is not None else f"{human(r.elapsed)} until now"


# One round


async def _write_round(client: AdminClient, name: str, number: int) -> None:
    """Everyone, a page in memory at a time: a script must not be handed half."""
    after: str | None = ""
    while after is not None:
        view = await client.round(name, number, after)
        for each in view.assignments:
            _write(each)
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
    more = sum(o.assignments for o in view.outcomes) - shown
    if view.after is not None and more > 0:
        out.print(f"and {more:,} more: --all")


def _show_head(view: RoundView) -> None:
    r = view.round
    why = f" ({r.reason})" if r.reason else ""
    out.print(
        f"[bold]round {r.number} of {r.task}[/]: {r.phase}{why}, from model version {r.version}"
    )
    out.print(
        f"  {r.places} places, {_selected(r)} selected, {r.updates} arrived, {r.dropped} dropped; "
        f"deadline {human(r.deadline)}, took {_took(r)}"
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
    table = Table(
        *("device", "name", "selected", "came", "outcome", "examples", "bytes", "loss", "stale"),
        "the device now",
    )
    table.columns[0].no_wrap = True  # to be copied
    for a in view.assignments:
        here = a.round == view.round.number
        table.add_row(
            *map(plain, (a.device, a.name)),
            f"{_signed(a.assigned)}" if here else f"in round {a.round}",
            "" if a.lateness is None else _signed(a.lateness),
            plain(outcome(a, view.round)),
            *("" if n is None else f"{n:,}" for n in (a.examples, a.bytes)),
            "" if a.loss is None else f"{a.loss:.4g}",
            str(a.staleness) if a.staleness else "",
            _trouble(a),
        )
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


def _trouble(a: AssignmentView) -> str:
    if not a.streak:
        return ""
    rests = f", rests {human(a.rests)}" if a.rests else ""
    return f"failed {a.streak} in a row{rests}"


def _signed(seconds: float) -> str:
    return human(seconds) if seconds < 0 else f"+{human(seconds)}"


def _write(value: msgspec.Struct) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def add_to(app: typer.Typer) -> None:
    """This module's command."""
    app.command("rounds")(rounds_command)
