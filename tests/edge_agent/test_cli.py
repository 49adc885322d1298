"""The command: what it prints and how it exits, run as its users run it."""

import signal

import msgspec
import pytest
import trustme

from edge_agent import consent
from tests.edge_agent.commands import BUSY, Command, complaint


@pytest.fixture
def command(tmp_path):
    return Command(tmp_path)


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
        (["enroll", "http://127.0.0.1:9", "tök", "--consent"], "printable ASCII"),
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
    result = command("enroll", "http://127.0.0.1:9", "t", "--consent")
    assert "http://127.0.0.1:9 does not answer" in complaint(result)
    assert result.returncode == 1


def test_a_device_that_has_joined_does_not_join_by_mistake(command):
    command.joined()
    result = command("enroll", "http://127.0.0.1:9", "-", stdin="t\n")
    assert "has joined http://127.0.0.1:9; say --again" in complaint(result)
    assert result.returncode == 2


def test_a_device_that_has_not_joined_is_told_how(command):
    result = command("once")
    assert "edge-agent enroll URL TOKEN" in complaint(result)
    assert result.returncode == 1


def test_nothing_is_sent_before_the_owner_has_agreed(command):
    result = command("enroll", "http://127.0.0.1:9", "t")
    assert "What stays on this device" in result.stdout
    assert "nothing is sent before the owner has agreed" in complaint(result)
    assert result.returncode == 2
    assert consent.given(command.state.folder, "http://127.0.0.1:9").code == "no_consent"


def test_consent_is_given_shown_by_check_and_withdrawn(command):
    command.joined("http://127.0.0.1:9")
    command.configure()
    command.machine.route("eth0")
    assert command("check").returncode == 0
    assert "consent is withdrawn" in command("consent", "--withdraw").stdout
    assert "there was none" in command("consent", "--withdraw").stdout
    assert "no   consent         no_consent" in command("check").stdout
    assert command("consent").returncode == 2  # nobody to ask here
    assert "agreed, for http://127.0.0.1:9" in command("consent", "--yes").stdout
    assert command("check").returncode == 0


def test_leave_works_offline_and_says_so(command):
    command.joined("http://127.0.0.1:9")
    result = command("leave")
    assert result.returncode == 1
    assert "http://127.0.0.1:9 was NOT told" in result.stdout
    assert "remove the device device-1" in result.stdout
    assert not (command.state.folder / "identity.json").exists()


def test_an_agent_that_has_not_joined_waits_for_it(command):
    command.configure(BUSY)
    with command.start("run") as agent:
        try:
            for line in agent.stderr:
                if "not_enrolled" in line:
                    break
            assert command("status").stdout.startswith("waiting: not_enrolled")
            command.joined()
            for line in agent.stderr:
                if "check-in:" in line:
                    break
            assert "does not answer" in line
        finally:
            agent.kill()


def test_sighup_reads_the_configuration_anew_and_keeps_the_old_one_when_it_is_bad(command):
    command.joined()
    command.machine.route("wwan0")
    command.configure('[schedule]\nround_deadline = "1m"\ncheck_in = "100ms"\n')

    def said(agent, words):
        return next(line for line in agent.stderr if words in line)

    with command.start("run") as agent:
        try:
            said(agent, "eligibility: metered")
            command.configure("max_busy = 130")
            agent.send_signal(signal.SIGHUP)
            said(agent, "stays as it was")
            said(agent, "eligibility: metered")
            command.configure(BUSY)
            agent.send_signal(signal.SIGHUP)
            said(agent, "was read anew")
            said(agent, "check-in:")
        finally:
            agent.kill()


def test_config_check_names_the_line_and_explain_every_key(command):
    command.configure()
    assert command("config", "check").stdout == f"{command.config}: valid\n"
    command.config.write_text("poll = '30s'\n[eligibility]\nmax_bsy = 3\n")
    result = command("config", "check")
    assert "line 3: unknown key 'eligibility.max_bsy'" in complaint(result)
    assert result.returncode == 2
    explained = command("config", "explain").stdout
    assert "eligibility.max_temperature = 75" in explained
    assert "EDGE_AGENT_ELIGIBILITY_MAX_TEMPERATURE" in explained


def test_a_damaged_identity_is_one_line(command):
    command.joined()
    (command.state.folder / "identity.json").write_text("{")
    result = command("run")
    assert "is damaged" in complaint(result)
    assert result.returncode == 1


def test_check_says_yes_signal_by_signal(command):
    command.joined()
    command.machine.route("eth0")
    command.configure()
    result = command("check")
    assert result.returncode == 0, result.stderr
    *signals, verdict = result.stdout.splitlines()
    assert [line.split()[:3] for line in signals] == [
        ["yes", name, "ok"]
        for name in (
            *("consent", "window", "training_budget", "traffic_budget", "data"),
            *("power", "supply", "temperature", "load", "pressure", "gpu", "session", "network"),
            *("clock", "memory", "disk"),
        )
    ]
    assert verdict == "eligible"


def test_check_says_no_and_why(command):
    command.machine.route("wwan0")
    command.configure()
    result = command("check")
    assert result.returncode == 3
    assert "no   network         metered" in result.stdout
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
    command.configure(BUSY)
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


def test_joining_another_fleet_in_vain_leaves_the_old_membership_as_it_is(command):
    command.joined("http://127.0.0.1:9")
    result = command("enroll", "http://127.0.0.1:10", "t", "--again", "--consent")
    assert result.returncode == 1
    assert command.state.identity().url == "http://127.0.0.1:9"
    assert consent.given(command.state.folder, "http://127.0.0.1:9").ok
