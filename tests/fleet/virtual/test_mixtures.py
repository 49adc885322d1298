"""Any mixture of behaviours under any policy: the referee has nothing to say."""

import math
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.round import Late, Phase, RoundPolicy
from fleet.virtual import Behaviour
from tests.fleet.virtual.play import EVERY, played, task

BEHAVIOURS = st.one_of(
    st.sampled_from(list(EVERY)),
    st.builds(
        Behaviour,
        training=st.floats(0.1, 500),
        spread=st.floats(0, 2),
        network=st.floats(0.001, 30),
        vanishes=st.floats(0, 1),
        away=st.floats(1, 1000) | st.just(math.inf),
        up=st.floats(10, 1000),
        down=st.just(0.0) | st.floats(1, 200),
        gives_up=st.floats(0, 1),
        late_by=st.just(0.0) | st.floats(0.001, 500),
        repeats=st.integers(0, 3),
        lies=st.floats(0, 1),
        drift=st.floats(0, 0.9),
        offset=st.floats(0, 1e9),
    ),
)


@st.composite
def policies(draw):
    goal, late = draw(st.integers(1, 8)), draw(st.sampled_from(Late))
    staleness = 0 if late is Late.REFUSE else draw(st.integers(1, 4))
    return RoundPolicy(goal, draw(st.integers(1, goal)), draw(st.floats(1, 1000)), late, staleness)


TASKS = st.builds(
    task,
    policy=policies(),
    rounds=st.just(4),
    over_selection=st.floats(1, 3),
    staleness_exponent=st.floats(0, 2),
    closing=st.just(0.0) | st.floats(0.001, 100),
    check_in=st.floats(0.5, 300),
)
DEVICES = st.dictionaries(BEHAVIOURS, st.integers(1, 8), min_size=1, max_size=4)


@given(one=TASKS, devices=DEVICES, seed=st.integers(0, 1 << 32))
def test_any_mixture_keeps_the_rules(one, devices, seed):
    record = played(devices, one, seed=seed, limit=100_000)
    for r in record.rounds:
        assert r.ended - r.started <= one.policy.deadline + 1e-6
        assert len(r.counted) <= one.policy.goal
        assert (r.phase is Phase.CLOSED) == (len(r.counted) >= one.policy.minimum)


@settings(max_examples=20)
@given(
    first=TASKS, second=TASKS, devices=DEVICES, gated=st.booleans(), seed=st.integers(0, 1 << 32)
)
def test_any_two_tasks_keep_the_rules(first, second, devices, gated, seed):
    tasks = (first, replace(second, name="second"))
    played(devices, *tasks, seed=seed, gated=gated, limit=50_000)
