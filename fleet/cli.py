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
    pretty_exceptions_enable=False,
    help="A whole fleet on this machine: see it work before you touch a device.",
)
err = Console(stderr=True, soft_wrap=True, highlight=False)

_NEEDED = {"sklearn": "scikit-learn", "onnxruntime": "onnxruntime", "onnx": "onnx"}


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
    except (DemoError, OSError) as error:
        err.print(f"[red]error:[/] {error}")
        status = 1
    except TimeoutError:
        err.print(f"[red]error:[/] the demo took too long: see {folder}/logs")
        status = 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        err.print("stopped; no process is left behind")
        status = 130
    raise typer.Exit(status)


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
