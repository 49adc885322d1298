"""The command and people: who is asked, who may ask, and on whose behalf root acts."""

import os
import pty
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from edge_agent import consent
from systemd.install import AGENT_STATE
from tests.edge_agent.commands import BUSY, NOBODY, Command, complaint

URL = "http://127.0.0.1:9"
SYSTEMD = Path("/run/systemd/system").is_dir()
as_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root, and setpriv"
)


@pytest.fixture
def command(tmp_path):
    return Command(tmp_path)


@pytest.fixture
def shared():
    """A command in a folder that every user may read."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Command(Path(folder))


# Asked on a terminal


def asked(command: Command, answer: str, *words: str) -> tuple[int, str]:
    """Exit status and what is seen, when a person at a terminal answers; Ctrl-C without an
    answer."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "edge_agent", *words, "--state", str(command.state.folder)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"XDG_CONFIG_HOME": "/nowhere", "COLUMNS": "100"},
    ) as process:
        os.close(theirs)
        seen = b""
        while b"[y/N]" not in seen:
            seen += os.read(ours, 4096)
        if answer:
            os.write(ours, answer.encode())
        else:
            while process.poll() is None:  # one that comes just before it reads goes unseen
                process.send_signal(signal.SIGINT)
                time.sleep(0.2)
        try:
            while more := os.read(ours, 4096):
                seen += more
        except OSError:  # the terminal's other end is closed
            pass
        status = process.wait(20)
    os.close(ours)
    return status, seen.decode()


@pytest.mark.parametrize("answer", ["\n", "n\n", "yep\n", "\x04"])
def test_who_does_not_say_yes_has_not_agreed_and_nothing_is_sent(command, answer):
    status, seen = asked(command, answer, "enroll", URL, "token")
    assert "What stays on this device" in seen
    assert "Do you agree? [y/N]" in seen
    assert "not agreed: nothing was sent" in seen
    assert "Traceback" not in seen
    assert status == 2
    assert consent.given(command.state.folder, URL).code == "no_consent"


def test_ctrl_c_is_no_consent(command):
    status, seen = asked(command, "", "enroll", URL, "token")
    assert status == 130
    assert "Traceback" not in seen
    assert consent.given(command.state.folder, URL).code == "no_consent"


@pytest.mark.parametrize("answer", ["y\n", "Yes\n"])
def test_who_says_yes_has_agreed_and_joins(command, answer):
    status, seen = asked(command, answer, "enroll", URL, "token")
    assert f"agreed, for {URL}" in seen
    assert f"{URL} does not answer" in seen  # it was tried
    assert status == 1
    assert consent.given(command.state.folder, URL).ok


def test_consent_may_be_given_on_a_terminal_later(command):
    command.joined(URL)
    assert command("consent", "--withdraw").returncode == 0
    status, seen = asked(command, "y\n", "consent")
    assert status == 0
    assert f"agreed, for {URL}" in seen
    assert consent.given(command.state.folder, URL).ok


# The doctor


def test_the_doctor_says_what_is_to_be_mended_by_its_exit_status(command):
    command.joined(URL)
    command.configure()
    result = command("doctor")
    *findings, summary = result.stdout.splitlines()
    failed = [line for line in findings if line.startswith("fail")]
    assert summary.startswith(f"{len(failed)} to mend")
    assert result.returncode == bool(failed)
    assert any("127.0.0.1:9" in line for line in failed)  # nobody is there
    command.config.write_text("polls = 3")
    result = command("doctor")
    assert result.returncode == 1
    assert any("polls" in line for line in result.stdout.splitlines() if line.startswith("fail"))


# Installing


def test_the_unit_is_shown_to_anybody(command):
    result = command("install", "--print-unit", nobody=True)
    assert result.returncode == 0
    assert result.stdout.startswith("# Written by `edge-agent install`")
    assert f"ExecStart={Path(sys.prefix)}/bin/edge-agent run" in result.stdout


@pytest.mark.parametrize("words", [["install"], ["uninstall"], ["uninstall", "--purge"]])
def test_what_would_be_done_is_shown_to_anybody_and_nothing_is_done(command, words):
    before = AGENT_STATE.exists()
    result = command(*words, "--dry-run", nobody=True)
    if SYSTEMD:
        assert "would do" in result.stdout or "would undo" in result.stdout or result.stderr
    else:
        assert "systemd does not run this machine" in complaint(result)
        assert result.returncode == 1
    assert AGENT_STATE.exists() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["install", "--join", URL, "token"], "say --consent, too"),
        (["install", "--consent"], "say which, with --join URL TOKEN"),
        (["uninstall", "--keep-state", "--purge"], "not allowed with argument"),
    ],
)
def test_what_does_not_go_together_is_bad_input(command, words, said):
    result = command(*words, nobody=True)
    assert said in result.stderr
    assert result.returncode == 2


# Several users


@as_root
def test_the_agent_of_another_user_does_not_tell(command):
    command.joined(URL)
    command.machine.route("eth0")
    command.configure(BUSY)
    with command.start("run") as agent:
        try:
            for line in agent.stderr:
                if "check-in:" in line:
                    break
            result = command("status", nobody=True)
            assert "belongs to another user: ask as that one, or as root" in complaint(result)
            assert result.returncode == 1
            assert command("status").returncode == 0
        finally:
            agent.kill()


@as_root
def test_root_acts_as_the_owner_of_the_state(shared):
    """What it writes must be the service's to read."""
    shared.joined(URL)
    folder = shared.state.folder
    own(folder)
    shared.configure()
    shared.config.chmod(0o644)
    assert shared("consent", "--withdraw").returncode == 0
    assert shared("consent", "--yes").returncode == 0
    written = folder / consent.CONSENT_FILE
    assert (written.stat().st_uid, written.stat().st_gid) == (65534, 65534)
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    result = shared("once")
    assert result.returncode in (1, 3), result.stderr
    assert {path.stat().st_uid for path in folder.rglob("*")} == {65534}


@as_root
@pytest.mark.skipif(
    any(p.stat().st_mode & 0o005 != 0o005 for p in Path(os.__file__).resolve().parents),
    reason="this Python is in somebody's home: whoever becomes another user cannot import from it",
)
def test_root_leaves_as_the_owner_of_the_state(shared):
    shared.joined(URL)
    own(shared.state.folder)
    assert "was NOT told" in shared("leave").stdout
    assert not (shared.state.folder / "identity.json").exists()


@as_root
def test_root_in_a_folder_of_its_own_stays_root(shared):
    shared.joined(URL)
    assert shared("consent", "--yes").returncode == 0
    assert (shared.state.folder / consent.CONSENT_FILE).stat().st_uid == 0


def own(folder: Path) -> None:
    """It is the service's, as `edge-agent install` would make it."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, 65534)
    assert NOBODY
