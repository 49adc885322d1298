"""`python -m benchmarks`: every section, each as a table."""

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before anything imports ONNX Runtime

from rich.console import Console

from benchmarks import (
    aggregation,
    codecs,
    guest,
    load,
    memory,
    robust,
    rounds,
    simulators,
    steps,
    virtual,
)
from benchmarks.report import Section
from benchmarks.runtimes import Runtime, RuntimeMissing, here, probe

_FILE_WIDTH = 130  # columns where the output is a file, or a pipe

Measure = Callable[[Path, list[Runtime], bool, Callable[[str], None]], Section]


def _memory(
    work: Path, runtimes: list[Runtime], quick: bool, say: Callable[[str], None]
) -> Section:
    return asyncio.run(memory.measure(work, runtimes, quick, say))


def _rounds(
    work: Path, runtimes: list[Runtime], quick: bool, say: Callable[[str], None]
) -> Section:
    return asyncio.run(rounds.measure(work, quick, say))


def _guest(work: Path, runtimes: list[Runtime], quick: bool, say: Callable[[str], None]) -> Section:
    return asyncio.run(guest.measure(work, runtimes, quick, say))


def _virtual(
    work: Path, runtimes: list[Runtime], quick: bool, say: Callable[[str], None]
) -> Section:
    return virtual.measure(quick, say)


def _simulators(
    work: Path, runtimes: list[Runtime], quick: bool, say: Callable[[str], None]
) -> Section:
    return simulators.measure(work, quick, say)


def _load(work: Path, runtimes: list[Runtime], quick: bool, say: Callable[[str], None]) -> Section:
    return asyncio.run(load.measure(work, quick, say))


def _robust(
    work: Path, runtimes: list[Runtime], quick: bool, say: Callable[[str], None]
) -> Section:
    return asyncio.run(robust.measure(work, quick, say))


SECTIONS: dict[str, Measure] = {
    "steps": steps.measure,
    "memory": _memory,
    "rounds": _rounds,
    "load": _load,
    "aggregation": aggregation.measure,
    "guest": _guest,
    "virtual": _virtual,
    "simulators": _simulators,
    "robust": _robust,
    "codecs": codecs.measure,
}


def main() -> None:
    """Run as the command line says."""
    arguments = _arguments()
    console = Console()
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    try:
        runtimes = [here()]
        if arguments.device_python:
            runtimes.append(probe(arguments.device_python))
    except RuntimeMissing as error:
        raise SystemExit(f"error: {error}") from None
    console.print(_machine(runtimes), highlight=False)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="lamplighter-") as folder:
        for name in arguments.only or SECTIONS:
            with console.status(name) as status:
                try:
                    work = Path(folder)
                    say = status.update if console.is_terminal else _say
                    found = SECTIONS[name](work, runtimes, arguments.quick, say)
                except Exception as error:  # noqa: BLE001 - one section's trouble is its own row
                    found = Section(name)
                    found.missing(name, f"{type(error).__name__}: {error}")
            found.print(console)
    console.print(f"{time.monotonic() - started:.0f} s in all", highlight=False)


def _say(what: str) -> None:
    """Beside a file, or a pipe, that takes the tables: some sections take half an hour."""
    print(what, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=SECTIONS, help="this section; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, under a minute")
    parser.add_argument(
        "--device-python",
        metavar="PATH",
        help="a second interpreter with '.[device]' and stock onnxruntime, measured as well",
    )
    parser.add_argument(
        "--folder", type=Path, help="where files are written: on the disk to be measured [system's]"
    )
    return parser.parse_args()


def _machine(runtimes: list[Runtime]) -> str:
    lines = [
        f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}; "
        f"load before the start {os.getloadavg()[0]:.1f}; {time.strftime('%Y-%m-%d')}"
    ]
    lines += [f"Python {r.version}, {r.name} ({r.python})" for r in runtimes]
    return "\n".join(lines) + "\n"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
