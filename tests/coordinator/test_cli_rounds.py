"""`coordinator rounds` and `coordinator devices`, as a person and as a script read them."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.client import AdminClient
from fleet.clients import Device
from tests.coordinator.plans import constant, plan
from tests.coordinator.processes import one_line, run, served_process

HOSTILE = "[/][red] pump"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A coordinator that runs, with one closed round and an open one."""
    folder = tmp_path_factory.mktemp("rounds") / "state"
    with served_process(folder):
        asyncio.run(_some_history(AdminClient.of_state(folder)))
        yield folder


async def _some_history(own: AdminClient) -> None:
    async with own as admin:
        await plan(goal=1, deadline="1h", over_selection=2.0).create(admin)
        token = await admin.token(3, 60.0)
        good = await Device.enroll(admin.url, token, name=HOSTILE)
        bad = await Device.enroll(admin.url, token, name="gate")
        await bad.give_up(await bad.take(), "no_examples")
        await good.serve(constant(1.0))
        while (await admin.tasks())[0].version == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await good.take()


def said(*arguments: object) -> str:
    """What a command that succeeds says."""
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_rounds_of_a_task(state: Path):
    text = said("rounds", "digits", "--state", state)
    closed, open_ = [line for line in text.splitlines() if " v0 " in line or " v1 " in line]
    for words in ("closed", "goal", "1 h"):
        assert words in closed
    assert "until now" in open_


@pytest.mark.parametrize(
    ("command", "head"),
    [
        (
            ("rounds", "digits"),
            "round from phase places selected arrived dropped examples took",
        ),
        (
            ("rounds", "digits", "--round", 1),
            "device name selected came outcome examples bytes loss",
        ),
        (
            ("task", "show", "digits"),
            "round from phase why updates examples took devices say",
        ),
    ],
)
def test_no_head_is_cut_on_a_narrow_terminal(state: Path, command: tuple[str, ...], head: str):
    done = run(*command, "--state", state, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert head.split() in [line.split() for line in done.stdout.splitlines()]
    assert "…" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_everyone_in_a_round(state: Path):
    text = said("rounds", "digits", "--round", 1, "--state", state)
    assert "round 1 of digits: closed (goal), from model version 0" in text
    assert "2 places, 2 selected, 1 arrived, 1 dropped; took " in text
    assert "1 accepted, 1 given_up (no_examples)" in text
    (good,) = [line for line in text.splitlines() if "pump" in line]
    assert "counts" in good
    assert "-1 h" in good or "-59 min" in good
    (bad,) = [line for line in text.splitlines() if "gate" in line]
    assert "gave up: no_examples" in bad
    assert "\x1b" not in text
    assert HOSTILE in text


def test_a_script_reads_an_object_a_line(state: Path):
    rounds = said("rounds", "digits", "--json", "--state", state).splitlines()
    assert [json.loads(line)["phase"] for line in rounds] == ["closed", "open"]
    assert [json.loads(line)["selected"] for line in rounds] == [2, 1]
    places = said("rounds", "digits", "--round", 1, "--json", "--state", state).splitlines()
    assert sorted(json.loads(line)["state"] for line in places) == ["accepted", "given_up"]
    devices = said("devices", "--json", "--state", state).splitlines()
    assert {json.loads(line)["name"] for line in devices} == {HOSTILE, "gate"}


def test_devices_in_trouble_are_shown(state: Path):
    text = said("devices", "--state", state)
    (bad,) = [line for line in text.splitlines() if "gate" in line]
    assert "digits: failed 1 in a row" in bad
    assert "gate" not in said("devices", "--resting", "--state", state)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rounds", "other"), "no task 'other'"),
        (("rounds", "[red]"), "lower case letters"),
        (("rounds", "digits", "--last", "0"), "--last: from 1 to 1000"),
        (("rounds", "digits", "--last", "many"), "'--last'"),
        (("rounds", "digits", "--round", "0"), "--round: 1 or more"),
        (("rounds", "digits", "--round", "99999999999"), "--round: 1 or more"),
        (("task", "list", "--url", "nonsense", "--token-file", "/dev/null"), "--url: expected"),
        (("task", "list", "--url", "ftp://x", "--token-file", "/dev/null"), "--url: expected"),
        (("rounds", "digits", "--round", "7"), "has had 2 rounds"),
        (("rounds",), "Missing argument 'name'"),
        (("token", "--uses", "0"), "--uses: from 1 to 1000000"),
        (("token", "--expires", "foo"), "'1h30m'"),
        (("token", "--expires", "0s"), "--expires: from '1s' to '366d'"),
        (("task", "show", "other"), "no task 'other'"),
        (("devices", "--remove", "device-1"), "no device"),
        (("serve", "--max-connections", "0"), "1"),
        (("serve", "--port", "70000"), "65535"),
        (("nonsense",), "nonsense"),
        (("task", "list", "--url", "http://127.0.0.1:9"), "--token-file"),
    ],
)
def test_bad_input_is_one_line_and_status_2(state: Path, arguments: tuple[str, ...], words: str):
    assert words in one_line(run(*arguments, COORDINATOR_STATE=str(state)), 2)


def test_a_coordinator_that_does_not_answer_is_status_1(tmp_path: Path):
    (tmp_path / "token").write_text("secret")
    asked = ("--url", "http://127.0.0.1:9", "--token-file", tmp_path / "token")
    assert "does not answer" in one_line(run("rounds", "digits", *asked), 1)


def test_help_is_not_a_mistake():
    done = run("rounds", "--help")
    assert done.returncode == 0
    assert "--round" in done.stdout
    assert "rounds" in run("--help").stdout
    nothing = run()
    assert "rounds" in nothing.stdout
    assert (nothing.returncode, nothing.stderr) == (2, "")
