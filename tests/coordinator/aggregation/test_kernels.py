"""The compiled sum and numpy's: the same numbers, bit for bit."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from coordinator.aggregation.kernels import WORTH_IT, in_one_pass, in_passes, kernel

compiled = in_one_pass()
needs_numba = pytest.mark.skipif(compiled is None, reason="numba has no wheel here")

VALUES = npst.arrays(
    np.float32, st.integers(0, 40), elements=st.floats(-(2.0**20), 2.0**20, width=32)
)
SCALES = st.floats(-(2.0**50), 2.0**50, width=32).map(np.float32)


def added(kernel, values, scale, start=0.0):
    near = np.full(values.size, start)
    kernel(near, values, scale, np.empty(values.size, np.float32))
    return near


@needs_numba
@given(VALUES, SCALES, st.integers(-(2**40), 2**40).map(float))
def test_both_add_the_same(values, scale, start):
    mine, theirs = added(compiled, values, scale, start), added(in_passes, values, scale, start)
    assert mine.tobytes() == theirs.tobytes()


@needs_numba
def test_halves_go_to_the_even_number():
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 3.0], np.float32)
    assert added(compiled, values, np.float32(1)).tolist() == [0, 2, 2, 0, -2, 3]


@needs_numba
@pytest.mark.parametrize("start", range(5))
def test_bytes_from_the_network_begin_anywhere_and_are_read_only(start):
    data = bytes(start) + np.arange(999, dtype=np.float32).tobytes()
    values = np.frombuffer(data, np.float32, offset=start)
    assert not values.flags.writeable
    assert added(compiled, values, np.float32(2)).tolist() == [2.0 * n for n in range(999)]


@needs_numba
def test_nothing_is_written_past_the_end():
    with pytest.raises(AssertionError):
        compiled(np.zeros(3), np.ones(4, np.float32), np.float32(1), np.empty(4, np.float32))


def test_a_small_model_compiles_nothing():
    assert kernel(WORTH_IT - 1) is in_passes
    assert kernel(WORTH_IT) is (compiled or in_passes)


def test_updates_that_send_few_weights_compile_nothing():
    """A compiler is 120 MB of memory; most tasks need none."""
    subprocess.run([sys.executable, "-c", FEW], check=True, timeout=60)


FEW = """
import sys
import sys
import numpy as np
from coordinator.aggregation import Contribution, FedAvg, aggregator
from wire.codecs import codec_named
from wire.plan import Parameter

parameters = (Parameter(name="w", shape=(200_000,)),)
codec, rng = codec_named("mask:1/8"), np.random.default_rng(1)
delta = codec.decode(codec.encode({"w": np.ones(200_000, np.float32)}, rng), parameters)
aggregator(FedAvg(), parameters).empty().add(Contribution(delta, 1, 1, 0))
assert "numba" not in sys.modules
"""


@needs_numba
@pytest.mark.parametrize(
    "of",
    [lambda v: np.repeat(v, 2)[::2], lambda v: v[::-1].copy()[::-1], lambda v: v.astype(">f4")],
)
def test_values_may_lie_in_memory_as_they_please(of):
    values = np.arange(999, dtype=np.float32)
    there = of(values)
    mine, theirs = (added(k, there, np.float32(2)) for k in (compiled, in_passes))
    assert mine.tolist() == theirs.tolist() == [2.0 * n for n in range(999)]


@pytest.mark.parametrize("broken", ["OSError('libllvmlite.so')", "ValueError('NUMBA_X')"])
def test_a_numba_that_does_not_work_leaves_the_sum_to_numpy(broken):
    """Else no update would be summed, at the close neither: no round would ever end."""
    run = [sys.executable, "-c", BROKEN.replace("BROKEN", broken)]
    done = subprocess.run(run, check=True, timeout=60, capture_output=True, text=True)
    assert done.stderr.count("numba does not work here") == 1


BROKEN = """
import sys
from importlib.abc import MetaPathFinder

class Broken(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "numba":
            raise BROKEN

sys.meta_path.insert(0, Broken())
import numpy as np
from coordinator.aggregation import Contribution, FedAvg, aggregator
from wire.plan import Parameter

total = aggregator(FedAvg(), (Parameter(name="w", shape=(70_000,)),)).empty()
for _ in range(2):
    total.add(Contribution({"w": np.ones(70_000, np.float32)}, 1, 1, 0))
assert total.mean().tolist() == [1.0] * 70_000
"""


@needs_numba
def test_with_its_compiler_switched_off_numba_is_not_used():
    """A loop in Python takes a hundred times as long."""
    code = "from coordinator.aggregation import kernels; assert kernels.in_one_pass() is None"
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=environment)
