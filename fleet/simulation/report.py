"""What `lamplighter simulate` leaves in its folder: tables and pictures of a simulation."""

import re
from collections.abc import Sequence
from pathlib import Path

from fleet.simulation import pictures
from fleet.simulation.experiment import Stop
from fleet.simulation.pictures import PictureError
from fleet.simulation.result import Personal, Version, rows_of
from fleet.simulation.tables import Cell, TableError, write_rows
from wire import checkpoint
from wire.checkpoint import Weights
from wire.files import naming

VERSIONS, LOSSES, GAINS = "versions", "losses", "personal"
MODEL = "model.safetensors"
_MOST_LINES = 500  # of single devices, in one picture


def write_all(
    folder: Path,
    versions: Sequence[Version],
    *,
    name: str,
    seed: int,
    stop: Stop | None = None,
    personal: Personal | None = None,
    weights: Weights | None = None,
) -> list[str]:
    """All that is to be known; `name` is the pictures' title. What could not be made is said, a
    line each. Raises `OSError` that names the file."""
    absent = [MODEL] if weights is None else []
    absent += [f"{GAINS}{suffix}" for suffix in (".csv", ".png", ".svg") if personal is None]
    for file in absent:
        (folder / file).unlink(missing_ok=True)  # an earlier run's is not taken for this one's
    missing = []
    tables = {VERSIONS: rows_of(versions, seed), LOSSES: _losses(versions)}
    for table, rows in tables.items():
        write_rows(folder / f"{table}.csv", rows)
    try:
        for table, rows in tables.items():
            write_rows(folder / f"{table}.parquet", rows)
    except TableError as error:
        missing.append(f"no Parquet files: {error}")
    if personal is not None:
        gains = [{"device": n, "gain": gain} for n, gain in personal.per_device.items()]
        write_rows(folder / f"{GAINS}.csv", gains)
    if weights is not None:
        with naming(model := folder / MODEL):
            model.write_bytes(checkpoint.write(weights))
    try:
        draw(folder, versions, name=name, stop=stop, personal=personal)
    except PictureError as error:
        missing.append(f"no pictures: {error}")
    return missing


def draw(
    folder: Path,
    versions: Sequence[Version],
    *,
    name: str,
    stop: Stop | None = None,
    personal: Personal | None = None,
) -> None:
    """Every picture there is something to draw for. Raises `PictureError`, `OSError`."""
    for metric in dict.fromkeys(key for v in versions for key in (*v.test, *v.devices)):
        _draw_metric(folder / f"metric-{_safe(metric)}", metric, versions, name, stop)
    _draw_losses(folder / LOSSES, versions, name)
    _draw_bytes(folder / "bytes", versions, name)
    if personal is not None:
        pictures.histogram(
            folder / GAINS,
            [*personal.per_device.values()],
            x="gain of a device by its personal version",
            y="devices",
            title=f"{name}: {personal.gaining} of {personal.devices} devices gain",
            mark=0.0,
        )


def _draw_metric(
    path: Path, metric: str, versions: Sequence[Version], name: str, stop: Stop | None
) -> None:
    lines = {}
    if test := [(v.number, v.test[metric]) for v in versions if metric in v.test]:
        lines["test set"] = test
    spreads = [(v.number, v.devices[metric]) for v in versions if metric in v.devices]
    bands = {}
    if spreads:
        lines["devices, mean"] = [(number, found.mean) for number, found in spreads]
        lines["devices, worst tenth"] = [(number, found.worst_decile) for number, found in spreads]
        bands["devices, mean"] = [
            (number, min(found.mean, found.worst_decile), max(found.mean, found.worst_decile))
            for number, found in spreads
        ]
    goal = stop.at if stop is not None and stop.metric == metric else None
    pictures.curves(
        path, lines, x="version", y=metric, title=f"{name}: {metric}", goal=goal, bands=bands
    )


def _draw_losses(path: Path, versions: Sequence[Version], name: str) -> None:
    """The mean, and behind it every device's own: between its rounds a device says nothing."""
    own: dict[int, list[tuple[float, float]]] = {}
    for version in versions:
        for device, loss in version.losses.items():
            own.setdefault(device, []).append((version.number, loss))
    mean = [(v.number, sum(v.losses.values()) / len(v.losses)) for v in versions if v.losses]
    if not mean:
        return
    chosen = sorted(own)[:_MOST_LINES]
    pictures.curves(
        path,
        {"mean of those that counted": mean},
        faint=[own[device] for device in chosen],
        x="version",
        y="training loss of a device in a round",
        title=f"{name}: training losses, devices in grey",
    )


def _draw_bytes(path: Path, versions: Sequence[Version], name: str) -> None:
    unit, scale = _unit(max(max(v.upload, v.download) for v in versions))
    lines = {
        "up, to the coordinator": [(v.number, v.upload / scale) for v in versions],
        "down, to the devices": [(v.number, v.download / scale) for v in versions],
    }
    title = f"{name}: traffic of the whole fleet"
    pictures.curves(path, lines, x="version", y=f"sent so far, {unit}", title=title)


def _unit(most: int) -> tuple[str, float]:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if most >= scale:
            return unit, scale
    return "bytes", 1.0


def _losses(versions: Sequence[Version]) -> list[dict[str, Cell]]:
    return [
        {"version": v.number, "round": v.round, "device": device, "loss": loss}
        for v in versions
        for device, loss in sorted(v.losses.items())
    ]


def _safe(metric: str) -> str:
    """As a part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", metric)
