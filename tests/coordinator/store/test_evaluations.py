"""What devices say of a version, in SQLite: any words, and the same figures as in Python."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.figures import can_be, metric_views
from coordinator.store import evaluations
from coordinator.store.sqlite import open_sqlite
from schedules.clock import SystemClock
from tests.coordinator.store.evaluating import METRICS, Word, asked_of, joined, said, same
from tests.coordinator.store.memory import MemoryStore

FLEET = 40
FIGURES = st.floats(-1e6, 1e6).map(lambda value: round(value, 6))
WORDS = st.lists(
    st.tuples(FIGURES, st.integers(1, 1 << 31), st.none() | FIGURES), min_size=1, max_size=FLEET
)


@pytest.fixture(scope="module")
def memory() -> Iterator[MemoryStore]:
    store = MemoryStore()
    store.run(joined, FLEET)
    yield store
    store.close()


async def test_what_devices_say_in_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evaluations, "_CLEARED", 7)
    async with open_sqlite(tmp_path / "state", "node", SystemClock()) as store:
        await asked_of(store)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(WORDS)
def test_any_words_have_the_figures_of_the_pure_functions(memory: MemoryStore, words: list[Word]):
    memory.run(evaluations.add, said(0, words))
    views = metric_views(memory.run(evaluations.look, "digits", 0), METRICS)
    memory.run(evaluations.clear, "digits", 0)
    assert len(views) == 2
    for view in views:
        same(view, words)


@pytest.mark.parametrize(
    ("name", "value", "can"),
    [
        ("accuracy", 1.0, True),
        ("accuracy", 1.000001, True),
        ("accuracy", 1.5, False),
        ("accuracy:logits", -0.5, False),
        ("top_5", 2.0, False),
        ("auc", 0.5, True),
        ("rmse", 1e9, True),
        ("rmse:y", -0.1, False),
        ("loss", -5.0, True),
        ("loss", 1e39, False),
        ("loss", float("nan"), False),
        ("accuracy", float("nan"), False),
        ("rmse", float("inf"), False),
        ("top_secret", 0.5, True),
    ],
)
def test_what_a_metric_can_be(name: str, value: float, can: bool):
    assert can_be(name, value) is can
