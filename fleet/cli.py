"""The `lamplighter` command: a whole fleet on this machine."""

import asyncio
import importlib.util
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # [data] in a help text is a table of TOML
    pretty_exceptions_enable=False,
    help="A whole fleet on this machine: see it work before you touch a device.",
)
err = Console(stderr=True, soft_wrap=True, highlight=False)

_LARGEST_SEED = (1 << 53) - 1  # as in an experiment file: `fleet.simulation` is loaded when needed
_MOST_WORKERS = 1024  # each is a process with ONNX Runtime in it

_NEEDED = {"sklearn": "scikit-learn", "onnxruntime": "onnxruntime", "onnx": "onnx"}
_SIMULATION = {"onnxruntime": "onnxruntime", "onnx": "onnx"}


@app.callback()
def main_callback() -> None:
    """A whole fleet on this machine: see it work before you touch a device."""


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Option(help="Where state, logs and the trained model go.")
    ] = Path("lamplighter-demo"),
) -> None:
    """Train a digit classifier on eight agents, real processes with real trouble, in a minute."""
    missing = [name for module, name in _NEEDED.items() if not importlib.util.find_spec(module)]
    if missing:
        err.print(
            f"[red]error:[/] {', '.join(missing)} not installed: pip install 'lamplighter\\[demo]'"
        )
        raise typer.Exit(1)
    from fleet.demo.demo import run
    from fleet.demo.processes import DemoError

    console = Console(soft_wrap=False)
    try:
        status = asyncio.run(_until_signal(run(folder.absolute(), console)))
    except TimeoutError:  # an OSError, too
        err.print(f"[red]error:[/] the demo took too long: see {folder}/logs")
        status = 1
    except (DemoError, OSError) as error:
        err.print(f"[red]error:[/] {error}")
        status = 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        err.print("stopped; no process is left behind")
        status = 130
    raise typer.Exit(status)


@app.command()
def simulate(
    experiment: Annotated[
        Path, typer.Argument(metavar="EXPERIMENT.toml", help="What to simulate (TOML).")
    ],
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, max=_LARGEST_SEED, help="Another seed than the file's.", show_default=False
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, help="Model versions at most. [default: the file's, else the task's]"),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=_MOST_WORKERS,
            help="Processes that train; 0: this one. [default: one a core]",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Where tables and pictures go. [default: the file's, else EXPERIMENT-results]",
        ),
    ] = None,
) -> None:
    """Try a task on a simulated fleet, in virtual time: real training, real rounds.

    \b
    An experiment file, at its shortest:
        task = "task.toml"       as the coordinator reads it
        devices = 50
        [data]
        source = "files"         or "idx", "script", "digits"
        file = "examples.csv"    to be split over the devices
        test = 0.1
        [split]                  who has which examples
        kind = "dirichlet"       or "alike", "shards", "majority", "groups"
        [[behaviours]]           the rest is honest
        share = 0.2
        like = "slow"            or "silent", "flapping", "late", "lying" ...

    \b
    docs/simulate.md explains every key; examples/digits/experiment.toml runs
    in seconds. In FOLDER you find a row a version (CSV, Parquet), pictures
    (PNG, SVG) and the model. The same seed gives the same figures. Ctrl-C
    keeps what was done.
    Exit status: 0 done, 1 failed, 2 bad input, 130 stopped.
    """
    missing = [name for module, name in _SIMULATION.items() if not importlib.util.find_spec(module)]
    if missing:
        err.print(
            f"[red]error:[/] {', '.join(missing)} not installed: "
            "pip install 'lamplighter\\[simulation]'"
        )
        raise typer.Exit(1)
    from fleet.simulation.command import run
    from fleet.simulation.preparing import Asked

    asked = Asked(seed=seed, rounds=rounds, output=output)
    raise typer.Exit(run(experiment, asked, workers))


async def _until_signal(work: Coroutine[None, None, int]) -> int:
    """Run `work`; SIGINT, SIGTERM and SIGHUP cancel it, so that it ends in order."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await work


def main() -> None:
    """Entry point of the `lamplighter` command."""
    app()


if __name__ == "__main__":
    main()
