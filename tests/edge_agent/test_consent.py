"""Consent: what was agreed, for whom, and a text that says everything that leaves the device."""

import hashlib
import re
import stat
from datetime import UTC, datetime

import pytest

from edge_agent import consent
from edge_agent.config import Config, parse
from edge_agent.consent import given, summary
from edge_agent.errors import StateError
from wire import messages
from wire.update import UpdateHeader

URL = "https://fleet.example:8750"
NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


def agree(folder, url=URL):
    return consent.give(folder, url, "ann", NOW)


# Given or not


def test_who_was_never_asked_has_not_agreed(tmp_path):
    answer = given(tmp_path, URL)
    assert (answer.ok, answer.code) == (False, "no_consent")
    assert "edge-agent consent" in answer.observed


def test_who_agreed_has_agreed(tmp_path):
    agree(tmp_path)
    answer = given(tmp_path, URL)
    assert (answer.ok, answer.code) == (True, "ok")
    assert "ann agreed on 2026-03-04T12:00:00+00:00" in answer.observed


def test_a_slash_at_the_end_makes_no_other_coordinator(tmp_path):
    agree(tmp_path, URL + "/")
    assert given(tmp_path, URL).ok


@pytest.mark.parametrize("url", ["https://other.example:8750", "http://fleet.example:8750"])
def test_another_coordinator_needs_another_consent(tmp_path, url):
    agree(tmp_path)
    answer = given(tmp_path, url)
    assert (answer.ok, answer.code) == (False, "consent_outdated")
    assert URL in answer.observed
    assert url in answer.observed


def test_another_summary_needs_another_consent(tmp_path):
    agree(tmp_path)
    path = tmp_path / consent.CONSENT_FILE
    text = path.read_text()
    older = text.replace(f'"version":{consent.SUMMARY_VERSION}', '"version":0')
    assert older != text
    path.write_text(older)
    answer = given(tmp_path, URL)
    assert (answer.ok, answer.code) == (False, "consent_outdated")


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"yes", b"\xff", b'{"version":1,"url":"' + URL.encode() + b'"}']
)
def test_a_consent_that_cannot_be_read_is_none(tmp_path, data):
    (tmp_path / consent.CONSENT_FILE).write_bytes(data)
    answer = given(tmp_path, URL)
    assert (answer.ok, answer.code) == (False, "no_consent")


def test_a_folder_in_its_place_is_no_consent(tmp_path):
    (tmp_path / consent.CONSENT_FILE).mkdir()
    assert given(tmp_path, URL).code == "no_consent"


def test_who_withdrew_does_not_agree_any_more(tmp_path):
    agree(tmp_path)
    assert consent.withdraw(tmp_path)
    assert given(tmp_path, URL).code == "no_consent"
    assert not consent.withdraw(tmp_path)


def test_the_latest_consent_is_the_one(tmp_path):
    agree(tmp_path, "https://other.example")
    agree(tmp_path)
    assert given(tmp_path, URL).ok
    assert not given(tmp_path, "https://other.example").ok


def test_it_is_its_owner_s_alone(tmp_path):
    agree(tmp_path)
    assert stat.S_IMODE((tmp_path / consent.CONSENT_FILE).stat().st_mode) == 0o600


def test_a_consent_that_cannot_be_kept_or_withdrawn_is_an_error(tmp_path):
    with pytest.raises(StateError, match="cannot be kept"):
        agree(tmp_path / "missing")
    (tmp_path / consent.CONSENT_FILE).mkdir()
    with pytest.raises(StateError, match="cannot be withdrawn"):
        consent.withdraw(tmp_path)


# The summary


def said(url=URL, **keys):
    """Its words, whatever its lines."""
    return " ".join(summary(url, Config(**keys)).split())


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (messages.Enroll, consent.JOINING),
        (messages.Facts, consent.FACTS),
        (messages.CheckIn, consent.CHECK_IN),
        (messages.GiveUp, consent.GIVING_UP),
        (UpdateHeader, consent.UPDATE),
    ],
)
def test_every_field_that_a_device_sends_is_said_in_plain_words(kind, words):
    assert words.keys() == set(kind.__struct_fields__)
    text = said()
    assert not [plain for plain in words.values() if plain not in text]


def test_all_that_is_said_of_an_evaluation_is_said():
    fields = {name: name for name in ("task", "version", "examples", "metrics", "personal")}
    assert fields.keys() == set(messages.Evaluation.__struct_fields__)
    assert not [word for word in fields.values() if word not in consent.CHECK_IN["evaluations"]]


@pytest.mark.parametrize(
    "fact",
    [
        URL,
        "no example leaves this device",
        "the change of the model's numbers",
        "IP address",
        "may find out something about them",
        "edge-agent leave",
        "cannot be taken out of it",
        "Your examples stay as they are",
        "even when the coordinator cannot be reached",
    ],
)
def test_the_summary_says(fact):
    assert fact in said()


def test_it_says_whether_connections_are_encrypted():
    assert "Connections are encrypted" in said()
    assert "NOT ENCRYPTED" in said("http://192.0.2.1:8750")


def test_it_says_when_by_the_configuration():
    assert "at any time of the day; only on mains power" in said()
    assert "from 01:00 to 05:00;" in said(schedule="nightly")
    text = """
        [eligibility]
        power = "any"
        network = "any"
        max_busy = 12.5
        [schedule]
        round_deadline = "1h"
        check_in = "5m"
        windows = [
            { start = "22:00", end = "06:00", days = ["sat", "sun"], zone = "Europe/Berlin" },
            { start = "12:00", end = "13:00" },
        ]
    """
    words = " ".join(summary(URL, parse(text)).split())
    assert "from 22:00 to 06:00 (Europe/Berlin) on sat, sun and from 12:00 to 13:00;" in words
    assert "on mains power or on battery" in words
    assert "at most; on any network, also a metered one" in words
    assert "12.5 %" in words


def test_it_fits_a_terminal():
    long = "https://" + "a" * 60 + ".example:8750"
    assert all(len(line) < 80 or long in line for line in summary(long, Config()).splitlines())


def test_a_text_that_changes_has_a_new_version():
    """What was agreed to is the text: change it, raise SUMMARY_VERSION, then the digest here."""
    digest = hashlib.sha256(summary(URL, Config()).encode()).hexdigest()
    assert (consent.SUMMARY_VERSION, digest[:16]) == (2, "32f6e62cbf08b006")
    assert re.search(r"version 2 of this summary", said())
