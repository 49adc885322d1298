"""How learning rates change: by hand, and as PyTorch's schedulers have it where they have it (see
`tests.coordinator.compiler.test_optimizers`)."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire import samples
from wire.errors import WireError
from wire.plan import parse_manifest
from wire.rates import Constant, Cosine, Exponential, Linear, RateSchedule, Step, rate

SCHEDULES: dict[str, RateSchedule] = {
    "constant": Constant(warmup=4),
    "step": Step(every=3, factor=0.5, floor=0.2),
    "exponential": Exponential(factor=0.5, warmup=1, floor=0.1),
    "cosine": Cosine(length=8, warmup=2, floor=0.25),
    "linear": Linear(length=5),
}
EXPECTED = {
    "constant": [0.2, 0.4, 0.6, 0.8, 1, 1, 1],
    "step": [1, 1, 1, 0.5, 0.5, 0.5, 0.25],
    "exponential": [0.5, 1, 0.5, 0.25, 0.125, 0.1, 0.1],
    "cosine": [1 / 3, 2 / 3, 1, 0.94976, 0.8125, 0.625, 0.4375],
    "linear": [1, 0.8, 0.6, 0.4, 0.2, 0, 0],
}


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("over", ["rounds", "steps"])
def test_rates_by_hand(kind: str, over: str) -> None:
    schedule = msgspec.structs.replace(SCHEDULES[kind], over=over)
    places = [(n, 0) if over == "rounds" else (0, n) for n in range(7)]
    found = [rate(schedule, 2.0, version, step, 100) for version, step in places]
    assert found == pytest.approx([2.0 * part for part in EXPECTED[kind]], rel=1e-4)


def test_a_schedule_over_steps_ends_with_the_round_unless_it_says_when() -> None:
    schedule = Linear(over="steps", floor=0.5)
    assert rate(schedule, 1.0, 9, 5, 10) == 0.75
    assert rate(schedule, 1.0, 9, 5, 5) == 0.5
    assert rate(Linear(over="steps", length=5), 1.0, 9, 5, 10) == 0


@given(
    schedule=st.one_of(
        st.builds(
            Cosine,
            warmup=st.integers(0, 20),
            length=st.none() | st.integers(1, 20),
            floor=st.floats(0, 1),
            over=st.sampled_from(["rounds", "steps"]),
        ),
        st.builds(Exponential, factor=st.floats(0, 1, exclude_min=True), floor=st.floats(0, 1)),
        st.builds(Step, every=st.integers(1, 9), factor=st.floats(0, 1, exclude_min=True)),
    ),
    version=st.integers(0, 10**9),
    steps=st.integers(1, 10**6),
)
def test_a_rate_is_between_nothing_and_the_whole(
    schedule: RateSchedule, version: int, steps: int
) -> None:
    for step in (0, steps // 2, steps - 1):
        assert 0 <= rate(schedule, 0.3, version, step, steps) <= 0.3


def test_a_manifest_carries_its_schedule_and_none_is_not_spoken_of() -> None:
    assert b"schedule" not in samples.manifest().to_bytes()
    for schedule in SCHEDULES.values():
        made = samples.manifest(schedule=schedule)
        assert parse_manifest(made.to_bytes()) == made
        assert made.rate(3, 0, 1) == rate(schedule, made.learning_rate, 3, 0, 1)
    assert samples.manifest().rate(3, 0, 1) == samples.manifest().learning_rate


def test_a_manifest_with_a_schedule_that_nobody_knows_is_refused() -> None:
    data = samples.manifest(schedule=Constant()).to_bytes()
    with pytest.raises(WireError, match="schedule"):
        parse_manifest(data.replace(b'"constant"', b'"wave"'))
