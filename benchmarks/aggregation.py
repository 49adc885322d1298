"""Aggregation alone: updates a second into the sum, from memory, and the memory that it takes.

The updates are float32 arrays that are in memory already, as a strategy of Flower's gets them: all
at once. Two ways: ten at a time, as a coordinator sums what has arrived together, which is held
against Flower's figure; and one by one, beside it. The next model is made at the end; it is part of
the time.
"""

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.report import Row, Section, median, spread
from benchmarks.runtimes import Runtime
from coordinator.aggregation import Aggregator, Contribution, FedAvg, aggregator
from wire.checkpoint import Weights
from wire.plan import Parameter

GOALS = {"2nn": 4300.0, "cnn": 1100.0}
"""Updates a second."""
FLOWER = {"2nn": 4250, "cnn": 1036}
"""What Flower 1.41 did in memory on a machine of this kind; measured before, not in this run."""
SHAPES: dict[str, list[tuple[int, ...]]] = {
    "2nn": [(784, 200), (200,), (200, 200), (200,), (200, 10), (10,)],
    "cnn": [(32, 1, 5, 5), (32,), (64, 32, 5, 5), (64,), (3136, 512), (512,), (512, 10), (10,)],
}
UPDATES = 100
TOGETHER = 10

_FEW, _MANY = 10, 1000  # updates whose memory is compared
_MOST_GROWTH = 1.1


def measure(
    work: Path, runtimes: list[Runtime], quick: bool, say: Callable[[str], None]
) -> Section:
    """The section."""
    section = Section(f"Aggregation alone, {UPDATES} float32 updates in memory, FedAvg")
    runs = 5 if quick else 25
    for model, shapes in SHAPES.items():
        say(f"aggregation: {model}")
        parameters = tuple(
            Parameter(name=f"parameter{index}", shape=shape) for index, shape in enumerate(shapes)
        )
        strategy = aggregator(FedAvg(), parameters)
        updates = _updates(parameters)
        section.rows += _rates(model, strategy, updates, runs)
        section.rows.append(_memory(model, strategy, updates))
    section.notes = [
        f"Median [least .. most] of {runs} runs. Flower's figures are quoted, not of this run; its "
        "memory grows with the updates (6.7 GB at 1,000 of the CNN).",
        "`check` is the other thing done for every update, before it counts: its rate is beside. "
        "`a plain mean` is numpy's multiply and add in float32, whose result depends on the order: "
        "what this machine's memory is worth at this hour.",
    ]
    return section


def _updates(parameters: tuple[Parameter, ...]) -> list[Contribution]:
    rng = np.random.default_rng(1)
    return [Contribution(_delta(parameters, rng), 600, 60, 0) for _ in range(UPDATES)]


def _delta(parameters: tuple[Parameter, ...], rng: np.random.Generator) -> Weights:
    """Changes of the size that training makes."""
    return {
        p.name: rng.standard_normal(p.shape, dtype=np.float32) * np.float32(0.01)
        for p in parameters
    }


def _rates(model: str, strategy: Aggregator, updates: list[Contribution], runs: int) -> list[Row]:
    base = updates[0].delta
    rates: dict[int, list[float]] = {1: [], TOGETHER: []}
    checks, plain = [], []
    for _ in range(runs):
        for together, found in rates.items():
            started = time.perf_counter()
            total = strategy.empty()
            for start in range(0, len(updates), together):
                total.add_all(updates[start : start + together])
            strategy.close(base, None, total)
            found.append(len(updates) / (time.perf_counter() - started))
        started = time.perf_counter()
        for update in updates:
            strategy.check(update)
        checks.append(len(updates) / (time.perf_counter() - started))
        started = time.perf_counter()
        _plain_mean(updates)
        plain.append(len(updates) / (time.perf_counter() - started))
    single, several = rates[1], rates[TOGETHER]
    return [
        Row(
            f"{model}, {TOGETHER} at a time",
            f"{spread(several, ',.0f')} updates/s",
            f"one by one: {spread(single, ',.0f')}; check: {median(checks):,.0f}; "
            f"a plain mean: {median(plain):,.0f}",
            f">= {GOALS[model]:,.0f} (Flower 1.41: {FLOWER[model]:,})",
            median(several) >= GOALS[model],
        )
    ]


def _plain_mean(updates: list[Contribution]) -> Weights:
    """What a mean costs that is neither checked nor exact."""
    examples = sum(update.examples for update in updates)
    total = {name: np.zeros_like(values) for name, values in updates[0].delta.items()}
    for update in updates:
        share = np.float32(update.examples / examples)
        for name, values in update.delta.items():
            total[name] += values * share
    return total


def _memory(model: str, strategy: Aggregator, updates: list[Contribution]) -> Row:
    few, many = (_peak(strategy, updates, count) for count in (_FEW, _MANY))
    return Row(
        f"{model}, memory at {_MANY:,} updates",
        f"{many / 1e6:.1f} MB",
        f"{few / 1e6:.1f} MB at {_FEW}",
        f"<= {_MOST_GROWTH} x",
        many <= _MOST_GROWTH * few,
    )


def _peak(strategy: Aggregator, updates: list[Contribution], count: int) -> int:
    """Bytes that summing `count` updates and closing takes at the peak, beyond the updates."""
    tracemalloc.start()
    total = strategy.empty()
    for number in range(count):
        total.add(updates[number % len(updates)])
    strategy.close(updates[0].delta, None, total)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak
