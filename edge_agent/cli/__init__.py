"""The `edge-agent` command. Plain argparse: what a device does not import, it does not hold."""

import argparse
import asyncio
import sys

from edge_agent.cli.common import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from edge_agent.errors import AgentError, ConfigError

_DESCRIPTION = """\
Train models on this device while it is on power, idle and on a free network.
The data never leaves the device; compressed changes of the model do."""

_EPILOG = """\
first steps:
  edge-agent doctor                                    what is missing on this device
  edge-agent enroll https://fleet.example:8750 TOKEN   join a fleet (the token: 'coordinator token')
  edge-agent check                                     may this device work now, and why not
  edge-agent run                                       work until stopped
  edge-agent status                                    what the running agent does, and why

as root, every command acts for the service that 'edge-agent install' made

exit status: 0 done, 1 failed, 2 bad input, 3 not eligible (check, once)"""


def main() -> None:
    """Entry point of the `edge-agent` command."""
    arguments = _parser().parse_args()
    try:
        status = asyncio.run(arguments.work(arguments))
    except ConfigError as error:
        sys.exit(_complain(error, EXIT_USAGE))
    except AgentError as error:
        sys.exit(_complain(error, EXIT_FAILED))
    except asyncio.CancelledError:
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(status)


def _parser() -> argparse.ArgumentParser:
    from edge_agent.cli import data, joining, setting_up, working

    parser = argparse.ArgumentParser(
        prog="edge-agent",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for group in (working, joining, data, setting_up):
        group.add_commands(commands)
    return parser


def _complain(error: AgentError, status: int) -> int:
    print(f"edge-agent: {error}", file=sys.stderr)
    return status
