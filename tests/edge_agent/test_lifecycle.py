"""The agent's life: what is done in which order, and that it neither forgets nor hammers."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_agent.eligibility import Settling
from edge_agent.errors import Offline, Rejected, StateError, TransportError
from edge_agent.job import Outcome
from edge_agent.lifecycle import (
    FINAL_CODES,
    LONGEST_WAIT,
    MEASURING_SECONDS,
    SHORTEST_WAIT,
    CheckInNow,
    Evaluate,
    GiveBack,
    Life,
    Rest,
    Train,
    Upload,
)
from tests.edge_agent.samples import (
    BUSY,
    ELIGIBLE,
    MEASURING,
    OFFLINE,
    VERDICTS,
    assigned,
    assignment,
    published,
    told_to_wait,
)
from wire.errors import Rule
from wire.messages import CheckInReply

POLL, INTERVAL = 30.0, 300.0
GONE = Offline("nothing answers")
NO = Rejected(403, "forbidden", "no")


@pytest.fixture
def life():
    return Life(poll=POLL, interval=INTERVAL, check_in_at=0.0)


# Precedence


def test_it_checks_in_when_there_is_nothing_else_to_do(life):
    assert life.next(0.0, ELIGIBLE, []) == CheckInNow()


def test_it_rests_until_the_check_in(life):
    life.checked_in(told_to_wait(10.0, 20.0), 0.0, 0.5)
    assert life.next(5.0, ELIGIBLE, []) == Rest(10.0, "round_full")
    assert life.next(15.0, ELIGIBLE, []) == CheckInNow()


def test_it_trains_what_it_was_assigned(life):
    life.checked_in(assigned(), 10.0, 0.5)
    assert life.next(30.0, ELIGIBLE, []) == Train(assignment(), 80.0)


def test_training_comes_before_evaluating(life):
    life.checked_in(assigned(None, published()), 0.0, 0.5)
    assert isinstance(life.next(0.0, ELIGIBLE, []), Train)


def test_evaluating_comes_before_the_check_in(life):
    life.checked_in(told_to_wait(0.0, 0.0, published(4)), 0.0, 0.5)
    assert life.next(50.0, ELIGIBLE, []) == Evaluate(published(4))


def test_a_version_is_evaluated_once(life):
    life.checked_in(told_to_wait(10.0, 10.0, published(4)), 0.0, 0.5)
    life.measured("digits", 4, 1.0, 0.5)
    assert isinstance(life.next(1.0, ELIGIBLE, []), Rest)


def test_an_older_version_is_not_evaluated():
    life = Life(poll=POLL, interval=INTERVAL, check_in_at=0.0, evaluated={"digits": 9})
    life.checked_in(told_to_wait(10.0, 10.0, published(9)), 0.0, 0.5)
    assert isinstance(life.next(1.0, ELIGIBLE, []), Rest)


def test_an_evaluation_is_told_before_the_wait_is_over(life):
    life.checked_in(told_to_wait(9000.0, 9000.0, published(4)), 0.0, 0.5)
    life.measured("digits", 4, 1.0, 0.0)
    assert life.check_in_at == 1.0 + INTERVAL / 2


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_an_evaluation_never_puts_the_check_in_off(life, fraction):
    life.checked_in(told_to_wait(1.0, 1.0, published(4)), 0.0, 0.5)
    life.measured("digits", 4, 0.0, fraction)
    assert life.check_in_at == 1.0


def test_an_update_is_delivered_before_anything_else(life):
    life.checked_in(assigned(None, published()), 0.0, 0.5)
    assert life.next(0.0, ELIGIBLE, ["old", "new"]) == Upload("old")


def test_an_update_is_delivered_though_the_device_may_not_train(life):
    assert life.next(0.0, BUSY, ["a-1"]) == Upload("a-1")


def test_an_update_waits_for_the_network(life):
    rest = life.next(0.0, OFFLINE, ["a-1"])
    assert isinstance(rest, Rest)
    assert rest.seconds == POLL
    assert "offline" in rest.why


@pytest.mark.parametrize("verdict", [BUSY, OFFLINE])
def test_a_device_that_is_not_eligible_does_no_work(life, verdict):
    life.checked_in(assigned(None, published()), 0.0, 0.5)
    rest = life.next(0.0, verdict, [])
    assert isinstance(rest, Rest)
    assert rest.seconds == POLL
    assert verdict.refusals[0].code in rest.why


def test_a_device_that_only_measures_its_load_looks_again_soon(life):
    assert life.next(0.0, MEASURING, []) == Rest(MEASURING_SECONDS, MEASURING.why(), True)


def test_a_device_whose_signals_settle_looks_again_when_they_have(life):
    settling = Settling(45.0)
    settling.judge(ELIGIBLE.signals, 0.0)
    rest = life.next(20.0, settling.judge(ELIGIBLE.signals, 20.0), [])
    assert (rest.seconds, rest.watchful) == (25.0, True)
    assert life.next(45.0, settling.judge(ELIGIBLE.signals, 45.0), []) == CheckInNow()


# Assignments


def test_an_assignment_past_its_deadline_is_given_back_once(life):
    life.checked_in(assigned(), 0.0, 0.5)
    assert life.next(100.0, ELIGIBLE, []) == GiveBack(assignment())
    assert life.assignment is None
    assert isinstance(life.next(100.0, ELIGIBLE, []), Rest)
    assert life.next(100.0 + INTERVAL / 2, ELIGIBLE, []) == CheckInNow()


def test_it_is_dropped_as_well_while_the_device_may_not_work(life):
    life.checked_in(assigned(), 0.0, 0.5)
    assert life.next(100.0, BUSY, []) == GiveBack(assignment())
    assert life.assignment is None


def test_an_assignment_without_time_left_is_not_asked_for_again_at_once(life):
    life.checked_in(assigned(assignment(deadline=0.0)), 0.0, 0.5)
    assert isinstance(life.next(0.0, ELIGIBLE, []), GiveBack)
    rest = life.next(0.0, ELIGIBLE, [])
    assert isinstance(rest, Rest)
    assert rest.seconds >= SHORTEST_WAIT


def test_preempted_work_is_taken_up_again(life):
    life.checked_in(assigned(), 0.0, 0.5)
    life.worked(Outcome.PREEMPTED, 40.0, 0.5)
    assert life.next(40.0, ELIGIBLE, []) == Train(assignment(), 60.0)


def test_done_work_is_not_done_again(life):
    life.checked_in(assigned(), 0.0, 0.5)
    life.worked(Outcome.DONE, 10.0, 0.5)
    assert life.assignment is None


def test_work_that_was_done_just_as_it_was_stopped_is_not_done_again(life):
    life.checked_in(assigned(), 0.0, 0.5)
    life.worked(Outcome.PREEMPTED, 10.0, 0.5)
    assert life.next(10.0, ELIGIBLE, ["a-1"]) == Upload("a-1")
    life.uploaded("a-1", 11.0)
    assert life.next(11.0, ELIGIBLE, []) == CheckInNow()


FAILURES = sorted(set(Outcome) - {Outcome.DONE, Outcome.PREEMPTED, Outcome.NO_EXAMPLES})


def test_a_task_without_examples_is_not_asked_for_and_nothing_else_rests(life):
    life.checked_in(assigned(), 0.0, 0.5)
    life.worked(Outcome.NO_EXAMPLES, 10.0, 0.5)
    assert life.without(10.0) == ("digits",)
    assert life.next(10.0, ELIGIBLE, []) == CheckInNow()
    assert life.failures == (0, 0, 0)


def test_a_task_without_examples_is_asked_for_ever_more_rarely(life):
    now, waits = 0.0, []
    for _ in range(12):
        life.checked_in(assigned(), now, 0.5)
        life.worked(Outcome.NO_EXAMPLES, now, 0.5)
        since = now
        while life.without(now):
            now += 5.0
        waits.append(now - since)
    assert 30.0 <= waits[0] <= 60.0
    assert waits == sorted(waits)
    assert 1800.0 <= waits[-1] <= 3605.0
    life.checked_in(assigned(), now, 0.5)
    life.worked(Outcome.DONE, now, 0.5)  # examples have come
    life.checked_in(assigned(), now, 0.5)
    life.worked(Outcome.NO_EXAMPLES, now, 0.5)
    assert not life.without(now + 60.0)


def test_failures_outlive_a_restart():
    life = Life(poll=POLL, interval=INTERVAL, check_in_at=5.0, failed=3)
    rest = life.next(5.0, ELIGIBLE, [])
    assert isinstance(rest, Rest)
    assert rest.seconds >= 60.0
    assert life.failures == (0, 0, 3)


def test_a_model_is_offered_to_local_programs_again_when_it_is_time():
    life = Life(poll=POLL, interval=INTERVAL, check_in_at=0.0, evaluated={"digits": 4})
    life.checked_in(told_to_wait(900.0, 900.0, published(4)), 0.0, 0.5)
    life.offers["digits"] = 100.0
    assert isinstance(life.next(99.0, ELIGIBLE, []), Rest)
    assert life.next(100.0, ELIGIBLE, []) == Evaluate(published(4))
    life.measured("digits", 4, 101.0, 0.0)
    assert life.check_in_at == 900.0  # its metrics were told already
    assert isinstance(life.next(101.0, ELIGIBLE, []), Rest)


@pytest.mark.parametrize("outcome", FAILURES)
def test_failed_work_is_followed_by_a_rest_that_says_why(life, outcome):
    life.checked_in(assigned(None, published()), 0.0, 0.5)
    life.worked(outcome, 10.0, 0.5)
    rest = life.next(10.0, ELIGIBLE, [])
    assert isinstance(rest, Rest)
    assert outcome in rest.why


def test_the_rest_after_failed_work_grows_and_has_an_end(life):
    waits = []
    for _ in range(20):
        life.worked(Outcome.CRASHED, 0.0, 0.5)
        waits.append(life.check_in_at)
    assert waits == sorted(waits)
    assert waits[1] == 2 * waits[0]
    assert waits[-1] <= 6 * 3600.0
    life.worked(Outcome.DONE, 0.0, 0.5)
    life.worked(Outcome.CRASHED, 0.0, 0.5)
    assert life.check_in_at == waits[0]


# Trouble with the coordinator


def _waits(fail, life: Life, attribute: str, times: int = 12) -> list[float]:
    waits = []
    for _ in range(times):
        fail()
        waits.append(getattr(life, attribute))
    return waits


def test_the_wait_for_a_coordinator_that_is_gone_grows_and_resets(life):
    waits = _waits(lambda: life.not_reached(GONE, 0.0, 1.0), life, "check_in_at")
    assert waits[:3] == [2.0, 4.0, 8.0]
    assert waits[-1] == 600.0
    life.checked_in(told_to_wait(1.0, 1.0), 0.0, 0.5)
    life.not_reached(GONE, 0.0, 1.0)
    assert life.check_in_at == 2.0


def test_a_refusal_for_good_is_asked_about_rarely(life):
    waits = _waits(lambda: life.not_reached(NO, 0.0, 1.0), life, "check_in_at")
    assert waits[0] == 600.0
    assert waits[-1] == 6 * 3600.0


@pytest.mark.parametrize("error", [GONE, StateError("disk full")])
def test_the_wait_grows_when_check_ins_work_and_fetching_does_not(life, error):
    def fail():
        life.checked_in(assigned(), 0.0, 0.5)
        life.not_fetched(error, 0.0, 1.0)

    waits = _waits(fail, life, "check_in_at")
    assert waits[:3] == [2.0, 4.0, 8.0]
    assert life.assignment is None
    life.fetched()
    fail()
    assert life.check_in_at == 2.0


def test_the_wait_to_send_an_update_grows_and_resets(life):
    waits = _waits(lambda: life.not_uploaded(GONE, 0.0, 1.0), life, "upload_at")
    assert waits[:3] == [2.0, 4.0, 8.0]
    assert waits[-1] == 600.0
    life.uploaded("a-1", 0.0)
    life.not_uploaded(GONE, 0.0, 1.0)
    assert life.upload_at == 2.0


def test_an_update_that_waits_says_so(life):
    life.not_uploaded(GONE, 0.0, 1.0)
    rest = life.next(0.0, ELIGIBLE, ["a-1"])
    assert rest == Rest(2.0, "an update waits to be sent: offline: nothing answers")


def test_a_refusal_is_told_by_its_code_and_once(life):
    life.not_reached(NO, 0.0, 1.0)
    assert life.waiting_for == "forbidden: no"


@pytest.mark.parametrize("code", sorted(FINAL_CODES))
def test_an_update_is_dropped_when_the_coordinator_has_the_last_word(life, code):
    assert not life.not_uploaded(Rejected(409, code, ""), 0.0, 0.5)


@pytest.mark.parametrize(
    "error",
    [
        GONE,
        Rejected(404, "http_404", "Not Found"),
        Rejected(401, "unknown_device", ""),
        Rejected(409, "wrong_offset", ""),
        Rejected(500, "internal", ""),
        Rejected(503, "storage", ""),
    ],
    ids=str,
)
def test_an_update_is_kept_after_any_other_failure(life, error):
    assert life.not_uploaded(error, 0.0, 0.5)


def test_every_rule_of_the_wire_is_a_last_word():
    assert {str(rule) for rule in Rule} < FINAL_CODES


# Pacing


def test_a_reply_that_says_nothing_is_not_followed_by_a_check_in_at_once(life):
    life.checked_in(CheckInReply(protocol=1), 0.0, 0.0)
    rest = life.next(0.0, ELIGIBLE, [])
    assert isinstance(rest, Rest)
    assert rest.seconds == INTERVAL / 2


@pytest.mark.parametrize(
    ("after", "before", "wait"),
    [(0.0, 0.0, SHORTEST_WAIT), (366 * 86400.0, 366 * 86400.0, LONGEST_WAIT), (9.0, 1.0, 9.0)],
)
def test_the_wait_is_bounded_whatever_the_coordinator_says(life, after, before, wait):
    life.checked_in(told_to_wait(after, before), 0.0, 1.0)
    assert life.check_in_at == wait


ERRORS = st.sampled_from([GONE, NO, Rejected(500, "internal", ""), Rejected(404, "http_404", "")])
FRACTIONS = st.floats(0.0, 1.0)


class Lives(RuleBasedStateMachine):
    """A life under any course of events. The outbox is the world's, as on a real device."""

    @initialize(poll=st.floats(0.05, 1000.0), interval=st.floats(0.05, 7 * 86400.0))
    def begin(self, poll: float, interval: float) -> None:
        self.life = Life(poll=poll, interval=interval, check_in_at=0.0)
        self.now, self.poll = 0.0, poll
        self.outbox: list[str] = []
        self.trained = self.settled = 0
        self.verdict = ELIGIBLE
        self.asked_at: list[float] = []

    @rule(verdict=st.sampled_from(VERDICTS))
    def change(self, verdict) -> None:
        self.verdict = verdict

    @rule(seconds=st.floats(0.0, 1e5))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(data=st.data())
    def act(self, data: st.DataObject) -> None:
        action = self.life.next(self.now, self.verdict, self.outbox)
        match action:
            case Rest():
                assert 0 < action.seconds <= max(LONGEST_WAIT, self.poll)
                assert action.why
                # All of it goes by, or something comes between.
                self.now += action.seconds * data.draw(st.sampled_from([1.0, 0.3]))
            case Upload():
                assert self.verdict.may_send
                assert action.assignment == self.outbox[0]
                self._upload(data)
            case Train():
                assert self.verdict.eligible
                assert not self.outbox
                assert 0 < action.seconds == self.life.deadline - self.now
                self._train(action, data)
            case Evaluate():
                assert self.verdict.eligible
                assert not self.outbox
                self._evaluate(action, data)
            case CheckInNow():
                assert self.verdict.eligible
                assert not self.outbox
                self._check_in(data)

    def _upload(self, data: st.DataObject) -> None:
        error: TransportError | None = data.draw(
            st.one_of(
                st.none(),
                ERRORS,
                st.sampled_from(sorted(FINAL_CODES)).map(lambda code: Rejected(409, code, "")),
            )
        )
        final = error is None or (isinstance(error, Rejected) and error.code in FINAL_CODES)
        if error is not None:
            kept = self.life.not_uploaded(error, self.now, data.draw(FRACTIONS))
            assert kept is not final
        if final:
            self.life.uploaded(self.outbox.pop(0), self.now)
            self.settled += 1

    def _train(self, action: Train, data: st.DataObject) -> None:
        outcome = data.draw(st.sampled_from(sorted(Outcome)))
        written = outcome is Outcome.DONE or (
            outcome is Outcome.PREEMPTED and data.draw(st.booleans())
        )
        if written:
            self.outbox.append(action.assignment.id)
            self.trained += 1
        self.life.worked(outcome, self.now, data.draw(FRACTIONS))

    def _evaluate(self, action: Evaluate, data: st.DataObject) -> None:
        model = action.published
        if error := data.draw(st.none() | ERRORS):
            self.life.not_fetched(error, self.now, data.draw(FRACTIONS))
        elif data.draw(st.booleans()):
            self.life.measured(model.task, model.version, self.now, data.draw(FRACTIONS))

    def _check_in(self, data: st.DataObject) -> None:
        if self.settled == 0 and self.asked_at:
            assert self.now > self.asked_at[-1]
        self.asked_at.append(self.now)
        if error := data.draw(st.none() | ERRORS):
            self.life.not_reached(error, self.now, data.draw(FRACTIONS))
            return
        waits = st.floats(0.0, 366 * 86400.0)
        models = [published(v) for v in data.draw(st.lists(st.integers(0, 3), max_size=1))]
        work = assignment(f"a-{len(self.asked_at)}", deadline=data.draw(waits))
        reply = data.draw(
            st.sampled_from(
                [
                    CheckInReply(protocol=1),
                    assigned(work, *models),
                    told_to_wait(data.draw(waits), data.draw(waits), *models),
                ]
            )
        )
        self.life.checked_in(reply, self.now, data.draw(FRACTIONS))
        if data.draw(st.booleans()):
            self.life.fetched()
        else:
            self.life.not_fetched(GONE, self.now, data.draw(FRACTIONS))

    @precondition(lambda self: self.outbox)
    @rule()
    def ask_twice(self) -> None:
        """Asking changes nothing."""
        first = self.life.next(self.now, self.verdict, self.outbox)
        assert self.life.next(self.now, self.verdict, self.outbox) == first

    @invariant()
    def no_update_is_abandoned(self) -> None:
        assert len(self.outbox) == self.trained - self.settled


