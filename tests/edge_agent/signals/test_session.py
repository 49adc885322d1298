"""People at the machine: logind on a real bus."""

import asyncio

import pytest

from edge_agent.config import parse
from edge_agent.signals.session import SessionProbe, judge
from edge_agent.signals.system import System
from tests.edge_agent.signals.dbus import LOGIN, session
from tests.edge_agent.signals.watching import comes, config, watch


@pytest.fixture
def login(desktop):
    desktop.sessions()
    desktop.update(LOGIN, IdleHint=("b", False))
    return desktop


@pytest.fixture
def wanted(login, machine):
    return config(machine.root, login.address)


async def test_a_session_is_seen_to_come_and_to_go(login, wanted):
    async with watch(wanted, SessionProbe(wanted)) as watched:
        await comes(watched, "ok", "nobody is using a session")
        await asyncio.to_thread(login.sessions, anna="seat0")
        await comes(watched, "in_use", "anna at seat0")
        await asyncio.to_thread(login.sessions)
        await comes(watched, "ok", "nobody is using a session")


@pytest.mark.parametrize(
    "changes",
    [
        {"LockedHint": ("b", True)},
        {"IdleHint": ("b", True)},
        {"Active": ("b", False), "State": ("s", "online")},
        {"State": ("s", "closing")},
        {"Class": ("s", "greeter")},
        {"Class": ("s", "manager")},
        {"Class": ("s", "background")},
    ],
)
async def test_a_session_that_nobody_uses_is_no_use(login, wanted, changes):
    await asyncio.to_thread(login.sessions, anna="seat0")
    async with watch(wanted, SessionProbe(wanted)) as watched:
        await comes(watched, "in_use")
        await asyncio.to_thread(login.update, session("anna"), **changes)
        await comes(watched, "ok")


async def test_a_session_that_is_unlocked_is_in_use_again(login, wanted):
    await asyncio.to_thread(login.sessions, anna="seat0")
    await asyncio.to_thread(login.update, session("anna"), LockedHint=("b", True))
    async with watch(wanted, SessionProbe(wanted)) as watched:
        await comes(watched, "ok")
        await asyncio.to_thread(login.update, session("anna"), LockedHint=("b", False))
        await comes(watched, "in_use")


async def test_all_idle_is_idle_whatever_the_sessions_say(login, wanted):
    await asyncio.to_thread(login.sessions, anna="seat0")
    async with watch(wanted, SessionProbe(wanted)) as watched:
        await comes(watched, "in_use")
        await asyncio.to_thread(login.update, LOGIN, IdleHint=("b", True))
        await comes(watched, "ok", "all sessions are idle")
        await asyncio.to_thread(login.update, LOGIN, IdleHint=("b", False))
        await comes(watched, "in_use")


async def test_it_says_who_is_where(login, wanted):
    await asyncio.to_thread(login.sessions, anna="seat0", ben="seat1")
    async with watch(wanted, SessionProbe(wanted)) as watched:
        await asyncio.to_thread(login.update, session("anna"), TTY=("s", "tty2"))
        await asyncio.to_thread(login.update, session("ben"), Remote=("b", True))
        await comes(watched, "in_use", "anna at seat0 tty2, ben from afar")


async def test_a_session_whose_properties_are_rubbish_counts_as_use(login, wanted):
    await asyncio.to_thread(login.sessions, anna="seat0")
    rubbish = {"Class": ("u", 7), "LockedHint": ("s", "yes"), "State": ("b", True)}
    async with watch(wanted, SessionProbe(wanted)) as watched:
        await comes(watched, "in_use", "anna")
        await asyncio.to_thread(login.update, session("anna"), **rubbish, Name=("s", ""))
        await comes(watched, "in_use", "somebody at seat0")


async def test_people_may_use_the_machine_when_the_owner_says_so(login, machine):
    await asyncio.to_thread(login.sessions, anna="seat0")
    wanted = config(machine.root, login.address, 'sessions = "any"')
    async with watch(wanted, SessionProbe(wanted)) as watched:
        await comes(watched, "ok", "people may be using this machine")


def test_without_a_login_service_nobody_is_known_to_be_there(tmp_path):
    signal = SessionProbe(parse("")).look(System(tmp_path, tmp_path))
    assert signal == ("session", True, "ok", "no login service runs here")


def test_a_list_of_sessions_that_is_none_counts_as_empty(tmp_path):
    system = System(tmp_path, tmp_path, lambda path: {"IdleHint": 1, "Sessions": 3})
    assert SessionProbe(parse("")).look(system).observed == "nobody is using a session"


def test_three_people_are_named_at_most():
    used = [{"Name": name, "Class": "user", "State": "active"} for name in "abcd"]
    assert judge({"IdleHint": False}, used, parse("")).observed == "a, b, c"
