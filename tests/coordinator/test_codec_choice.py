"""Which codec, given how many bytes an update may have."""

import numpy as np
import pytest

from coordinator.codec_choice import AUTO, EXACT, TooSmall, choose, expected, most_bytes
from tests.wire.samples import header
from wire import update
from wire.codecs import DEFAULT
from wire.plan import Parameter

SHAPES = [(784, 200), (200,), (200, 200), (200,), (200, 10), (10,)]
MODEL = tuple(Parameter(name=f"p{index}", shape=shape) for index, shape in enumerate(SHAPES))
SMALL = (Parameter(name="w", shape=(16, 48)), Parameter(name="b", shape=(48,)))


def change(shape, kind, seed):
    rng = np.random.default_rng(seed)
    found = rng.laplace(size=shape) ** 3 if kind == "heavy" else rng.standard_normal(shape)
    if kind == "few":  # as an embedding's: each that changed has a level of its own
        found *= rng.random(shape) < 0.1
    return found.astype(np.float32)


@pytest.mark.parametrize("parameters", [MODEL, SMALL])
@pytest.mark.parametrize("looks_at_each", [False, True])
@pytest.mark.parametrize("budget", [2_000, 3_000, 8_000, 20_000, 60_000, 200_000, 10_000_000])
def test_what_it_picks_keeps_to_the_budget(parameters, looks_at_each, budget):
    try:
        codec = choose(AUTO, budget, looks_at_each, parameters)
    except TooSmall:
        assert budget < 9_000 or looks_at_each
        return
    for kind in ("normal", "heavy", "few"):
        delta = {p.name: change(p.shape, kind, 3) for p in parameters}
        assert len(update.write(header(codec), delta, np.random.default_rng(1))) <= budget
    assert not (looks_at_each and codec.startswith("sample"))


def test_more_bytes_never_mean_a_larger_error():
    errors = [
        expected(choose(AUTO, budget, False, MODEL), MODEL).error
        for budget in (3_000, 8_000, 16_000, 30_000, 50_000, 80_000, 150_000, 250_000, 900_000)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > errors[-1] == 0


def test_without_a_budget_it_is_the_default_or_one_that_tells_of_every_weight():
    assert choose(AUTO, None, False, MODEL) == DEFAULT
    assert choose(AUTO, None, True, MODEL) == "uniform:8"
    assert choose("top:1/9", None, False, MODEL) == "top:1/9"


def test_what_adds_up_is_told_nearly_exactly():
    assert choose(AUTO, None, False, MODEL, adds_up=True) == "rotate+eden:8"
    assert choose(AUTO, None, False, SMALL, adds_up=True) == "float16"  # a block has 4096 values
    for budget, codec in ((10_000_000, "float32"), (500_000, "float16"), (210_000, EXACT[-1])):
        assert choose(AUTO, budget, False, MODEL, adds_up=True) == codec
    with pytest.raises(TooSmall, match=r"'rotate\+eden:8' takes"):
        choose(AUTO, 100_000, False, MODEL, adds_up=True)
    assert max(expected(codec, MODEL).error for codec in EXACT) < 2e-4


def test_a_budget_that_nothing_keeps_names_what_comes_nearest():
    with pytest.raises(TooSmall, match=r"of this model's 199,210 weights: 'sample:1/256' takes"):
        choose(AUTO, 500, False, MODEL)


def test_what_is_expected_is_what_is_made():
    found = expected("sample:1/32", MODEL)
    assert found.bytes < most_bytes("sample:1/32", MODEL) < 4 * found.bytes
    assert found.error == pytest.approx(19.4, rel=0.05)


def test_too_small_a_budget_names_the_codec_that_comes_nearest():
    tiny = (Parameter(name="w", shape=(10,)),)
    with pytest.raises(TooSmall) as caught:
        choose(AUTO, 1100, True, tiny)
    least = min(most_bytes(name, tiny) for name in ("uniform:8", "float16", "float32"))
    assert str(caught.value).endswith(f"'uniform:8' takes {least}")
