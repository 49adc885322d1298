"""`coordinator task metrics`: what devices say of each version of a model, on the examples that
they hold out; and what they gain by versions of their own."""

from collections.abc import Sequence
from typing import Annotated

import typer

from coordinator.cli.common import (
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
from coordinator.cli.telling import write_lines
from coordinator.client import AdminClient
from coordinator.compiler.options.metrics import is_share
from coordinator.figures import MetricView, VersionView

_MOST = 1000
_NUMBERS = ("mean", "deviation", "worst tenth", "worst", "devices", "examples")


def metrics_command(
    state: State,
    name: TaskName,
    last: Annotated[int, typer.Option(help="How many versions, the newest.")] = 20,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Say what devices measure of a task's last versions on their held-out examples: the mean over
    examples; the deviation over devices, the worst tenth of them and the worst one; and what they
    gain by personal versions."""

    def check() -> None:
        if not 1 <= last <= _MOST:
            raise Complaint(f"--last: from 1 to {_MOST}, not {last}")

    async def work(client: AdminClient) -> None:
        versions = await _versions(client, name, last)
        if as_json:
            write_lines(versions)
        elif versions:
            say_versions(versions)
        else:
            out.print("no device has evaluated any of these versions yet")

    guard(check)
    with_client(work, state, url, token_file, ca_file)


async def _versions(client: AdminClient, name: str, last: int) -> list[VersionView]:
    """The last so many versions, oldest first. Of a large fleet they come a few at a time."""
    view = await client.evaluations(name, last)
    found = view.versions
    while view.left:
        view = await client.evaluations(name, view.left, view.before)
        found += view.versions
    return found[::-1]


def say_versions(versions: Sequence[VersionView]) -> None:
    """What devices say of some versions, in their order; nothing where they say nothing."""
    if not versions:
        return
    table = narrow_table(("version", "metric", *_NUMBERS), wraps=("metric",), numbers=_NUMBERS)
    for version in versions:
        for m in version.metrics:
            table.add_row(
                *(f"v{version.version}", plain(m.name)),
                *(f"{value:.4g}" for value in (m.mean, m.deviation, m.worst_decile, m.worst)),
                *(f"{m.devices:,}", f"{m.examples:,}"),
            )
    out.print(table)
    for version in versions:
        # The first metric decides, here as on the device.
        if version.metrics and (said := gain_said(version.metrics[0])):
            out.print(plain(f"personal versions of v{version.version}: {said}"))


def gain_said(metric: MetricView) -> str:
    """What devices gain by their personal versions; empty where none has one."""
    found = metric.personal
    if found is None:
        return ""
    median, mean = (_change(metric, gain) for gain in (found.median, found.mean))
    return (
        f"{found.gaining:,} of {found.devices:,} devices gain, median {median} {_unit(metric)}, "
        f"mean {mean}"
    )


def _change(metric: MetricView, gain: float) -> str:
    """By how much a metric is better: in points where it is a part of 1."""
    if is_share(metric.name):
        return f"{100 * gain:+.1f}"
    if metric.better == "higher":
        return f"{gain:+.4g}"
    return f"{abs(gain):.4g} {'more' if gain < 0 else 'less'}"


def _unit(metric: MetricView) -> str:
    if is_share(metric.name):
        return f"points of {metric.name}"
    return f"of {metric.name}" if metric.better == "higher" else metric.name
