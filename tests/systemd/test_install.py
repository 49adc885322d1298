"""Installing and removing, in a root of its own and without root's rights.

Real files and folders; systemd's own commands are stood in for by scripts that keep their state in
files. The true ones are tried in a Debian container, by hand.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from systemd.errors import InstallError
from systemd.install import Service, Tls, agent, coordinator, install, remove, unfit
from systemd.machine import Machine
from systemd.steps import Keep

SYSTEMCTL = """#!/bin/sh
echo "$@" >> "$FAKE/calls"
case "$1" in
is-enabled) cat "$FAKE/enabled" 2>/dev/null || echo disabled ;;
is-active) cat "$FAKE/active" 2>/dev/null || echo inactive ;;
enable) echo enabled > "$FAKE/enabled" ;;
disable) rm "$FAKE/enabled" ;;
restart)
    if [ -e "$FAKE/broken" ]; then echo "Job failed." >&2; exit 1; fi
    echo active > "$FAKE/active" ;;
stop) rm "$FAKE/active" ;;
show) echo no ;;
esac
"""
SYSUSERS = """#!/bin/sh
name=$(awk '$1 == "u" {print $2}' "$FAKE/root$1")
echo "$name:x:$(id -u):$(id -g)::/:/usr/sbin/nologin" >> "$FAKE/root/etc/passwd"
echo "$name:x:$(id -g):" >> "$FAKE/root/etc/group"
"""
USERDEL = """#!/bin/sh
sed -i "/^$1:/d" "$FAKE/root/etc/passwd"
"""
GROUPDEL = """#!/bin/sh
sed -i "/^$1:/d" "$FAKE/root/etc/group"
"""


class Here:
    """A machine under a temporary root, and what was said."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "root"
        self.said: list[str] = []
        self.bin = Path(sys.prefix) / "bin"
        for made in ("etc/systemd/system", "var/lib"):
            (self.root / made).mkdir(parents=True)
        for table in ("passwd", "group"):
            (self.root / "etc" / table).write_text("root:x:0:0\nodd line\n")

    def agent(self) -> Service:
        return agent(self.bin)

    def install(self, service: Service, preview: bool = False) -> list[str]:
        self.said = []
        install(service, Machine(self.root), self.said.append, preview)
        return [line.split(":")[0] for line in self.said]

    def remove(self, service: Service, keep: Keep = Keep.OWN, preview: bool = False) -> list[str]:
        self.said = []
        remove(service, Machine(self.root), keep, self.said.append, preview)
        return [line.split(":")[0] for line in self.said]

    def calls(self) -> list[str]:
        """The changes that systemctl was asked for since the last call."""
        log = self.folder / "calls"
        calls = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [c for c in calls if not c.startswith(("is-", "show"))]

    def tree(self) -> dict[str, int]:
        """Every path under the root, with its mode."""
        found = (p for p in self.root.rglob("*") if p.name not in ("passwd", "group"))
        return {str(p.relative_to(self.root)): p.stat().st_mode & 0o7777 for p in found}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    scripts = tmp_path / "bin"
    scripts.mkdir()
    for name, text in (
        ("systemctl", SYSTEMCTL),
        ("systemd-sysusers", SYSUSERS),
        ("userdel", USERDEL),
        ("groupdel", GROUPDEL),
    ):
        (scripts / name).write_text(text)
        (scripts / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{scripts}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(tmp_path))
    return Here(tmp_path)


EVERYTHING = {
    "etc": 0o755,
    "etc/sysusers.d": 0o755,
    "etc/sysusers.d/lamplighter.conf": 0o644,
    "etc/systemd": 0o755,
    "etc/systemd/system": 0o755,
    "etc/systemd/system/edge-agent.service": 0o644,
    "etc/lamplighter": 0o755,
    "etc/lamplighter/agent.toml": 0o644,
    "var": 0o755,
    "var/lib": 0o755,
    "var/lib/lamplighter": 0o750,
    "var/lib/lamplighter-examples": 0o2770,
}
BEFORE = {
    path: mode
    for path, mode in EVERYTHING.items()
    if "lamplighter" not in path and "edge" not in path
}


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_the_agent_is_installed_twice_and_removed_twice(here: Here):
    assert set(here.install(here.agent())) == {"done"}
    assert here.tree() == EVERYTHING
    assert here.calls() == [
        "daemon-reload",
        "enable edge-agent.service",
        "restart edge-agent.service",
    ]

    assert set(here.install(here.agent())) == {"already so"}
    assert "left as it is" not in "".join(here.said)
    assert here.calls() == []

    assert set(here.remove(here.agent())) == {"undone"}
    assert here.tree() == BEFORE
    assert here.calls() == [
        *("stop edge-agent.service", "reset-failed edge-agent.service"),
        *("disable edge-agent.service", "daemon-reload"),
    ]
    assert "lamplighter" not in (here.root / "etc/passwd").read_text()
    assert "lamplighter" not in (here.root / "etc/group").read_text()

    assert set(here.remove(here.agent())) == {"already so"}
    assert here.calls() == []


