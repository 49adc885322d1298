"""The `coordinator` command."""

import sys

import typer

from coordinator.cli import fleet, rounds, serving, tasks
from coordinator.cli.common import Complaint, complain

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Run a fleet's training: compile tasks, serve devices, publish models.",
)
for module in (serving, tasks, rounds, fleet):
    module.add_to(app)


def main() -> None:
    """Entry point of the `coordinator` command. Exit status: 0 done, 1 failed, 2 bad input."""
    try:
        status = app(standalone_mode=False)
    except Exception as error:
        # What cannot be understood is one line, as every other mistake.
        if not (said := getattr(error, "format_message", None)):
            raise
        sys.exit(complain(Complaint(said()), 2))
    sys.exit(status if isinstance(status, int) else 0)
