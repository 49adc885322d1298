"""Signals that come from the owner: consent, windows, budgets, examples."""

from datetime import UTC, datetime

from edge_agent.budget import Spent
from edge_agent.config import parse
from edge_agent.signals import owner
from edge_agent.signals.signal import Signal

AGREED = Signal.yes("consent", "owner agreed")
NOTHING = Spent()
NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
NIGHTLY = """
    [schedule]
    round_deadline = "1h"
    check_in = "5m"
    windows = [{start = "01:00", end = "05:00", zone = "UTC"}]
"""


def seen(text, now=NOON, spent=NOTHING, agreed=AGREED):
    """The signals by name."""
    found = owner.signals(parse(text), agreed, spent, now)
    return {signal.name: signal for signal in found}


def test_outside_its_windows_it_waits_and_says_until_when():
    assert seen(NIGHTLY)["window"] == Signal.no(
        "window", "window_closed", "the next window opens in 13 h"
    )


def test_inside_a_window_it_may_work():
    for hour, minute in ((1, 0), (4, 59)):
        assert seen(NIGHTLY, NOON.replace(hour=hour, minute=minute))["window"].ok
    assert seen(NIGHTLY, NOON.replace(hour=5))["window"].code == "window_closed"


def test_without_windows_any_time_will_do():
    assert seen("")["window"].ok


def test_without_a_folder_of_examples_there_is_nothing_to_do():
    assert seen("")["data"].code == "no_data"
    assert seen("data.folder = '/data'")["data"] == Signal.yes("data", "examples in /data")
    both = seen("data = {folder = '/data', tasks = {digits = '/digits'}}")["data"]
    assert both.observed == "examples in /data, /digits"
    assert seen("data.tasks = {digits = '/digits'}")["data"].ok


def test_the_budget_is_that_of_the_day():
    spent = Spent(day="2026-03-04", seen="2026-03-04", training=601.0, traffic=2000)
    text = 'budget = {training = "10m", traffic = "1 kB"}'
    today = seen(text, spent=spent)
    assert (today["training_budget"].code, today["traffic_budget"].code) == (
        "minutes_spent",
        "bytes_spent",
    )
    tomorrow = seen(text, NOON.replace(day=5), spent)
    assert tomorrow["training_budget"].ok
    assert tomorrow["traffic_budget"].ok


def test_consent_is_passed_on_as_it_is():
    no = Signal.no("consent", "no_consent", "the owner has not agreed")
    assert seen("", agreed=no)["consent"] is no


def test_its_codes_are_those_that_are_documented():
    found = seen("", agreed=AGREED)
    assert found.keys() == owner.CODES.keys()