def test_a_preview_changes_nothing(here: Here):
    assert set(here.install(here.agent(), preview=True)) == {"would do"}
    assert here.tree() == {k: v for k, v in BEFORE.items() if k != "etc/sysusers.d"}
    here.install(here.agent())
    before, _ = here.tree(), here.calls()
    assert set(here.remove(here.agent(), preview=True)) == {"would undo"}
    assert here.tree() == before
    assert here.calls() == []


def test_the_owners_configuration_is_never_overwritten_and_stays(here: Here):
    config = here.root / "etc/lamplighter/agent.toml"
    here.install(here.agent())
    config.write_text("schedule = 'hourly'\n")
    assert set(here.install(here.agent())) == {"already so"}
    assert "left as it is" in "".join(here.said)
    here.remove(here.agent())
    assert config.read_text() == "schedule = 'hourly'\n"
    assert "kept:       configuration /etc/lamplighter/agent.toml: it was changed" in here.said
    here.remove(here.agent(), Keep.NOTHING)
    assert here.tree() == BEFORE


def test_examples_stay_with_the_user_who_owns_them_unless_purged(here: Here):
    here.install(here.agent())
    example = here.root / "var/lib/lamplighter-examples/mine.csv"
    example.write_text("x,target\n")
    (here.root / "var/lib/lamplighter/identity.json").write_text("{}")
    here.remove(here.agent())
    assert example.exists()
    assert not (here.root / "var/lib/lamplighter").exists()
    assert "lamplighter" in (here.root / "etc/passwd").read_text()
    here.remove(here.agent(), Keep.NOTHING)
    assert here.tree() == BEFORE
    assert "lamplighter" not in (here.root / "etc/passwd").read_text()


def test_all_state_is_kept_for_a_reinstallation_when_asked(here: Here):
    here.install(here.agent())
    (here.root / "var/lib/lamplighter/identity.json").write_text("{}")
    here.remove(here.agent(), Keep.STATE)
    left = here.tree()
    assert "etc/systemd/system/edge-agent.service" not in left
    assert {"var/lib/lamplighter/identity.json", "etc/lamplighter/agent.toml"} <= set(left)
    assert "lamplighter" in (here.root / "etc/passwd").read_text()
    assert "already so: state folder /var/lib/lamplighter" in (
        here.install(here.agent()) and here.said
    )


def test_a_unit_of_another_version_is_replaced_and_the_service_restarted(here: Here):
    here.install(here.agent())
    unit = here.root / "etc/systemd/system/edge-agent.service"
    unit.write_text("[Service]\n")
    here.calls()
    here.install(here.agent())
    assert unit.read_text() == here.agent().unit
    assert here.calls() == ["daemon-reload", "restart edge-agent.service"]


def test_a_mode_that_was_changed_is_put_right(here: Here):
    here.install(here.agent())
    (here.root / "var/lib/lamplighter").chmod(0o777)
    assert here.install(here.agent()).count("done") == 1
    assert here.tree() == EVERYTHING


def test_root_follows_no_link_into_another_folder(here: Here):
    target = here.folder / "elsewhere"
    target.mkdir(mode=0o700)
    (here.root / "var/lib/lamplighter").symlink_to(target)
    with pytest.raises(InstallError, match="is a link"):
        here.install(here.agent())
    assert target.stat().st_mode & 0o777 == 0o700


def test_a_service_that_does_not_start_is_one_line_and_the_next_run_goes_on(here: Here):
    (here.folder / "broken").touch()
    with pytest.raises(InstallError, match=r"^systemctl restart .* Job failed. See: journalctl -u"):
        here.install(here.agent())
    (here.folder / "broken").unlink()
    assert here.install(here.agent()).count("done") == 1


