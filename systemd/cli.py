"""`edge-agent install` and `uninstall`: their options, and their work.

What installs is imported only when it is asked for: the agent that runs holds none of it.
"""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from systemd.install import Consent


def add_install_options(parser: argparse.ArgumentParser) -> None:
    """The options of `install`."""
    parser.add_argument(
        "--consent", action="store_true", help="the owner agrees: see 'edge-agent consent'"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--print-unit", action="store_true", help="only show the unit")


def add_uninstall_options(parser: argparse.ArgumentParser) -> None:
    """The options of `uninstall`."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--keep-state", action="store_true", help="keep state, examples, configuration and user"
    )
    what.add_argument(
        "--purge", action="store_true", help="remove also examples, and configuration you changed"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")


def install_agent(arguments: argparse.Namespace, consent: "Consent | None") -> None:
    """Blocking. `consent` counts when the option is given. Raises `InstallError`."""
    from systemd.install import agent, install
    from systemd.machine import Machine

    service = agent(consent=consent if arguments.consent else None)
    if arguments.print_unit:
        print(service.unit, end="")
    else:
        install(service, Machine(), preview=arguments.dry_run)


def uninstall_agent(arguments: argparse.Namespace) -> None:
    """Blocking. Raises `InstallError`."""
    from systemd.install import agent, remove
    from systemd.machine import Machine
    from systemd.steps import Keep

    keep = Keep.STATE if arguments.keep_state else Keep.NOTHING if arguments.purge else Keep.OWN
    remove(agent(), Machine(), keep, preview=arguments.dry_run)
