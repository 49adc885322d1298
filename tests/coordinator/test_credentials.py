"""Credentials: what a guesser, a log and a shell make of them. Their use is tested over HTTP."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.credentials import hashed, matches, new_id, new_secret, split


def test_a_secret_has_256_bits_that_a_header_and_a_shell_leave_alone():
    assert re.fullmatch(r"[0-9a-f]{64}", new_secret())
    assert len({new_secret() for _ in range(1000)}) == 1000


def test_an_identifier_says_what_it_is_of():
    assert re.fullmatch(r"device-[0-9a-f]{21}", new_id("device"))


def test_identifiers_of_one_time_lie_together_and_never_meet(monkeypatch):
    made = []
    for second in range(3):
        monkeypatch.setattr(time, "time_ns", lambda now=second: (1_800_000_000 + now) * 10**9)
        made.append({new_id("device") for _ in range(300)})
    assert [len(ids) for ids in made] == [300] * 3
    assert max(made[0]) < min(made[1]) <= max(made[1]) < min(made[2])


def test_what_is_stored_does_not_show_the_secret():
    secret = new_secret()
    assert secret not in hashed(secret)
    assert hashed(secret) == hashed(secret) != hashed(new_secret())


def test_the_stored_hash_is_no_credential():
    stored = hashed(new_secret())
    assert not matches(stored, stored)


@given(st.text(), st.text())
def test_only_the_secret_itself_matches(secret, guess):
    assert matches(secret, hashed(secret))
    assert matches(guess, hashed(secret)) == (guess == secret)


@given(st.from_regex(r"[a-z0-9-]{1,63}", fullmatch=True), st.text())
def test_a_credential_is_cut_at_its_first_dot(device, secret):
    assert split(f"{device}.{secret}") == (device, secret)


@pytest.mark.parametrize("device", ["", "Device", "a" * 64, "a b", "é", "a/b", "a\0", "\udcff"])
def test_what_no_identifier_can_be_is_nobodys(device):
    assert split(f"{device}.secret") == ("", "")


def test_a_new_credential_comes_apart_as_it_was_put_together():
    device, secret = new_id("device"), new_secret()
    assert split(f"{device}.{secret}") == (device, secret)


@pytest.mark.parametrize("credential", ["", "device-1", "device-1 secret", "device-1:secret"])
def test_what_has_no_dot_is_nobodys(credential):
    assert split(credential) == ("", "")
