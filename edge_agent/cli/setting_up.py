"""Commands of setting up a device: doctor, config, install, uninstall."""

import argparse
import asyncio
from pathlib import Path

from edge_agent import consent
from edge_agent.cli import joining
from edge_agent.cli.common import (
    Commands,
    command,
    config_of,
    default_config,
    state_of,
)
from edge_agent.config.load import PREFIX
from edge_agent.config.reference import explain
from edge_agent.errors import AgentError, ConfigError, StateError
from edge_agent.state import Identity, StateFolder


def add_commands(commands: Commands) -> None:
    """To the parser."""
    command(commands, "doctor", _doctor, "what is missing on this device, and how to get it")

    config = command(commands, "config", _config, "check the configuration, or explain every key")
    config.add_argument(
        "action",
        choices=("check", "explain"),
        help="check: is it valid; explain: every key with its default, meaning and variable",
    )

    install = command(commands, "install", _install, "install and start the systemd service")
    install.add_argument(
        "--join", nargs=2, metavar=("URL", "TOKEN"), help="join a fleet, too (needs --consent)"
    )
    joining.add_joining_options(install)
    uninstall = command(commands, "uninstall", _uninstall, "stop the service and undo install")
    uninstall.add_argument(
        "--keep-state", action="store_true", help="leave configuration, state, examples and user"
    )
    uninstall.add_argument(
        "--purge", action="store_true", help="remove also configuration and examples of yours"
    )
    for parser in (install, uninstall):
        parser.add_argument("--dry-run", action="store_true", help="say only what would be done")
    install.add_argument("--print-unit", action="store_true", help="print the unit, do nothing")


async def _doctor(arguments: argparse.Namespace) -> int:
    from edge_agent.doctor import doctor, exit_code, text

    try:
        config = config_of(arguments)
    except ConfigError as error:
        return _tell(text, exit_code, await doctor(error, state_of(arguments)))
    state = state_of(arguments)
    try:
        agreed = consent.given(state.folder, state.identity().url).ok
    except AgentError:
        agreed = False
    return _tell(text, exit_code, await doctor(config, state, agreed))


def _tell(text, exit_code, findings) -> int:  # type: ignore[no-untyped-def]
    print(text(findings))
    return int(exit_code(findings))


async def _config(arguments: argparse.Namespace) -> int:
    if arguments.action == "explain":
        print(explain(PREFIX))
        return 0
    path = arguments.config or default_config()
    config_of(arguments)
    print(f"{path}: valid" if path.exists() else f"{path} is not there: the defaults hold")
    return 0


async def _install(arguments: argparse.Namespace) -> int:
    from systemd import install as installer
    from systemd.errors import InstallError
    from systemd.machine import Machine

    service = installer.agent()
    if arguments.print_unit:
        print(service.unit, end="")
        return 0
    if arguments.join and not arguments.consent:
        raise ConfigError("--join sends this device's name and facts: say --consent, too")
    if arguments.consent and not arguments.join:
        raise ConfigError("--consent is for one coordinator: say --join URL TOKEN, too")
    try:
        await asyncio.to_thread(installer.install, service, Machine(), print, arguments.dry_run)
    except InstallError as error:
        raise StateError(str(error)) from None
    if arguments.join:
        arguments.state = installer.AGENT_STATE
        return await _join(arguments)
    if not arguments.dry_run:
        enroll = "" if _joined(installer.AGENT_STATE) else "edge-agent enroll URL TOKEN; then: "
        print(f"now: {enroll}systemctl status edge-agent")
    return 0


async def _join(arguments: argparse.Namespace) -> int:
    """The last step of an installation that joins, too; done already the second time."""
    arguments.url, arguments.token = arguments.join
    arguments.again = False
    joined = _joined(arguments.state)
    if joined and joined.url == arguments.url:
        print(f"already so: joined {joined.url} as {joined.device}")
        return 0
    if arguments.dry_run:
        print(f"would do:   join {arguments.url}")
        return 0
    return await joining.join(arguments)


def _joined(folder: Path) -> Identity | None:
    """As whom this device has joined, as far as we may know."""
    try:
        return StateFolder(folder).identity()
    except AgentError:
        return None


async def _uninstall(arguments: argparse.Namespace) -> int:
    from systemd import install as installer
    from systemd.errors import InstallError
    from systemd.machine import Machine
    from systemd.steps import Keep

    if arguments.keep_state and arguments.purge:
        raise ConfigError("--keep-state and --purge: one of them")
    keep = Keep.STATE if arguments.keep_state else Keep.OWN
    keep = Keep.NOTHING if arguments.purge else keep
    joined = _joined(installer.AGENT_STATE)
    try:
        await asyncio.to_thread(
            installer.remove, installer.agent(), Machine(), keep, print, arguments.dry_run
        )
    except InstallError as error:
        raise StateError(str(error)) from None
    if joined and keep is not Keep.STATE:
        how = "say 'edge-agent leave' before" if arguments.dry_run else "tell its operator"
        print(f"{joined.url} was not told, and still knows {joined.device}: {how}")
    return 0
