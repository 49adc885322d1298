"""What a simulation learns is what its devices' updates say: held against sums by hand."""

import msgspec
import numpy as np
import pytest

from fleet.simulation import SimulationError
from fleet.virtual import SILENT, Behaviour
from tests.fleet.simulation.small import (
    EACH,
    MANIFEST,
    QUICK,
    digits,
    first_weights,
    fleet,
    mean_change,
    played,
    task,
    trained,
)
from wire import checkpoint

DEVICES = 4


def close_to(found: dict, expected: dict) -> None:
    assert [*found] == [*expected]
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-7)


def test_a_round_is_fedavg_by_hand() -> None:
    result = played(task(DEVICES, 1), fleet(DEVICES))
    weights = first_weights()
    change = mean_change(weights, DEVICES, 1)
    close_to(result.weights, {name: w + change[name] for name, w in weights.items()})
    _, version = result.versions
    assert version.losses == {d: trained(weights, d, 1).loss for d in range(DEVICES)}
    assert (version.number, version.round, version.reason) == (1, 1, "goal")
    assert (version.updates, version.asked, version.late, version.dropped) == (
        DEVICES,
        DEVICES,
        0,
        0,
    )
    assert result.complete


def test_the_next_round_starts_from_the_new_model_and_draws_anew() -> None:
    result = played(task(DEVICES, 2), fleet(DEVICES))
    weights = first_weights()
    for number in (1, 2):
        change = mean_change(weights, DEVICES, number)
        weights = {name: (w + change[name]).astype(np.float32) for name, w in weights.items()}
    close_to(result.weights, weights)


def test_the_servers_optimiser_keeps_its_state() -> None:
    text = "[aggregation]\nkind = 'fedavgm'\nmomentum = 0.5\nlearning_rate = 0.8\n"
    result = played(task(DEVICES, 2, text=text), fleet(DEVICES))
    weights = first_weights()
    speed = {name: np.zeros(w.shape) for name, w in weights.items()}
    for number in (1, 2):
        change = mean_change(weights, DEVICES, number)
        speed = {name: 0.5 * v + change[name] for name, v in speed.items()}
        weights = {n: (w + 0.8 * speed[n]).astype(np.float32) for n, w in weights.items()}
    close_to(result.weights, weights)


def test_a_strategy_that_looks_at_each_update() -> None:
    result = played(task(3, 1, text="[aggregation]\nkind = 'median'\n"), fleet(3))
    weights = first_weights()
    found = [trained(weights, device, 1).delta for device in range(3)]
    expected = {
        name: w + np.median(np.stack([delta[name] for delta in found]), axis=0)
        for name, w in weights.items()
    }
    close_to(result.weights, expected)


def test_bytes_are_those_of_updates_models_and_plans() -> None:
    result = played(task(DEVICES, 2), fleet(DEVICES))
    files = sum(file.bytes for file in MANIFEST.files.values()) + len(MANIFEST.to_bytes())
    model = len(checkpoint.write(first_weights()))
    assert [v.download for v in result.versions] == [
        0,
        DEVICES * (files + model),
        DEVICES * (files + 2 * model),
    ]
    first, second = result.versions[1].upload, result.versions[2].upload
    plain = DEVICES * 4 * MANIFEST.weights
    assert 0.5 * plain < first < 1.1 * plain  # pixels that are dark everywhere cost nothing
    assert 0.5 * plain < second - first < 1.1 * plain
    coarse = played(task(DEVICES, 1, "uniform:8"), fleet(DEVICES)).versions[1].upload
    assert 0.1 * plain < coarse < 0.5 * first


def test_until_a_version_will_do() -> None:
    seen = []
    result = played(
        task(DEVICES, 50),
        fleet(DEVICES),
        test=digits()[1],
        until=lambda version: version.test["accuracy"] > 0.5,
        on_version=seen.append,
    )
    found = [version.test["accuracy"] for version in result.versions]
    assert found[-1] > 0.5 >= max(found[:-1])
    assert 2 < len(found) < 50
    assert result.versions == tuple(seen)
    assert result.complete
    assert result.seconds == result.versions[-1].seconds
    ahead = played(task(DEVICES, len(found) - 1), fleet(DEVICES))
    close_to(result.weights, ahead.weights)


def test_a_device_without_examples_takes_no_part() -> None:
    empty = [np.arange(EACH), np.empty(0, np.int64), np.arange(40, 60)]
    result = played(task(2, 2), fleet(3, shares=empty))
    assert [sorted(version.losses) for version in result.versions] == [[], [0, 2], [0, 2]]


def test_a_fleet_that_makes_no_version_says_why() -> None:
    with pytest.raises(SimulationError, match=r"train well within the deadline of 10 s"):
        played(task(2, 1), fleet(2, behaviours=Behaviour(training=600.0)))
    with pytest.raises(SimulationError, match="are there enough devices"):
        played(task(2, 1), fleet(2, behaviours=Behaviour(vanishes=1.0)))


def test_a_fleet_that_dies_out_leaves_what_it_made() -> None:
    dying = Behaviour(training=2.0, vanishes=0.3)  # for good
    result = played(task(2, 50), fleet(6, behaviours=dying))
    assert not result.complete
    assert 1 < len(result.versions) < 51


def test_what_does_not_fit_is_refused() -> None:
    other = task(2, 1)
    training = msgspec.structs.replace(other.training, batch=7)
    with pytest.raises(SimulationError, match=r"training.batch is 7 in the task, 10 in the plan"):
        played(msgspec.structs.replace(other, training=training), fleet(2))
    with pytest.raises(SimulationError, match="without end"):
        played(task(2, 0), fleet(2))


def test_rounds_go_on_without_the_silent() -> None:
    behaviours = [QUICK] * 5 + [SILENT] * 5
    result = played(
        task(4, 3, over_selection=2.0, over_selection_limit=3.0), fleet(10, behaviours=behaviours)
    )
    assert result.complete
    counted = {device for version in result.versions for device in version.losses}
    assert counted <= set(range(5))
    assert sum(version.dropped for version in result.versions) > 0
