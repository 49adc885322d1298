"""The `edge-agent` command. Plain argparse: what a device does not import, it does not hold."""

import argparse
import asyncio
import logging
import os
import platform
import signal
import sys
from pathlib import Path

from edge_agent import config as configuration
from edge_agent.agent import Agent
from edge_agent.errors import AgentError, ConfigError
from edge_agent.platform import facts
from edge_agent.state import Identity, StateFolder
from edge_agent.status import ask, at_rest, tell
from edge_agent.transport import Transport, ca_text, check_url
from schedules.clock import SystemClock
from wire.messages import Enroll

EXIT_FAILED, EXIT_USAGE, EXIT_NOT_ELIGIBLE, EXIT_INTERRUPTED = 1, 2, 3, 130

_DESCRIPTION = """\
Train models on this device while it is on power, idle and on a free network.
The data never leaves the device; compressed changes of the model do."""

_EPILOG = """\
first steps:
  edge-agent enroll https://fleet.example:8750 TOKEN   join a fleet (the token: 'coordinator token')
  edge-agent check                                     may this device work now, and why not
  edge-agent run                                       work until stopped
  edge-agent status                                    what the running agent does, and why

exit status: 0 done, 1 failed, 2 bad input, 3 not eligible (check, once)"""


def main() -> None:
    """Entry point of the `edge-agent` command."""
    arguments = _parser().parse_args()
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.INFO,
        format="%(asctime)s %(levelname)-7s %(message)s",
        stream=sys.stderr,
    )
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


def default_state() -> Path:
    """systemd's state folder for the service, else the user's own."""
    if folder := os.environ.get("STATE_DIRECTORY"):
        return Path(folder.split(":")[0])
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "lamplighter" / "agent"


def default_config() -> Path:
    """The machine's configuration where there is one, else the user's own."""
    machine = Path("/etc/lamplighter/agent.toml")
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return machine if machine.exists() else Path(base) / "lamplighter" / "agent.toml"


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--state", type=Path, default=default_state(), help="state folder [%(default)s]"
    )
    shared.add_argument(
        "--config", type=Path, help=f"configuration [{default_config()}, where there is one]"
    )
    shared.add_argument("-v", "--verbose", action="store_true", help="log more")
    parser = argparse.ArgumentParser(
        prog="edge-agent",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    enroll = commands.add_parser("enroll", parents=[shared], help="join a fleet")
    enroll.add_argument("url", metavar="URL", help="the coordinator's address, https://host:port")
    enroll.add_argument("token", metavar="TOKEN", help="from 'coordinator token'; '-' reads stdin")
    enroll.add_argument("--name", default=platform.node(), help="shown to people [%(default)s]")
    enroll.add_argument(
        "--label", action="append", default=[], metavar="KEY=VALUE", help="may be repeated"
    )
    enroll.add_argument("--ca-file", type=Path, help="certificate authority to trust, PEM")
    enroll.add_argument(
        "--insecure-http", action="store_true", help="allow plain HTTP off this machine"
    )
    enroll.add_argument("--again", action="store_true", help="replace the identity there is")
    enroll.set_defaults(work=_enroll)
    for name, work, text in (
        ("run", _run, "work until stopped"),
        ("once", _once, "check in once, do what there is to do, end"),
        ("check", _check, "is this device eligible, signal by signal"),
        ("status", _status, "what the running agent does and why; last rounds; bytes"),
    ):
        command = commands.add_parser(name, parents=[shared], help=text, description=text)
        command.set_defaults(work=work)
    return parser


async def _enroll(arguments: argparse.Namespace) -> int:
    url = check_url(arguments.url, arguments.insecure_http)
    ca = ca_text(arguments.ca_file) if arguments.ca_file else None
    state = StateFolder(arguments.state)
    state.create()
    if (state.folder / "identity.json").exists() and not arguments.again:
        raise ConfigError(
            f"this device has joined {state.identity().url}; say --again to join anew"
        )
    token = sys.stdin.readline().strip() if arguments.token == "-" else arguments.token  # noqa: S105
    labels = dict(_label(text) for text in arguments.label)
    async with Transport(url, token, ca, arguments.insecure_http) as transport:
        joined = await transport.enroll(
            Enroll(name=arguments.name[:100] or "unnamed", labels=labels, facts=facts())
        )
    state.save_identity(
        Identity(
            url=url,
            device=joined.device,
            secret=joined.secret,
            ca=ca,
            insecure_http=arguments.insecure_http,
        )
    )
    print(f"joined {url} as {joined.device}; now: edge-agent check")
    return 0


async def _run(arguments: argparse.Namespace) -> int:
    config, state = _config(arguments), StateFolder(arguments.state)
    state.create()
    with state.lock():
        agent = Agent(config, state, state.identity(), SystemClock())
        _stop_on_signals()
        async with tell(state.socket, agent.status):
            await agent.run()
    return 0


async def _once(arguments: argparse.Namespace) -> int:
    config, state = _config(arguments), StateFolder(arguments.state)
    state.create()
    with state.lock():
        agent = Agent(config, state, state.identity(), SystemClock())
        _stop_on_signals()
        errand = await agent.once()
    if errand.did or errand.verdict.eligible:
        print(errand.text())
    if not errand.verdict.eligible:
        print(f"not eligible: {errand.verdict.why()}")
        return EXIT_NOT_ELIGIBLE
    print(agent.status().record())
    return EXIT_FAILED if errand.failed else 0


async def _check(arguments: argparse.Namespace) -> int:
    from edge_agent.eligibility import judge
    from edge_agent.platform import Platform

    config = _config(arguments)
    observer = Platform(Path(config.system_root))
    observer.read()
    await asyncio.sleep(1.0)  # the load is that between two looks
    verdict = judge(observer.read(), config, SystemClock().now())
    for s in verdict.signals:
        print(f"{'yes' if s.ok else 'no ':3}  {s.name:8} {s.code:15} {s.observed}")
    print("eligible" if verdict.eligible else "not eligible")
    return 0 if verdict.eligible else EXIT_NOT_ELIGIBLE


async def _status(arguments: argparse.Namespace) -> int:
    state = StateFolder(arguments.state)
    status = await ask(state.socket) or at_rest(state.history())
    print(status.text())
    return 0


def _config(arguments: argparse.Namespace) -> configuration.Config:
    if arguments.config is None:
        return configuration.load(default_config(), optional=True)
    return configuration.load(arguments.config)


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ConfigError(f"--label {text!r}: expected KEY=VALUE")
    return key, value


def _stop_on_signals() -> None:
    """SIGTERM and SIGINT cancel the agent's work; the second one ends the process at once."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None

    def stop() -> None:
        if task.cancelling():
            os._exit(EXIT_INTERRUPTED)
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


def _complain(error: AgentError, status: int) -> int:
    print(f"edge-agent: {error}", file=sys.stderr)
    return status
