"""Devices that are late, lie or vanish; and codecs with which they keep something."""

import signal
from pathlib import Path

import numpy as np
import pytest

from edge_agent.reporting import Reporting
from edge_agent.state import StateFolder
from fleet.digits import PLAN
from fleet.simulation import SimulationError, data
from fleet.simulation.learning import chance
from fleet.simulation.workshop import Training, Workshop
from fleet.virtual import Behaviour
from tests.fleet.simulation.small import (
    MANIFEST,
    QUICK,
    first_weights,
    fleet,
    played,
    task,
    trained,
)
from wire import checkpoint, update
from wire.digest import digest_of
from wire.messages import Assignment

LATE = Behaviour(training=2.0, late_by=3.0)
SLOW = Behaviour(training=15.0, spread=0.05)
"""Of rounds of ten seconds, in the middle of the next one."""


def test_a_late_update_counts_for_nothing() -> None:
    what = task(4, 3, minimum=1)
    result = played(what, fleet(4, behaviours=[QUICK] * 3 + [LATE]))
    assert [version.reason for version in result.versions[1:]] == ["deadline"] * 3
    assert [sorted(version.losses) for version in result.versions[1:]] == [[0, 1, 2]] * 3
    assert sum(version.late for version in result.versions) >= 1


def test_a_late_update_is_folded_into_the_next_round_by_its_staleness() -> None:
    # Two devices answer in time, the third in the next round, from the model before.
    what = task(3, 2, late="fold", max_staleness=3, staleness_exponent=1.0)
    result = played(what, fleet(3, behaviours=[QUICK, QUICK, SLOW]))
    one, two = result.versions[1:]
    assert (sorted(one.losses), one.reason, one.late) == ([0, 1], "deadline", 0)
    assert sorted(two.losses) == [0, 1, 2]
    start = first_weights()
    model = _moved(start, [(trained(start, d, 1), 1.0) for d in (0, 1)])
    old = trained(start, 2, 1)
    expected = _moved(model, [(trained(model, d, 2), 1.0) for d in (0, 1)] + [(old, 0.5)])
    for name, values in expected.items():
        np.testing.assert_allclose(result.weights[name], values, rtol=1e-5, atol=1e-6)


def _moved(weights, found):
    """By the mean of changes, each times a factor, weighted by examples."""
    examples = sum(t.examples for t, _ in found)
    return {
        name: np.float32(
            w
            + sum(t.examples * factor * t.delta[name].astype("f8") for t, factor in found)
            / examples
        )
        for name, w in weights.items()
    }


def test_rounds_that_do_not_wait_take_updates_of_older_models() -> None:
    what = task(2, 6, late="buffer", max_staleness=4, over_selection=2.0, over_selection_limit=2.0)
    slow = Behaviour(training=6.0, spread=0.1)
    result = played(what, fleet(6, behaviours=[QUICK] * 3 + [slow] * 3))
    assert result.complete
    assert [version.updates for version in result.versions[1:]] == [2] * 6
    assert {device for version in result.versions for device in version.losses} & {3, 4, 5}


def test_a_late_update_may_weigh_next_to_nothing() -> None:
    what = task(3, 2, late="fold", max_staleness=3, staleness_exponent=20.0)
    result = played(what, fleet(3, behaviours=[QUICK, QUICK, SLOW]))
    assert sorted(result.versions[2].losses) == [0, 1, 2]
    start = first_weights()
    model = _moved(start, [(trained(start, d, 1), 1.0) for d in (0, 1)])
    old = trained(start, 2, 1)
    expected = _moved(model, [(trained(model, d, 2), 1.0) for d in (0, 1)] + [(old, 2.0**-20)])
    for name, values in expected.items():
        np.testing.assert_allclose(result.weights[name], values, rtol=1e-5, atol=1e-6)


def test_lies_are_refused() -> None:
    liar = Behaviour(training=2.0, lies=1.0)
    result = played(task(4, 2), fleet(4, behaviours=[QUICK] * 3 + [liar]))
    assert [sorted(version.losses) for version in result.versions[1:]] == [[0, 1, 2]] * 2
    assert result.versions[1].dropped >= 1


