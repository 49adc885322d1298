"""What a device tells of the versions that it measured."""

import pytest

from edge_agent.job import Outcome, Report
from edge_agent.ledger import Ledger
from edge_agent.state import History, StateFolder
from edge_agent.traffic import Traffic
from schedules.clock import SystemClock

LOSS, PERSONAL = {"loss": 0.5}, {"loss": 0.25}


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(History(), StateFolder(tmp_path), SystemClock(), Traffic)


def report(**changes: object) -> Report:
    fields = {"outcome": Outcome.DONE, "held_out": 8, "metrics": LOSS} | changes
    return Report(**fields)  # type: ignore[arg-type]


def said(ledger: Ledger) -> list[tuple[int, dict[str, float]]]:
    return [(e.version, e.personal) for e in ledger.history.evaluations]


def test_a_version_is_told_once(ledger):
    assert ledger.measured("digits", 3, report())
    assert not ledger.measured("digits", 3, report())
    assert not ledger.measured("digits", 2, report(personal=PERSONAL))
    assert said(ledger) == [(3, {})]


def test_its_personal_version_is_told_with_it(ledger):
    assert ledger.measured("digits", 3, report(personal=PERSONAL))
    assert said(ledger) == [(3, PERSONAL)]


def test_one_that_was_made_later_takes_the_place_of_what_was_to_be_told(ledger):
    ledger.measured("digits", 3, report())
    ledger.measured("other", 3, report())
    assert ledger.measured("digits", 3, report(personal=PERSONAL))
    assert [e.task for e in ledger.history.evaluations] == ["other", "digits"]
    assert said(ledger) == [(3, {}), (3, PERSONAL)]


def test_one_that_was_made_later_is_told_again_once_the_first_was_told(ledger):
    ledger.measured("digits", 3, report())
    ledger.history.evaluations = []
    assert ledger.measured("digits", 3, report(personal=PERSONAL))
    assert said(ledger) == [(3, PERSONAL)]


def test_what_was_not_measured_is_not_told(ledger):
    assert not ledger.measured("digits", 3, report(metrics=None))
    assert not ledger.measured("digits", 3, report(held_out=0))
    assert said(ledger) == []
