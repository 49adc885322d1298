"""Install the two services, and remove them: which steps each consists of, and their running.

`agent()` and `coordinator()` say what an installation consists of; `install` and `remove` bring it
about, say each thing that they do, and can be run twice.
"""

import os
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from systemd.errors import InstallError
from systemd.machine import Machine
from systemd.steps import (
    Enabled,
    File,
    Folder,
    Keep,
    Running,
    Shared,
    Step,
    Unit,
    User,
)

AGENT_STATE = Path("/var/lib/lamplighter")
AGENT_EXAMPLES = Path("/var/lib/lamplighter-examples")
COORDINATOR_STATE = Path("/var/lib/lamplighter-coordinator")
CONFIGURATION = Path("/etc/lamplighter")
HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108
"""What `ProtectHome` and `PrivateTmp` hide from the services."""

_UNITS = Path("/etc/systemd/system")
_SYSUSERS = Path("/etc/sysusers.d")
_TEMPLATE_BIN = "/opt/lamplighter/bin/"
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+@")

_BOARDS = (
    *(("Zero 2", "raspberry-pi-zero-2-w"), ("3", "raspberry-pi-zero-2-w")),
    *(("4", "raspberry-pi-4"), ("5", "raspberry-pi-4"), ("Compute Module 4", "raspberry-pi-4")),
)
"""What `/proc/device-tree/model` begins with after the maker's name, and the profile for it."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Tls:
    """A certificate chain and its key, PEM. Root reads them; the service gets copies."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Service:
    """One service: its `command`, the `unit` as it would be written, and the steps."""

    command: Path
    unit: str
    steps: tuple[Step, ...]


def scripts() -> Path:
    """Where the commands of the running environment are."""
    return Path(sysconfig.get_path("scripts"))


def agent(bin_folder: Path | None = None) -> Service:
    """The agent's service, run from `bin_folder`, by default that of the running environment."""
    bin_folder = bin_folder or scripts()
    name = "edge-agent.service"
    unit = Unit(_UNITS / name, _unit(name, bin_folder), "unit", unit=name)
    text = _shipped("agent.toml").replace('profile = "any"', f'profile = "{_profile()}"')
    config = File(CONFIGURATION / "agent.toml", text, "configuration", True)
    user = "lamplighter"
    declared = File(
        _SYSUSERS / "lamplighter.conf", _shipped("edge-agent.sysusers.conf"), "declaration of user"
    )
    steps = (
        declared,
        User(user, AGENT_STATE, declared.path, (AGENT_STATE, AGENT_EXAMPLES)),
        Folder(AGENT_STATE, 0o750, user, "state folder"),
        # New files belong to the group, whoever of its members writes them.
        Folder(AGENT_EXAMPLES, 0o2770, user, "folder of examples", owners=True),
        Shared(CONFIGURATION),
        config,
        unit,
        Enabled(name),
        Running(name, (unit.path, config.path)),
    )
    return Service(bin_folder / "edge-agent", unit.text, steps)


def coordinator(
    bin_folder: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8750,
    tls: Tls | None = None,
    insecure_http: bool = False,
    removing: bool = False,
) -> Service:
    """The coordinator's service. Without `tls`, a drop-in that an earlier run wrote stays as it
    is; when `removing`, it is part of what goes."""
    bin_folder = bin_folder or scripts()
    name = "coordinator.service"
    unit = Unit(_UNITS / name, _unit(name, bin_folder), "unit", unit=name)
    drop_ins = Shared(_UNITS / f"{name}.d")
    credentials = Unit(
        drop_ins.path / "tls.conf", _credentials(tls) if tls else "", "TLS drop-in", unit=name
    )
    environment = _shipped("coordinator.env").replace("=127.0.0.1", f"={host}")
    environment = environment.replace("=8750", f"={port}")
    if insecure_http:
        environment += "COORDINATOR_INSECURE_HTTP=1\n"
    config = File(CONFIGURATION / "coordinator.env", environment, "configuration", True)
    user = "lamplighter-coordinator"
    declared = File(
        _SYSUSERS / f"{user}.conf", _shipped("coordinator.sysusers.conf"), "declaration of user"
    )
    return Service(
        bin_folder / "coordinator",
        unit.text,
        (
            declared,
            User(user, COORDINATOR_STATE, declared.path, (COORDINATOR_STATE,)),
            Folder(COORDINATOR_STATE, 0o700, user, "state folder", owners=True),
            Shared(CONFIGURATION),
            config,
            *((drop_ins, credentials) if tls or removing else ()),
            unit,
            Enabled(name),
            Running(name, (unit.path, config.path, credentials.path)),
        ),
    )


