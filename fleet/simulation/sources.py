"""The examples of an experiment, from where its file says that they are."""

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.examples import Examples
from edge_agent.examples import load as load_folder
from edge_agent.examples.formats import STORES
from edge_agent.examples.loading import usable
from fleet.simulation import experiment, idx
from fleet.simulation.experiment import ExperimentError
from fleet.simulation.splits import Rows
from wire.plan import Input
from wire.tensors import Array

Arrays = dict[str, Array]


@dataclass
class Source:
    """`pool` has the arrays of all devices, `owned` the rows of each where they come dealt already,
    `test` those to test with; `warnings` say what was left out."""

    pool: Arrays
    owned: list[Rows] | None = None
    test: Arrays | None = None
    warnings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return _length(self.pool)


def read(
    data: experiment.Data,
    base: Path,
    inputs: tuple[Input, ...],
    column: str | None,
    rng: np.random.Generator,
) -> Source:
    """What `data` names, seen from the folder `base`. `column`: of numbers, is read beside the
    inputs, and what is held out for tests is then whole groups of it. Raises `ExperimentError`."""
    match data:
        case experiment.Digits():
            source = _digits(inputs)
        case experiment.Idx():
            source = _idx(base / data.folder, inputs)
        case experiment.Files():
            source = _files(data, base, inputs, column)
        case experiment.Script():
            source = _script(data, base)
    wanted = data.test if isinstance(data, experiment.Files | experiment.Script) else None
    if isinstance(wanted, float):
        if source.owned is not None or source.test is not None:
            raise ExperimentError(f"data.test = {wanted}: the data are dealt, or tested, already")
        _keep_for_tests(source, wanted, column, rng)
    return source


def _digits(inputs: tuple[Input, ...]) -> Source:
    try:
        from fleet.digits import data

        parts = data.load()
    except ModuleNotFoundError:
        raise ExperimentError(
            "data.source = 'digits': scikit-learn is not installed: pip install 'lamplighter[demo]'"
        ) from None

    def named(share: Mapping[str, Array]) -> Arrays:
        return {
            i.name: share["x"].reshape(len(share["x"]), *i.shape)
            if i.classes is None
            else share["label"]
            for i in inputs
        }

    try:
        pool, test = map(named, parts)
    except ValueError as error:
        raise ExperimentError(f"data.source = 'digits': 64 pixels each: {error}") from None
    return Source(pool, test=test)


def _idx(folder: Path, inputs: tuple[Input, ...]) -> Source:
    try:
        training, test = idx.load(folder)
        parts = [part.examples(slice(None), inputs).arrays for part in (training, test)]
    except (idx.DataMissing, ValueError) as error:
        raise ExperimentError(f"data.folder = '{folder}': {error}") from None
    return Source(parts[0], test=parts[1])


# Files, as devices read them


def _files(
    data: experiment.Files, base: Path, inputs: tuple[Input, ...], column: str | None
) -> Source:
    source = Source({})
    beside = tuple(i for i in [_column(column, inputs)] if i)

    def read(path: Path, key: str, what: tuple[Input, ...] = inputs) -> Arrays:
        return _read(path, f"data.{key}", what, data.columns, source.warnings)

    if data.folder is not None:
        folders = _subfolders(base / data.folder)
        found = [read(folder, "folder") for folder in folders]
        source.pool, source.owned = _joined(found)
    elif data.file is not None:
        source.pool = read(base / data.file, "file", inputs + beside)
    if isinstance(data.test, str):
        source.test = read(base / data.test, "test")
    return source


def _column(name: str | None, inputs: tuple[Input, ...]) -> Input | None:
    if name is None or name in {i.name for i in inputs}:
        return None
    return Input(name=name, dtype="float64", shape=())


def _subfolders(folder: Path) -> list[Path]:
    try:
        found = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[:1] != ".")
    except OSError as error:
        raise ExperimentError(f"data.folder = '{folder}': {error.strerror}") from None
    if not found:
        raise ExperimentError(f"data.folder = '{folder}': no subfolders; one for each device")
    return found