TestLives = Lives.TestCase


# Work that comes to nothing


def test_a_coordinator_that_leaves_no_time_is_not_asked_all_the_time(life):
    for turn in range(5):
        now = turn * INTERVAL
        assert life.next(now, ELIGIBLE, []) == CheckInNow()
        life.checked_in(assigned(assignment(deadline=0.0)), now, 0.5)
        assert isinstance(life.next(now, ELIGIBLE, []), GiveBack)
        rest = life.next(now, ELIGIBLE, [])
        assert isinstance(rest, Rest)
        assert rest.seconds >= INTERVAL / 2


def test_work_that_is_preempted_before_its_first_step_is_tried_ever_more_rarely(life):
    """Loading the examples takes the memory whose lack then ends it, say."""
    life.checked_in(assigned(assignment(deadline=9e9)), 0.0, 0.5)
    now, waits = 0.0, []
    for _ in range(8):
        assert isinstance(life.next(now, ELIGIBLE, []), Train)
        life.worked(Outcome.PREEMPTED, now, 0.5, fruitless=True)
        action = life.next(now, ELIGIBLE, [])
        waits.append(action.seconds if isinstance(action, Rest) else 0.0)
        now += waits[-1]
    assert waits[0] == 0.0  # once is no reason
    assert waits[1] >= 30.0
    assert waits == sorted(waits)
    life.worked(Outcome.PREEMPTED, now, 0.5)  # a step was made
    life.worked(Outcome.PREEMPTED, now, 0.5, fruitless=True)
    life.work_at = 0.0
    assert isinstance(life.next(now, ELIGIBLE, []), Train)