def install(service: Service, machine: Machine, say: Say = print, preview: bool = False) -> None:
    """Do what is not done yet. `preview` only says what that is. Raises `InstallError`."""
    _check_rights(machine, preview)
    if machine.root == Path("/") and (problem := unfit(service.command)):
        raise InstallError(problem)
    for step in service.steps:
        with _named(step):
            if step.done(machine):
                say(f"already so: {step.what}{step.remark(machine)}")
            elif preview:
                say(f"would do:   {step.what}")
            else:
                step.do(machine)
                say(f"done:       {step.what}")


def remove(
    service: Service, machine: Machine, keep: Keep, say: Say = print, preview: bool = False
) -> None:
    """Undo what is there, backwards, but for what is kept. `preview` only says what that is. Raises
    `InstallError`."""
    _check_rights(machine, preview)
    for step in reversed(service.steps):
        with _named(step):
            if step.gone(machine):
                say(f"already so: not there: {step.what}")
            elif why := step.kept(machine, keep):
                say(f"kept:       {step.what}: {why}")
            elif preview:
                machine.going.update(step.paths)
                say(f"would undo: {step.what}")
            else:
                step.undo(machine)
                say(f"undone:     {step.what}")


def _profile(model: Path = Path("/proc/device-tree/model")) -> str:
    """The profile of the configuration that fits the board that this is."""
    try:
        name = model.read_text(errors="replace")
    except OSError:
        return "any"
    fitting = (profile for board, profile in _BOARDS if name.startswith(f"Raspberry Pi {board}"))
    return next(fitting, "any")


def unfit(command: Path, hidden: tuple[str, ...] = HIDDEN) -> str:
    """Why the service's user could not run `command`; empty when it could. `hidden`: folders that
    the unit does not let it see.

    The interpreter and our own code are looked at, too: a virtual environment may link to a
    Python, and an editable installation to a checkout, in somebody's home.
    """
    if not command.is_file():
        return f"{command} is not there: install the package where the service is to run it"
    if not _PLAIN.issuperset(str(command)):
        return f"{command}: systemd needs a path of plain letters, digits and ./_-+@"
    interpreter = command.parent / "python"
    paths = [p.resolve() for p in (command, interpreter, Path(__file__).parent) if p.exists()]
    whys = [_hidden(path, hidden) for path in paths] + [_closed(path) for path in paths]
    if why := next(filter(None, whys), ""):
        return (
            f"the service could not run {command}: {why}. Make the environment where every user "
            "may read: python3 -m venv /opt/lamplighter"
        )
    return ""


def _hidden(path: Path, folders: tuple[str, ...]) -> str:
    found = next((folder for folder in folders if path.is_relative_to(folder)), "")
    return f"{path} is in {found}, which is hidden from it" if found else ""


def _closed(path: Path) -> str:
    closed = (p for p in (*reversed(path.parents), path) if p.stat().st_mode & 0o005 != 0o005)
    found = next(closed, None)
    return f"{found} is closed to other users" if found else ""


def _check_rights(machine: Machine, preview: bool) -> None:
    if machine.root != Path("/"):
        return
    if not Path("/run/systemd/system").is_dir():
        raise InstallError("systemd does not run this machine: start the command in another way")
    if os.geteuid() != 0 and not preview:
        raise InstallError("this needs root: say sudo, or look first with --dry-run")


@contextmanager
def _named(step: Step) -> Iterator[None]:
    """Errors of the system as ours, with what was being done."""
    try:
        yield
    except OSError as error:
        raise InstallError(f"{step.what}: {error}") from None


def _unit(name: str, bin_folder: Path) -> str:
    return _shipped(name).replace(_TEMPLATE_BIN, f"{bin_folder}/")


def _credentials(tls: Tls) -> str:
    return (
        "# Written by `coordinator install`. After the files were renewed: systemctl restart\n"
        "[Service]\n"
        f"LoadCredential=tls.crt:{tls.certificate.absolute()}\n"
        f"LoadCredential=tls.key:{tls.key.absolute()}\n"
    )


def _shipped(name: str) -> str:
    """A file that ships beside this one."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
