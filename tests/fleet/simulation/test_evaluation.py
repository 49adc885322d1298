"""Versions evaluated on devices and on a test set, and models trained without rounds."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from coordinator.spread import spread
from edge_agent import session
from edge_agent.evaluation import evaluate
from edge_agent.session import Diverged
from fleet import simulation
from fleet.digits import PLAN
from fleet.simulation import train_alone, train_each
from fleet.simulation.learning import chance
from tests.fleet.simulation.small import (
    MANIFEST,
    digits,
    first_weights,
    fleet,
    played,
    shares,
    task,
    trained,
)
from wire.checkpoint import Weights

HELD_OUT = [np.arange(1000, 1010), np.empty(0, np.int64), np.arange(1100, 1300)]


def measured(weights: Weights, rows: np.ndarray) -> dict[str, float]:
    return evaluate(MANIFEST, PLAN, weights, digits()[0].where(rows), threads=1)


def test_devices_evaluate_on_what_they_hold_out() -> None:
    result = played(task(2, 3), fleet(3, held_out=HELD_OUT), evaluate_every=2)
    assert [bool(version.devices) for version in result.versions] == [True, False, True, True]
    assert all(version.test == {} for version in result.versions)
    for weights, version in ((first_weights(), 0), (result.weights, 3)):
        found = result.versions[version].devices
        assert [*found] == ["loss", "accuracy"]
        each = [(measured(weights, rows), len(rows)) for rows in HELD_OUT if rows.size]
        expected = spread([(m["accuracy"], size) for m, size in each], "higher")
        assert found["accuracy"].mean == pytest.approx(expected.mean)
        assert found["accuracy"].worst_decile == pytest.approx(expected.worst_decile)
        assert (found["loss"].devices, found["loss"].examples) == (2, 210)
        loss = spread([(m["loss"], size) for m, size in each], "lower")
        assert found["loss"].mean == pytest.approx(loss.mean, rel=1e-5)


@pytest.mark.parametrize(
    ("table", "weights"), [("max_examples = 50", (10, 50)), ('by = "uniform"', (1, 1))]
)
def test_devices_weigh_as_much_as_the_coordinator_counts_them_for(
    table: str, weights: tuple[int, int]
) -> None:
    capped = task(2, 1, text=f'\n[aggregation]\nkind = "fedavg"\n{table}\n')
    first = played(capped, fleet(3, held_out=HELD_OUT)).versions[0].devices["accuracy"]
    each = [measured(first_weights(), rows)["accuracy"] for rows in HELD_OUT if rows.size]
    assert first.examples == sum(weights)
    assert first.mean == pytest.approx(np.average(each, weights=weights))


def test_no_device_evaluates_where_none_is_to() -> None:
    result = played(task(2, 1), fleet(3, held_out=HELD_OUT), evaluate_every=0)
    assert [version.devices for version in result.versions] == [{}, {}]


def test_a_test_set_in_parts_is_the_whole() -> None:
    pool, _ = digits()
    big = pool.where(np.tile(np.arange(len(pool)), 3))  # more than one piece of work
    result = played(task(2, 1), fleet(2), test=big)
    for weights, version in zip((first_weights(), result.weights), result.versions, strict=True):
        expected = evaluate(MANIFEST, PLAN, weights, pool, threads=1)
        assert version.test == pytest.approx(expected, rel=1e-5)


def test_watched_devices_are_measured_before_and_after_they_train() -> None:
    result = played(task(2, 2), fleet(2), watched=[1])
    first, second = result.versions[1:]
    assert [[*version.watched] for version in result.versions] == [[], [1], [1]]
    own = shares(2)[1]
    learnt = trained(first_weights(), 1, 1)
    after = {name: first_weights()[name] + change for name, change in learnt.delta.items()}
    assert first.watched[1].before == pytest.approx(measured(first_weights(), own), rel=1e-5)
    assert first.watched[1].after == pytest.approx(measured(after, own), rel=1e-5)
    assert second.watched[1].before["loss"] < first.watched[1].before["loss"]
    plain = played(task(2, 2), fleet(2))
    assert all(np.array_equal(result.weights[name], plain.weights[name]) for name in plain.weights)


@pytest.mark.parametrize("number", [-1, 2])
def test_only_a_device_that_there_is_can_be_watched(number: int) -> None:
    with pytest.raises(ValueError, match=f"watched: there is no device {number}, only 0 to 1"):
        played(task(2, 1), fleet(2), watched=[1, number])


def test_rows_are_flat() -> None:
    result = played(task(2, 1), fleet(3, held_out=HELD_OUT), test=digits()[1])
    first, second = result.to_rows()
    assert first["seed"] == 3
    assert (first["version"], second["version"]) == (0, 1)
    assert second["test.accuracy"] == result.versions[1].test["accuracy"]
    assert second["devices.loss.worst_decile"] == result.versions[1].devices["loss"].worst_decile
    assert second["loss"] == pytest.approx(sum(result.versions[1].losses.values()) / 2)
    assert all(isinstance(cell, int | float | str) for cell in second.values())


def test_one_that_trains_alone() -> None:
    own, (_, test) = digits()[0].where(np.arange(50)), digits()
    found = train_alone(task(1, 1), PLAN, own, epochs=3, seed=5, test=test)
    trainer = session.Trainer(MANIFEST, PLAN, first_weights(), threads=1)
    manifest = msgspec.structs.replace(MANIFEST, epochs=3)
    session.train(trainer, manifest, own, np.random.default_rng(chance(5, 0, 0)), lambda: False)
    expected = evaluate(MANIFEST, PLAN, trainer.weights(), test, threads=1)
    assert len(found) == 4
    assert found[-1] == pytest.approx(expected, rel=1e-5)
    untrained = evaluate(MANIFEST, PLAN, first_weights(), test, threads=1)
    assert found[0] == pytest.approx(untrained, rel=1e-5)
    assert found[3]["loss"] < found[1]["loss"] < found[0]["loss"]


def test_one_goes_on_where_another_left_off() -> None:
    own = digits()[0].where(np.arange(50))
    weights = played(task(2, 1), fleet(2)).weights
    found = train_alone(task(1, 1), PLAN, own, epochs=1, seed=5, weights=weights)
    expected = evaluate(MANIFEST, PLAN, weights, own, threads=1)
    assert found[0] == pytest.approx(expected, rel=1e-5)


def test_a_test_set_without_examples_is_refused() -> None:
    own, none = digits()[0].where(np.arange(50)), digits()[1].where(np.arange(0))
    with pytest.raises(ValueError, match="test: no examples"):
        train_alone(task(1, 1), PLAN, own, epochs=1, seed=5, test=none)
    with pytest.raises(ValueError, match="test: no examples"):
        played(task(2, 1), fleet(2), test=none)


def test_each_device_alone_on_its_own_share() -> None:
    test = digits()[1]
    each = train_each(task(1, 1), PLAN, fleet(3), epochs=2, seed=5, test=test, workers=1)
    here = train_each(task(1, 1), PLAN, fleet(3), epochs=2, seed=5, test=test, workers=0)
    assert each == here
    assert [len(found) for found in each] == [3, 3, 3]
    first = digits()[0].where(shares(1)[0])
    assert each[0] == train_alone(task(1, 1), PLAN, first, epochs=2, seed=5, test=test)


def test_training_alone_that_diverges_says_so() -> None:
    own = digits()[0].where(np.arange(50))
    own.arrays["x"] *= 1e30
    with pytest.raises(Diverged):
        train_alone(task(1, 1), PLAN, own, epochs=1, seed=5)


def test_the_program_of_the_guide_runs(capsys: pytest.CaptureFixture[str]) -> None:
    guide = (Path(__file__).parents[3] / "docs" / "simulate.md").read_text()
    program = guide.partition("## In Python")[2].partition("```python\n")[2].partition("```")[0]
    exec(compile(program, "<guide>", "exec"), {})
    last = capsys.readouterr().out.splitlines()[-1].split()
    assert float(last[1]) >= 0.9 > float(last[2]) > 0


def test_the_example_of_the_documentation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulation.__doc__ is not None
    block = simulation.__doc__.split("\n\n    ", 1)[1].split("\n\nDevices train", 1)[0]
    lines = ["    " + line if n == 0 else line for n, line in enumerate(block.splitlines())]
    exec(compile("\n".join(line[4:] for line in lines), "<example>", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) > 2
    assert float(printed[-1].split()[1]) >= 0.9