def test_versions_that_cannot_be_evaluated_are_not_tried_one_after_the_other(life):
    life.checked_in(told_to_wait(0.0, 0.0, published(4), published(4, "other")), 0.0, 0.5)
    assert isinstance(life.next(1.0, ELIGIBLE, []), Evaluate)
    life.measured("digits", 4, 1.0, 0.5)
    life.evaluation_failed(Outcome.BAD_PLAN, 1.0, 0.5)
    rest = life.next(1.0, ELIGIBLE, [])
    assert isinstance(rest, Rest)
    assert rest.seconds >= 30.0
    assert rest.why == "rests after a failure: bad_plan"


def test_an_evaluation_that_is_preempted_again_and_again_is_tried_ever_more_rarely(life):
    life.checked_in(told_to_wait(9e5, 9e5, published(4)), 0.0, 0.5)
    now, waits = 0.0, []
    for _ in range(6):
        assert isinstance(life.next(now, ELIGIBLE, []), Evaluate)
        life.evaluation_preempted(now, 0.5)
        waits.append(max(0.0, life.work_at - now))
        now += waits[-1]
    assert waits[0] == 0.0
    assert waits[1] >= 30.0
    assert waits == sorted(waits)


def test_an_evaluation_that_is_preempted_twice_goes_without_tuning_the_next_time(life):
    """Or a device that is never left alone for long would get no model, and have no say."""
    life.checked_in(told_to_wait(9e5, 9e5, published(4)), 0.0, 0.5)
    tuned, now = [], 0.0
    for _ in range(3):
        action = life.next(now, ELIGIBLE, [])
        assert isinstance(action, Evaluate)
        tuned.append(action.tune)
        life.evaluation_preempted(now, 0.5)
        now = max(now, life.work_at)
    assert tuned == [True, True, False]
    life.measured("digits", 4, now, 0.5)
    life.checked_in(told_to_wait(9e5, 9e5, published(5)), now, 0.5)
    assert life.next(now, ELIGIBLE, []) == Evaluate(published(5), tune=True)


def test_another_assignment_does_not_pay_for_the_one_before(life):
    life.checked_in(assigned(assignment(deadline=1000.0)), 0.0, 0.5)
    for _ in range(5):
        life.worked(Outcome.PREEMPTED, 0.0, 0.5, fruitless=True)
    assert isinstance(life.next(10.0, ELIGIBLE, []), Rest)
    assert isinstance(life.next(1000.0, ELIGIBLE, []), GiveBack)
    life.checked_in(assigned(assignment("a-2")), 1200.0, 0.5)
    assert isinstance(life.next(1200.0, ELIGIBLE, []), Train)
