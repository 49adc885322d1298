"""The `coordinator` command."""

import sys

import typer

from coordinator.cli import fleet, plans, rounds, serving, tasks
from coordinator.cli.common import EXIT_INPUT, Complaint, complain

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Run a fleet's training: compile tasks, serve devices, publish models.",
)
for module in (serving, tasks, plans, rounds, fleet):
    module.add_to(app)


def main() -> None:
    """Entry point of the `coordinator` command. Exit status: 0 done, 1 failed, 2 bad input."""
    try:
        status = app(standalone_mode=False)
    except Exception as error:
        # What cannot be understood is one line, as every other mistake.
        # (Typer has click's exceptions, but not always click's own: asked for by what they can do.)
        if (said := getattr(error, "format_message", None)) is None:
            raise
        if text := said():  # none where the help was shown already
            complain(Complaint(text), EXIT_INPUT)
        sys.exit(EXIT_INPUT)
    sys.exit(status if isinstance(status, int) else 0)
