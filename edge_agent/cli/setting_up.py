"""Commands of setting up a device: doctor, config, install, uninstall."""

import argparse
import asyncio

from edge_agent import consent
from edge_agent.cli import joining
from edge_agent.cli.common import Commands, command, config_of, default_config, state_of
from edge_agent.config import Config
from edge_agent.config.load import PREFIX
from edge_agent.config.reference import explain
from edge_agent.errors import ConfigError, StateError
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
    what = uninstall.add_mutually_exclusive_group()
    what.add_argument(
        "--keep-state", action="store_true", help="leave configuration, state, examples and user"
    )
    what.add_argument(
        "--purge", action="store_true", help="remove also configuration and examples of yours"
    )
    for parser in (install, uninstall):
        parser.add_argument("--dry-run", action="store_true", help="say only what would be done")
    install.add_argument("--print-unit", action="store_true", help="print the unit, do nothing")


async def _doctor(arguments: argparse.Namespace) -> int:
    from edge_agent.doctor import doctor, exit_code, text

    config: Config | ConfigError
    try:
        config = config_of(arguments)
    except ConfigError as error:
        config = error
    state = state_of(arguments)
    findings = await doctor(config, state, _agreed(state))
    print(text(findings))
    return exit_code(findings)


def _agreed(state: StateFolder) -> bool:
    """Whether this device has joined a fleet, and its owner agrees."""
    try:
        return consent.given(state.folder, state.identity().url).ok
    except StateError:
        return False


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

    state = StateFolder(installer.AGENT_STATE)
    joined = _joined(state)
    service = installer.agent()
    if arguments.print_unit:
        print(service.unit, end="")
        return 0
    if arguments.join and not arguments.consent:
        raise ConfigError("--join sends this device's name and facts: say --consent, too")
    if arguments.consent and not arguments.join and not joined:
        raise ConfigError("--consent is for one coordinator: say which, with --join URL TOKEN")
    try:
        await asyncio.to_thread(installer.install, service, Machine(), print, arguments.dry_run)
    except InstallError as error:
        raise StateError(str(error)) from None
    if arguments.dry_run:
        if arguments.join and not joined:
            print(f"would do:   join {arguments.join[0]}")
        return 0
    arguments.state = state.folder
    if joined and arguments.consent and (not arguments.join or _same(joined, arguments.join[0])):
        joining.agree(state_of(arguments), joined.url, config_of(arguments), True, "--consent")
        print(f"already so: joined {joined.url} as {joined.device}")
    elif arguments.join:
        arguments.url, arguments.token = arguments.join
        arguments.again = False
        return await joining.join(arguments)
    elif not joined:
        print("now: edge-agent enroll URL TOKEN; then: systemctl status edge-agent")
    return 0


async def _uninstall(arguments: argparse.Namespace) -> int:
    from systemd import install as installer
    from systemd.errors import InstallError
    from systemd.machine import Machine
    from systemd.steps import Keep

    joined = _joined(StateFolder(installer.AGENT_STATE))
    keep = Keep.STATE if arguments.keep_state else Keep.NOTHING if arguments.purge else Keep.OWN
    try:
        await asyncio.to_thread(
            installer.remove, installer.agent(), Machine(), keep, print, arguments.dry_run
        )
    except InstallError as error:
        raise StateError(str(error)) from None
    if joined:
        print(_not_told(joined, gone=not (arguments.keep_state or arguments.dry_run)))
    return 0


def _joined(state: StateFolder) -> Identity | None:
    """Who the service is in its fleet; `None` when it is in none, or that cannot be known."""
    try:
        return state.identity()
    except StateError:
        return None


def _same(joined: Identity, url: str) -> bool:
    return joined.url == url.rstrip("/")


def _not_told(joined: Identity, gone: bool) -> str:
    """That the coordinator still counts on this device, and what to do."""
    if gone:
        return f"{joined.url} was not told: ask its operator to remove the device {joined.device}"
    return f"this device has not left {joined.url}: 'edge-agent leave' tells it"
