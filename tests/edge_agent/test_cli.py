"""The command: what it prints and how it exits, run as its users run it."""

import os
import signal
import subprocess
import sys

import msgspec
import pytest
import trustme

from edge_agent.state import Identity, StateFolder
from tests.edge_agent.machine import Machine


class Command:
    """Runs `edge-agent` over a state folder and a configuration of its own."""

    def __init__(self, folder) -> None:
        self.state = StateFolder(folder / "state")
        self.config = folder / "agent.toml"
        self.machine = Machine(folder / "root")
        self._home = folder

    def configure(self, more="") -> None:
        """A configuration under which a device on a free network is eligible, and `more`."""
        self.config.write_text(
            f"""
            system_root = "{self.machine.root}"
            [data]
            folder = "{self._home}"
            [eligibility]
            max_busy = 100
            {more}
            """
        )

    def __call__(self, *words: str, stdin="") -> subprocess.CompletedProcess[str]:
        with self.start(*words) as process:
            out, err = process.communicate(stdin, timeout=30)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def start(self, *words: str) -> subprocess.Popen[str]:
        arguments = [*words]
        if words and not words[0].startswith("-"):
            arguments += ["--state", str(self.state.folder)]
            if self.config.exists() and "--config" not in words:
                arguments += ["--config", str(self.config)]
        return subprocess.Popen(
            [sys.executable, "-m", "edge_agent", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"HOME": str(self._home), "XDG_CONFIG_HOME": "", "COLUMNS": "100"},
        )

    def joined(self, url="http://127.0.0.1:9") -> None:
        """As if it had enrolled."""
        self.state.create()
        self.state.save_identity(Identity(url=url, device="device-1", secret="s" * 24))


@pytest.fixture
def command(tmp_path):
    return Command(tmp_path)


def complaint(result: subprocess.CompletedProcess[str]) -> str:
    """The one line of an error."""
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("edge-agent: ")
    return line


def test_help_teaches_the_first_steps_and_the_exit_codes(command):
    result = command("--help")
    assert result.returncode == 0
    for word in ("enroll https://", "check", "run", "status", "exit status", "never leaves"):
        assert word in result.stdout


def test_help_of_a_command_names_what_it_takes(command):
    text = command("enroll", "--help").stdout
    for word in (
        "URL",
        "TOKEN",
        "--ca-file",
        "--insecure-http",
        "--label",
        "--again",
        "agent.toml",
    ):
        assert word in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["enroll", "fleet.example:8750", "t"], "expected an address such as 'https://"),
        (["enroll", "https://[::1", "t"], "expected an address"),
        (["enroll", "https://fleet.example:99999", "t"], "expected an address"),
        (["enroll", "https://me:pw@fleet.example", "t"], "expected an address"),
        (["enroll", "https://fleet.example/?a=b", "t"], "expected an address"),
        (["enroll", "http://192.0.2.1:8750", "t"], "--insecure-http"),
        (["enroll", "http://fleet.example:8750", "t"], "plain HTTP"),
        (["enroll", "http://127.0.0.1:9", "tök"], "printable ASCII"),
        (["enroll", "http://127.0.0.1:9", "t", "--label", "kitchen"], "expected KEY=VALUE"),
        (["enroll", "https://127.0.0.1:9", "t", "--ca-file", "/gone.pem"], "/gone.pem: cannot be"),
        (["run", "--config", "/gone.toml"], "/gone.toml: cannot be read"),
        (["check", "--config", "/gone.toml"], "/gone.toml: cannot be read"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_status_2(command, words, said):
    result = command(*words)
    assert said in complaint(result)
    assert result.returncode == 2


def test_a_bad_configuration_is_one_line_and_exit_status_2(command):
    command.config.write_text("[eligibility]\nmax_busy = 130\n")
    for word in ("check", "run", "once"):
        result = command(word)
        assert "eligibility.max_busy = 130" in complaint(result)
        assert result.returncode == 2


@pytest.mark.parametrize("content", ["", "hello", "é", "key"])
def test_a_file_without_a_certificate_is_not_an_authority(command, tmp_path, content):
    if content == "key":
        content = trustme.CA().private_key_pem.bytes().decode()
    (tmp_path / "ca.pem").write_text(content)
    result = command("enroll", "https://127.0.0.1:9", "t", "--ca-file", str(tmp_path / "ca.pem"))
    assert "not a certificate in PEM form" in complaint(result)
    assert result.returncode == 2


def test_a_coordinator_that_does_not_answer_is_one_line_and_exit_status_1(command):
    result = command("enroll", "http://127.0.0.1:9", "t")
    assert "http://127.0.0.1:9 does not answer" in complaint(result)
    assert result.returncode == 1


def test_a_device_that_has_joined_does_not_join_by_mistake(command):
    command.joined()
    result = command("enroll", "http://127.0.0.1:9", "-", stdin="t\n")
    assert "has joined http://127.0.0.1:9; say --again" in complaint(result)
    assert result.returncode == 2


@pytest.mark.parametrize("word", ["run", "once"])
def test_a_device_that_has_not_joined_is_told_how(command, word):
    result = command(word)
    assert "edge-agent enroll URL TOKEN" in complaint(result)
    assert result.returncode == 1


def test_a_damaged_identity_is_one_line(command):
    command.joined()
    (command.state.folder / "identity.json").write_text("{")
    result = command("run")
    assert "is damaged" in complaint(result)
    assert result.returncode == 1


def test_check_says_yes_signal_by_signal(command):
    command.machine.route("eth0")
    command.configure()
    result = command("check")
    assert result.returncode == 0, result.stderr
    *signals, verdict = result.stdout.splitlines()
    assert [line.split()[:3] for line in signals] == [
        ["yes", name, "ok"] for name in ("power", "idle", "network", "window", "data")
    ]
    assert verdict == "eligible"


def test_check_says_no_and_why(command):
    command.machine.route("wwan0")
    command.configure()
    result = command("check")
    assert result.returncode == 3
    assert "no   network  metered" in result.stdout
    assert "wwan0 is metered" in result.stdout
    assert result.stdout.endswith("not eligible\n")


def test_once_on_a_device_that_is_not_eligible_says_why(command):
    command.joined()
    command.configure()  # no route at all
    result = command("once")
    assert result.returncode == 3
    assert result.stdout.startswith("not eligible: offline: no default route")


def test_status_of_an_agent_that_does_not_run(command):
    result = command("status")
    assert result.returncode == 0
    assert result.stdout.startswith("not running: start it with 'edge-agent run'")


def test_run_tells_its_status_is_alone_and_ends_on_sigterm(command):
    command.joined()
    command.configure('network = "any"\n[schedule]\nround_deadline = "1m"\ncheck_in = "100ms"\n')
    with command.start("run") as agent:
        try:
            for line in agent.stderr:
                if "check-in:" in line:
                    break
            assert "does not answer" in line
            told = command("status").stdout
            assert told.startswith("waiting for ")
            assert "offline: http://127.0.0.1:9 does not answer" in told
            second = command("run")
            assert "another agent runs" in complaint(second)
            assert second.returncode == 1
            agent.send_signal(signal.SIGTERM)
            assert agent.wait(10) == 0
        finally:
            agent.kill()
    assert not command.state.socket.exists()
    assert msgspec.json.decode((command.state.folder / "history.json").read_bytes())