def _read(
    path: Path,
    key: str,
    inputs: tuple[Input, ...],
    columns: Mapping[str, tuple[str, ...]],
    warnings: list[str],
) -> Arrays:
    """The examples of a file, or of a folder's files."""
    if not path.is_dir() and path.suffix not in STORES:
        raise ExperimentError(f"{key} = '{path}': expected a folder, or one of {', '.join(STORES)}")
    found = Examples({i.name: np.empty((0, *i.shape), i.dtype) for i in inputs})
    if path.is_dir():
        found = load_folder(path, inputs, columns)
    elif parts := list(usable(path, inputs, columns, found.skip)):
        found.arrays = {n: np.concatenate([p[n] for p in parts]) for n in found.arrays}
    why = "; ".join(found.reasons)
    if not len(found):
        raise ExperimentError(f"{key} = '{path}': no examples: {why or 'nothing is there'}")
    if found.reasons:
        warnings.append(f"{path}: {found.skipped} examples are left out: {why}")
    return found.arrays


# A Python file


def _script(data: experiment.Script, base: Path) -> Source:
    where = f"data.script = '{base / data.script}'"
    function = _function(base / data.script, data.function, where)
    try:
        returned = function(base / data.folder) if data.folder is not None else function()
    except (Exception, SystemExit) as error:
        raise ExperimentError(f"{where}: {data.function}: {_said(error)}") from error
    pool, test = returned if _is_pair(returned) else (returned, None)
    if isinstance(pool, Sequence) and pool:
        joined, owned = _joined([_arrays(one, where) for one in pool])
    else:
        joined, owned = _arrays(pool, where), None
    return Source(joined, owned, None if test is None else _arrays(test, where))


def _is_pair(returned: object) -> bool:
    return isinstance(returned, tuple) and len(returned) == 2


def _function(path: Path, name: str, where: str) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location("experiment_data", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ExperimentError(f"{where}: expected a Python file")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # as `import` does
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ExperimentError(f"{where}: {_said(error)}") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise ExperimentError(f"data.function = {name!r}: no function of {path}")
    return found  # type: ignore[no-any-return]


def _arrays(found: object, where: str) -> Arrays:
    if isinstance(found, Examples):
        found = found.arrays
    if not isinstance(found, Mapping) or not found:
        raise ExperimentError(
            f"{where}: expected arrays by name, a list of such for the devices, or a pair of that "
            f"and those to test with; not {type(found).__name__}"
        )
    try:
        arrays = {str(name): np.asarray(array) for name, array in found.items()}
    except ValueError as error:  # rows of different lengths, say
        raise ExperimentError(f"{where}: {error}") from None
    if len({array.shape[:1] for array in arrays.values()}) != 1:
        raise ExperimentError(f"{where}: its arrays have different lengths")
    return arrays


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


# What they have in common


def _joined(parts: Sequence[Arrays]) -> tuple[Arrays, list[Rows]]:
    """All in one pool, and the rows of each."""
    names = set.intersection(*(set(part) for part in parts))
    try:
        pool = {n: np.concatenate([part[n] for part in parts]) for n in parts[0] if n in names}
    except ValueError as error:
        raise ExperimentError(f"data: the devices' arrays differ: {error}") from None
    ends = np.cumsum([_length(part) for part in parts])
    return pool, np.split(np.arange(ends[-1]), ends[:-1])


def _keep_for_tests(
    source: Source, fraction: float, column: str | None, rng: np.random.Generator
) -> None:
    """Take rows by chance out of the pool, or all rows of groups by chance."""
    groups = source.pool.get(column) if column else None
    if groups is not None and groups.ndim == 1:  # else the split says what is wrong
        kinds, member = np.unique(groups, return_inverse=True)
    else:
        kinds = member = np.arange(len(source))
    number = max(1, round(fraction * len(kinds)))
    held = np.isin(member, rng.choice(len(kinds), number, replace=False))
    source.test = {name: array[held] for name, array in source.pool.items()}
    source.pool = {name: array[~held] for name, array in source.pool.items()}


def _length(arrays: Arrays) -> int:
    return len(next(iter(arrays.values())))
