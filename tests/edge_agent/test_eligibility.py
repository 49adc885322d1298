"""The verdict over all signals: what work needs, what sending needs, and for how long."""

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.eligibility import Settling, Verdict
from edge_agent.signals.signal import Signal

YES = Signal.yes("power", "on mains")
NO = Signal.no("power", "on_battery", "battery at 80 %")


def test_all_signals_must_say_yes():
    assert Verdict((YES, Signal.yes("load", "idle"))).eligible
    found = Verdict(
        (YES, Signal.no("load", "busy", "a lot"), Signal.no("disk", "disk_low", "full"))
    )
    assert not found.eligible
    assert [s.code for s in found.refusals] == ["busy", "disk_low"]
    assert found.why() == "busy: a lot; disk_low: full"
    assert Verdict((YES,)).why() == "eligible"


def test_sending_needs_consent_a_network_a_budget_and_the_time_of_day():
    assert Verdict((NO, Signal.no("load", "busy", ""))).may_send
    for name in ("consent", "network", "traffic_budget", "clock"):
        assert not Verdict((YES, Signal.no(name, "no", ""))).may_send, name


def test_a_load_that_is_being_measured_is_told():
    assert Verdict((Signal.no("load", "load_unknown", ""),)).measuring
    assert not Verdict((NO,)).measuring


def test_signals_must_hold_before_work_starts():
    settling = Settling(60.0)
    first = settling.judge((YES,), 100.0)
    assert [s.code for s in first.refusals] == ["settling"]
    assert first.settles_in == 60.0
    assert settling.judge((YES,), 159.0).settles_in == 1.0
    assert settling.judge((YES,), 160.0).eligible
    assert settling.judge((YES,), 999.0).eligible


def test_a_signal_that_turns_ends_work_at_once_and_settling_starts_anew():
    settling = Settling(60.0)
    settling.judge((YES,), 0.0)
    assert settling.judge((YES,), 60.0).eligible
    turned = settling.judge((NO,), 61.0)
    assert [s.code for s in turned.refusals] == ["on_battery"]
    assert turned.settles_in == 0.0
    assert settling.judge((YES,), 62.0).settles_in == 60.0
    assert not settling.judge((YES,), 121.9).eligible
    assert settling.judge((YES,), 122.0).eligible


def test_without_settling_one_look_is_enough():
    assert Settling(0.0).judge((YES,), 0.0).eligible


def test_sending_needs_no_settling():
    assert Settling(60.0).judge((YES, Signal.yes("network", "")), 0.0).may_send


@given(
    seconds=st.floats(0, 100),
    looks=st.lists(st.tuples(st.floats(0.01, 50), st.booleans()), min_size=1, max_size=40),
)
def test_work_never_starts_before_all_signals_have_held(seconds, looks):
    settling, now, held = Settling(seconds), 0.0, None
    for wait, yes in looks:
        now += wait
        verdict = settling.judge((YES if yes else NO,), now)
        held = None if not yes else now if held is None else held
        assert verdict.eligible is (held is not None and held + seconds - now <= 0)
        assert verdict.settles_in <= seconds + 1e-9
