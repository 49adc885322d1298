"""Made-up engines in NASA's format: a sensor or two that follow wear, and noise."""

import gzip
from pathlib import Path

import numpy as np

from examples.turbofan.cmapss import NAMES

COLUMNS = 26


def row(unit: int, cycle: int, values: list[float]) -> str:
    """A line as NASA writes it, with two blanks at its end."""
    return f"{unit} {cycle} {' '.join(f'{value:.4f}' for value in values)}  \n"


def lines(lives: list[int], rng: np.random.Generator) -> str:
    """A file of engines that live so many cycles each: the nearer the end, the higher."""
    found = []
    for unit, life in enumerate(lives, 1):
        for cycle in range(1, life + 1):
            wear = np.exp(-(life - cycle) / 15)
            values = 100 + 5 * wear * np.arange(COLUMNS - 2) + rng.normal(0, 1, COLUMNS - 2)
            found.append(row(unit, cycle, values.tolist()))
    return "".join(found)


def write(folder: Path, engines: int, seed: int = 1, *, compressed: bool = False) -> None:
    """Four files of `engines` engines each, 20 to 60 cycles long."""
    rng = np.random.default_rng(seed)
    for name in NAMES:
        text = lines(rng.integers(20, 60, engines).tolist(), rng).encode()
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(text))
        else:
            (folder / name).write_bytes(text)
