"""Who trains on which engines, and what the naive guess is worth."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from examples.turbofan import cmapss
from examples.turbofan.cmapss import DataError, Flights
from examples.turbofan.split import naive, split

REAL = Path(
    os.environ.get("LAMPLIGHTER_CMAPSS") or Path(__file__).parents[4] / "shared" / "data" / "cmapss"
)


def test_nodes_have_four_whole_engines_each_and_a_fifth_tests(flights: Flights):
    found = split(flights, 3)
    parts = [*found.nodes, found.tested]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(flights.cycle)))
    held = [set(flights.engine[rows].tolist()) for rows in parts]
    assert [len(engines) for engines in held] == [4, 4, 4, 4, 4]
    assert len(set.union(*held)) == 20
    assert len(found.taking_part) == 3
    assert len(found.training) + len(found.test) == len(flights.cycle)


def test_a_seed_is_a_split(flights: Flights):
    assert np.array_equal(split(flights, 3).tested, split(flights, 3).tested)
    assert not np.array_equal(split(flights, 3).tested, split(flights, 4).tested)


def test_only_engines_that_are_trained_on_say_what_is_standard(flights: Flights):
    found = split(flights, 3)
    for name, values in found.training.arrays.items():
        assert values.dtype == np.float32
        assert values.mean(axis=0) == pytest.approx(0, abs=1e-5), name
        assert values.std(axis=0) == pytest.approx(1, abs=1e-5), name
    wild = flights.features.copy()
    wild[found.tested] *= 1000
    other = split(replace(flights, features=wild), 3)
    assert np.array_equal(other.training.arrays["x"], found.training.arrays["x"])


def test_a_unit_of_the_target_is_so_many_cycles(flights: Flights):
    found = split(flights, 3)
    target = found.pool.arrays["target"][:, 0].astype(float)
    assert np.ptp(target) * found.cycles == pytest.approx(np.ptp(flights.left), rel=1e-5)


def test_a_feature_that_never_varies_is_nought(flights: Flights):
    still = flights.features.copy()
    still[:, 5] = 100.0
    found = split(replace(flights, features=still), 3)
    assert (found.pool.arrays["x"][:, 5] == 0).all()


def first(flights: Flights, engines: int) -> Flights:
    """So many of the engines."""
    few = flights.engine < engines
    return Flights(*(getattr(flights, n)[few] for n in ("features", "engine", "cycle", "left")))


def test_too_few_engines_are_an_error(flights: Flights):
    assert len(split(first(flights, 9), 1).nodes) == 2
    with pytest.raises(DataError, match="8 engines: two nodes of 4, and a test, take 9"):
        split(first(flights, 8), 1)


def test_the_naive_guess_is_a_life_less_the_cycle():
    flights = Flights(
        features=np.zeros((3, 16)),
        engine=np.array([0, 0, 0]),
        cycle=np.array([1.0, 2.0, 3.0]),
        left=np.array([2.0, 1.0, 0.0]),
    )
    everything = np.arange(3)
    assert naive(flights, everything, life=3) == 0
    assert naive(flights, everything, life=1) == 2  # guesses 0, -1, -2
    assert naive(flights, everything, life=1, clipped=True) == pytest.approx(np.sqrt(5 / 3))


@pytest.mark.skipif(not REAL.is_dir(), reason=f"NASA's files are not in {REAL}")
def test_on_nasas_files_the_naive_are_as_far_off_as_the_reference():
    flights = cmapss.load(REAL)
    assert (flights.engines, len(flights.cycle)) == (400, 75_043)
    found = [naive(flights, split(flights, seed).tested) for seed in range(5)]
    assert (round(min(found), 1), round(max(found), 1)) == (92.0, 109.2)
