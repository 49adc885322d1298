"""What the commands share: where state and configuration are, and on whose behalf they act."""

import argparse
import os
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent import config as configuration
from edge_agent.errors import StateError
from edge_agent.state import StateFolder

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Commands = object

EXIT_FAILED, EXIT_USAGE, EXIT_NOT_ELIGIBLE, EXIT_INTERRUPTED = 1, 2, 3, 130

SERVICE_STATE = Path("/var/lib/lamplighter")
SERVICE_CONFIG = Path("/etc/lamplighter/agent.toml")

Work = Callable[[argparse.Namespace], Awaitable[int]]


def command(commands: Commands, name: str, work: Work, text: str) -> argparse.ArgumentParser:
    """A command with the options that all have."""
    parser = commands.add_parser(name, help=text, description=text)
    parser.add_argument(
        "--state", type=Path, default=default_state(), help="state folder [%(default)s]"
    )
    parser.add_argument(
        "--config", type=Path, help=f"configuration [{default_config()}, where there is one]"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    parser.set_defaults(work=work)
    return parser


def default_state() -> Path:
    """systemd's state folder within the service. Else the service's, for root, and for a user who
    has none of their own; else the user's own."""
    if folder := os.environ.get("STATE_DIRECTORY"):
        return Path(folder.split(":")[0])
    base = os.environ.get("XDG_STATE_HOME") or _home() / ".local" / "state"
    own = Path(base) / "lamplighter" / "agent"
    if SERVICE_STATE.exists() and (os.geteuid() == 0 or not own.exists()):
        return SERVICE_STATE
    return own


def _home() -> Path:
    """The user's own folder; in a container there may be no such user."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def default_volatile(state: Path) -> Path | None:
    """A folder in memory for the agent over `state`, in that which systemd or the login gives us;
    `None` without one."""
    if folder := os.environ.get("RUNTIME_DIRECTORY"):
        return Path(folder.split(":")[0])
    login = Path(os.environ.get("XDG_RUNTIME_DIR", "/nowhere"))
    if login.is_dir() and login.stat().st_uid == os.geteuid():
        # One for each state folder: two agents of one user must not forget each other's models.
        name = blake2b(str(state.resolve()).encode(), digest_size=6).hexdigest()
        return login / f"lamplighter-agent-{name}"
    return None


def default_config() -> Path:
    """The machine's configuration where there is one, else the user's own."""
    base = os.environ.get("XDG_CONFIG_HOME") or _home() / ".config"
    return SERVICE_CONFIG if SERVICE_CONFIG.exists() else Path(base) / "lamplighter" / "agent.toml"


def config_of(arguments: argparse.Namespace) -> configuration.Config:
    """The configuration, under this process's environment. Raises `ConfigError`."""
    path = arguments.config or default_config()
    return configuration.load(path, optional=arguments.config is None, environment=os.environ)


def state_of(arguments: argparse.Namespace) -> StateFolder:
    """The state folder. Root becomes its owner for good: what is written must be the service's.
    Raises `StateError`, also for another user than its owner."""
    from systemd.machine import become_owner

    folder: Path = arguments.state
    try:
        become_owner(folder)
        foreign = folder.exists() and os.geteuid() not in (0, folder.stat().st_uid)
    except PermissionError:
        foreign = True  # it cannot even be looked for
    except OSError as error:
        raise StateError(f"cannot act as the owner of {folder}: {error}") from None
    if foreign:
        raise StateError(f"{folder} belongs to another user: ask as that one, or as root (sudo)")
    return StateFolder(folder, default_volatile(folder))