def test_the_coordinator_with_tls_is_installed_and_removed(here: Here):
    tls = Tls(Path("/etc/ssl/fleet.crt"), Path("/etc/ssl/fleet.key"))
    with_tls = coordinator(here.bin, "0.0.0.0", 8443, tls)
    here.install(with_tls)
    environment = here.root / "etc/lamplighter/coordinator.env"
    assert "COORDINATOR_HOST=0.0.0.0\nCOORDINATOR_PORT=8443\n" in environment.read_text()
    drop_in = here.root / "etc/systemd/system/coordinator.service.d/tls.conf"
    assert drop_in.read_text().endswith(
        "[Service]\nLoadCredential=tls.crt:/etc/ssl/fleet.crt\n"
        "LoadCredential=tls.key:/etc/ssl/fleet.key\n"
    )
    here.install(coordinator(here.bin))
    assert drop_in.exists()
    here.calls()
    here.install(coordinator(here.bin, tls=Tls(Path("/new.crt"), Path("/new.key"))))
    assert here.calls() == ["daemon-reload", "restart coordinator.service"]
    here.remove(coordinator(here.bin, removing=True), Keep.NOTHING)
    assert here.tree() == BEFORE


def test_a_fleets_models_stay_unless_purged(here: Here):
    here.install(coordinator(here.bin))
    journal = here.root / "var/lib/lamplighter-coordinator/coordinator.sqlite"
    journal.touch()
    here.remove(coordinator(here.bin, removing=True))
    assert journal.exists()
    here.remove(coordinator(here.bin, removing=True), Keep.NOTHING)
    assert here.tree() == BEFORE


def test_the_two_services_share_only_the_folder_of_configuration(here: Here):
    here.install(coordinator(here.bin))
    (here.folder / "active").unlink()
    here.install(here.agent())
    here.remove(coordinator(here.bin, removing=True), Keep.NOTHING)
    assert here.tree() == EVERYTHING


# The environment that the service would run from


def test_an_environment_that_the_service_cannot_see_or_read_is_refused(tmp_path: Path):
    command = tmp_path / "venv" / "edge-agent"
    assert "is not there" in unfit(command)
    command.parent.mkdir(mode=0o755)
    command.touch(mode=0o755)
    assert f"is in {tmp_path}, which is hidden" in unfit(command, (str(tmp_path),))
    command.chmod(0o700)
    assert "closed to other users" in unfit(command, ())
    odd = tmp_path / "my venv%"
    odd.touch()
    assert "plain letters" in unfit(odd)


def test_the_interpreter_behind_the_environment_is_looked_at_too(tmp_path: Path):
    """A virtual environment in /opt may link to a Python in somebody's home."""
    tmp_path.chmod(0o755)
    for folder in ("opt", "home"):
        (tmp_path / folder).mkdir(mode=0o755)
    (tmp_path / "opt/edge-agent").touch(mode=0o755)
    (tmp_path / "home/python3").touch(mode=0o755)
    (tmp_path / "opt/python").symlink_to(tmp_path / "home/python3")
    assert "home/python3 is in" in unfit(tmp_path / "opt/edge-agent", (str(tmp_path / "home"),))


def test_root_goes_on_as_the_owner_of_a_folder_and_nobody_else_changes(tmp_path: Path):
    program = (
        "import os, sys; from pathlib import Path; from systemd.machine import become_owner;"
        "become_owner(Path(sys.argv[1])); print(os.getresuid(), os.getresgid(), os.getgroups())"
    )

    def after(folder: Path) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program, str(folder)],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return done.stdout.strip()

    unchanged = f"{os.getresuid()} {os.getresgid()} {os.getgroups()}"
    assert after(tmp_path) == after(tmp_path / "none") == unchanged
    if os.geteuid() == 0:
        os.chown(tmp_path, 4321, 1234)
        assert after(tmp_path) == "(4321, 4321, 4321) (1234, 1234, 1234) []"


# The units


@pytest.mark.parametrize("service", [agent, coordinator])
def test_the_unit_runs_the_environment_it_was_installed_from(service):
    unit = service(Path("/srv/venv/bin")).unit
    assert "ExecStart=/srv/venv/bin/" in unit
    assert "/opt/" not in unit


def test_the_shipped_configuration_is_one_that_the_agent_takes():
    """The two rooms never meet but here: the sample must be good."""
    said = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import sys; from pathlib import Path; from edge_agent.config import load;"
            "print(load(Path(sys.argv[1])).data.folder)",
            str(Path(sys.modules["systemd"].__path__[0]) / "agent.toml"),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert said.stdout == "/var/lib/lamplighter-examples\n"