def test_a_training_that_diverges_is_given_up() -> None:
    pool, where = fleet(3).pool, fleet(3).shares[2]
    arrays = {name: array.copy() for name, array in pool.arrays.items()}
    arrays["x"][where] *= 1e30
    bad = fleet(3, pool=type(pool)(arrays))
    result = played(task(3, 1), bad)
    assert sorted(result.versions[1].losses) == [0, 1]
    assert result.versions[1].dropped == 1


CODEC = "top:1/10+sign"


def test_devices_keep_what_their_updates_do_not_say(tmp_path) -> None:
    """Error feedback over three rounds of one device, held against the agent's own."""
    result = played(task(1, 3, CODEC), fleet(1))
    weights, state = first_weights(), StateFolder(tmp_path)
    state.create()
    for number in (1, 2, 3):
        found = trained(weights, 0, number)
        work = _assignment(number, weights)
        path = state.update_path(work.id)
        header = update.UpdateHeader(
            assignment=work.id,
            plan=work.plan,
            base=work.model,
            codec=CODEC,
            examples=found.examples,
            steps=found.steps,
            loss=found.loss,
            seconds=1.0,
        )
        rng = np.random.default_rng(work.seed)
        Reporting(work, MANIFEST, path, str(state.residuals)).write(
            header, weights, found.delta, rng
        )
        said = update.read(state.update(work.id), MANIFEST.parameters, CODEC).delta
        state.forget_update(work.id)
        weights = {name: w + said[name] for name, w in weights.items()}
    for name, values in weights.items():
        np.testing.assert_allclose(result.weights[name], values, rtol=1e-5, atol=1e-6)


def _assignment(number: int, weights) -> Assignment:
    return Assignment(
        id=f"digits-{number}",
        task="digits",
        round=number,
        version=number - 1,
        plan=MANIFEST.digest(),
        model=digest_of(checkpoint.write(weights)),
        codec=CODEC,
        deadline=10.0,
        upload_limit=1 << 20,
        seed=chance(3, 0, number),
    )


def test_what_came_too_late_is_said_once_more(tmp_path: Path) -> None:
    """The update after a late one brings the changes of both."""
    own = data.gather(fleet(1), MANIFEST.inputs, None)
    workshop = Workshop(MANIFEST, PLAN, own, tmp_path / "kept", tmp_path)
    weights = first_weights()
    (tmp_path / "model").write_bytes(checkpoint.write(weights))
    said = []
    heard: tuple[tuple[str, str], ...] = ()
    for number in (1, 2):
        work = _assignment(number, weights)
        done = workshop.train(Training(0, work, str(tmp_path / "model"), 1.0, heard))
        said.append(update.read(done.data, MANIFEST.parameters, CODEC))
        heard = ((work.id, "late"),)
    first, second = (trained(weights, 0, number).delta for number in (1, 2))
    both = {name: first[name] + second[name] for name in weights}
    data_of_both = update.write(said[1].header, both, np.random.default_rng(0))
    expected = update.read(data_of_both, MANIFEST.parameters, CODEC).delta
    for name in weights:
        np.testing.assert_allclose(said[1].delta[name], expected[name], rtol=1e-5, atol=1e-7)
        assert not np.allclose(said[0].delta[name], said[1].delta[name])


def test_devices_hear_what_became_of_their_updates_before_they_train_again() -> None:
    behaviours = [QUICK, Behaviour(training=5.0, network=2.0)]  # late now and then
    result = played(task(2, 12, CODEC), fleet(2, behaviours=behaviours))
    first = next(version.number for version in result.versions if version.late)
    assert any(1 in version.losses for version in result.versions[first + 1 :])
    again = played(task(2, 12, CODEC), fleet(2, behaviours=behaviours), workers=1)
    for name, values in result.weights.items():
        np.testing.assert_array_equal(again.weights[name], values)


def test_devices_that_never_reach_the_network_end_it() -> None:
    """Though each of them would try by itself for longer than anyone waits."""
    alone = Behaviour(training=2.0, up=1e-3, down=1e9)
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(20)
    try:
        with pytest.raises(SimulationError, match="no version was made"):
            played(task(2, 3), fleet(2, behaviours=alone))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _too_long(number: int, frame: object) -> None:
    raise AssertionError("it goes on and on")
