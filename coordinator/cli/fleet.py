"""The fleet: its devices, and tokens to join it."""

from typing import Annotated

import typer
from rich.table import Table

from coordinator.cli.common import (
    All,
    AsJson,
    CaFile,
    Complaint,
    State,
    TokenFile,
    Url,
    err,
    guard,
    out,
    plain,
    with_client,
)
from coordinator.cli.telling import failing, say_more, write_lines
from coordinator.client import AdminClient
from coordinator.views import (
    LONGEST_LIFETIME,
    MOST_USES,
    DevicePage,
    DeviceView,
    StandingView,
)
from schedules.duration import Duration, human

_SHOWN = 200


def devices_command(
    state: State,
    resting: Annotated[
        bool, typer.Option("--resting", help="Only those that rest, since they keep failing.")
    ] = False,
    every: All = False,
    as_json: AsJson = False,
    remove: Annotated[
        str | None, typer.Option(help="Forget this device, as if it had left.", metavar="ID")
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """List the enrolled devices, when each was last seen and which keep failing; or remove one."""

    async def work(client: AdminClient) -> None:
        if remove is not None:
            await _remove(client, remove)
            return
        shown, page = 0, DevicePage(devices=[], population=0, after="")
        while page.after is not None and (every or shown < _SHOWN):
            limit = 1000 if every or resting else _SHOWN
            page = await client.device_page(page.after, limit, resting)
            shown += len(page.devices)
            _show(page.devices, as_json)
        if page.after is not None and not as_json:
            say_more(None if resting else page.population - shown)

    with_client(work, state, url, token_file, ca_file)


async def _remove(client: AdminClient, device: str) -> None:
    left = await client.remove(device)
    out.print(
        f"{plain(device)} is forgotten; of its updates {left.dropped} were dropped, "
        f"{left.published} are part of published models"
    )


def _show(devices: list[DeviceView], as_json: bool) -> None:
    if as_json:
        write_lines(devices)
        return
    table = Table("device", "name", "labels", "machine", "agent", "runtime", "last seen", "trouble")
    table.columns[0].no_wrap = True  # to be copied
    for d in devices:
        labels = " ".join(f"{k}={v}" for k, v in d.labels.items())
        said = (d.id, d.name, labels, d.facts.machine, d.facts.agent, d.facts.runtime)
        trouble = "; ".join(filter(None, map(_trouble, d.standings)))
        table.add_row(*map(plain, said), f"{human(d.seen)} ago", trouble)
    out.print(table)


def _trouble(standing: StandingView) -> str:
    said = failing(standing.streak, standing.rests)
    return f"{standing.task}: {said}" if said else ""


def token_command(
    state: State,
    uses: Annotated[int, typer.Option(help="How many devices may join with it.")] = 1,
    expires: Annotated[str, typer.Option(help="How long it is good: '2h', '7d'.")] = "24h",
    url: Url = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Make an enrolment token, shown once. A device joins with: edge-agent enroll URL TOKEN"""
    lifetime = 0.0

    def check() -> None:
        nonlocal lifetime
        if not 1 <= uses <= MOST_USES:
            raise Complaint(f"--uses: from 1 to {MOST_USES}, not {uses}")
        try:
            lifetime = float(Duration.parse(expires))
        except ValueError as error:
            raise Complaint(f"--expires: {error}, not {expires!r}") from None
        if not 1 <= lifetime <= LONGEST_LIFETIME:
            raise Complaint(f"--expires: from '1s' to '366d', not {expires!r}")

    async def work(client: AdminClient) -> None:
        print(await client.token(uses, lifetime))
        err.print(
            "On each device: [bold]edge-agent enroll URL TOKEN[/], with this server's address"
        )

    guard(check)
    with_client(work, state, url, token_file, ca_file)


def add_to(app: typer.Typer) -> None:
    """This module's commands."""
    app.command("devices")(devices_command)
    app.command("token")(token_command)
