"""What is no fleet is refused, with what is wrong."""

from typing import Any

import numpy as np
import pytest

from edge_agent.examples import Examples
from fleet.simulation import Devices
from fleet.simulation.devices import fitting
from fleet.virtual import HONEST, SILENT
from wire.plan import Input

POOL = Examples({"x": np.zeros((10, 2), np.float32), "label": np.arange(10)})
SHARES = [np.arange(4), np.arange(4, 10)]
INPUTS = (
    Input(name="x", dtype="float32", shape=(2,)),
    Input(name="label", dtype="int64", shape=(), classes=10),
)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"shares": []}, "at least one device has examples"),
        ({"shares": [np.empty(0, np.int64)]}, "at least one device has examples"),
        ({"held_out": [np.arange(2)]}, "held_out: of 1 devices; shares: of 2"),
        ({"behaviours": [HONEST]}, "behaviours: of 1 devices; shares: of 2"),
        ({"shares": [np.arange(11)]}, r"shares\[0\]: rows from 0 to 9 are there"),
        ({"held_out": [np.arange(2), np.array([-1])]}, r"held_out\[1\]: rows from 0 to 9"),
        ({"shares": [np.array([0.5])]}, r"shares\[0\]: one row of whole numbers"),
        ({"pool": Examples({"x": np.zeros(3), "label": np.zeros(2)})}, "arrays of one length"),
    ],
)
def test_what_does_not_fit_together(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Devices(**({"pool": POOL, "shares": SHARES} | changes))


def test_behaviours_are_of_all_or_of_each() -> None:
    assert Devices(pool=POOL, shares=SHARES, behaviours=SILENT).behaviour(1) is SILENT
    each = Devices(pool=POOL, shares=SHARES, behaviours=[HONEST, SILENT])
    assert (each.behaviour(0), each.behaviour(1), len(each)) == (HONEST, SILENT, 2)


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"x": np.zeros((2, 2))}, "pool: no array 'label', which the plan takes; only 'x'"),
        ({"x": np.zeros((2, 3)), "label": np.zeros(2)}, r"'x' has examples of shape \(3,\)"),
        ({"x": np.full((2, 2), np.nan), "label": np.zeros(2)}, "'x' is NaN or infinite"),
        ({"x": np.zeros((2, 2)), "label": np.array([0, 10])}, "not a class from 0 to 9"),
    ],
)
def test_what_a_plan_cannot_take(arrays: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        fitting(Examples(arrays), INPUTS, "pool")


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("uint8", [300]),
        ("int32", [1 << 40]),
        ("int64", np.array([1 << 63], np.uint64)),
        ("int64", [0.5]),
        ("int64", [2.0**60]),  # which whole number was meant?
        ("bool", [2]),
        ("float32", [1e300]),
    ],
)
def test_a_number_that_the_plans_type_cannot_hold_is_refused(dtype: Any, values: Any) -> None:
    one = (Input(name="x", dtype=dtype, shape=()),)
    with pytest.raises(ValueError, match="'x' is"):
        fitting(Examples({"x": np.asarray(values)}), one, "pool")


def test_a_number_out_of_the_inputs_range_is_refused() -> None:
    """A device leaves out such an example."""
    index = (Input(name="x", dtype="int64", shape=(), range=(0.0, 4.0)),)
    with pytest.raises(ValueError, match="'x' is not a whole number from 0 to 4"):
        fitting(Examples({"x": np.array([4, 5])}), index, "pool")


def test_arrays_become_what_the_plan_takes() -> None:
    found = fitting(Examples({"label": np.ones(2), "x": np.ones((2, 2))}), INPUTS, "pool")
    assert {name: str(array.dtype) for name, array in found.items()} == {
        "x": "float32",
        "label": "int64",
    }
