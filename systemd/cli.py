"""`edge-agent install` and `uninstall`: their options, and their work."""

import argparse

from systemd.install import Consent, agent, install, remove
from systemd.machine import InstallError, Machine
from systemd.steps import Keep


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


def install_agent(arguments: argparse.Namespace, consent: Consent | None) -> None:
    """Blocking. `consent` counts when the option is given. Raises `InstallError`."""
    service = agent(consent=consent if arguments.consent else None)
    if arguments.print_unit:
        print(service.unit, end="")
    else:
        install(service, Machine(), preview=arguments.dry_run)


def uninstall_agent(arguments: argparse.Namespace) -> None:
    """Blocking. Raises `InstallError`."""
    keep = Keep.STATE if arguments.keep_state else Keep.NOTHING if arguments.purge else Keep.OWN
    remove(agent(), Machine(), keep, preview=arguments.dry_run)


__all__ = [
    "InstallError",
    "add_install_options",
    "add_uninstall_options",
    "install_agent",
    "uninstall_agent",
]
