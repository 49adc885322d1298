"""Experiment files: strict, and what does not fit is one line that names the key."""

import re
from pathlib import Path

import numpy as np
import pytest

from fleet.digits import PLAN, TASK
from fleet.simulation import dealing, experiment
from fleet.simulation.experiment import Behaving, ExperimentError
from fleet.simulation.preparing import Asked, Prepared, prepare
from fleet.virtual import HONEST, SILENT, SLOW, Behaviour
from schedules.duration import Duration

HEAD = 'task = "t.toml"\ndevices = 3\n'
DIGITS = HEAD + '[data]\nsource = "digits"\n'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (DIGITS + "x = 1", "line 5: unknown key 'data.x'; allowed here: source"),
        ("colour = 1\n" + DIGITS, "line 1: unknown key 'colour'; allowed here: task, plan, data"),
        (HEAD + '[data]\nsource = "foo"', "data.source = 'foo': expected one of 'digits', 'idx'"),
        (HEAD, "missing key 'data'"),
        ('task = "t"\n[data]\nsource = "digits"', "devices"),
        ("evaluate_every = -1\n" + DIGITS, "evaluate_every = -1"),
        ("held_out = 1.0\n" + DIGITS, "held_out = 1.0"),
        (
            DIGITS + "[[behaviours]]\nshare = 0.5\nlike = 'slo'",
            r"behaviours\[0\].like = 'slo'.*slow",
        ),
        (DIGITS + "[[behaviours]]\nshare = 0.5\ntraining = 5", "training = 5: expected a duration"),
        (DIGITS + "[[behaviours]]\nshare = 0.5\ntraining = '0s'", "training = '0s'"),
        (DIGITS + "[[behaviours]]\nshare = 0.5\nlies = 2.0", r"lies = 2.0"),
        (DIGITS + "[[behaviours]]\nshare = 0.6\n" * 2, "shares of 1.2: expected 1 at most"),
        (DIGITS + "[split]\nkind = 'dirichlet'\nconcentration = 0", "concentration = 0"),
        (DIGITS + "[split]\nkind = 'dirichlet'\nconcentration = inf", "concentration = inf"),
        (DIGITS + "[[behaviours]]\nshare = 0.5\nspread = 1e300", r"spread = 1e\+300.* <= 50"),
        (DIGITS + "[stop]\nmetric = 'loss'\nat = nan", "stop.at = nan"),
        (DIGITS + "[split]\nkind = 'groups'", "missing key 'split.column'"),
        (DIGITS + "[stop]\nmetric = 'loss'", "missing key 'stop.at'"),
        (HEAD + "[data]\nsource = 'files'", "expected one of folder .* or file"),
        (HEAD + "[data]\nsource = 'files'\nfolder = 'x'\ntest = 0.1", "data.test = 0.1"),
        (HEAD + "[data]\nsource='files'\nfolder='x'\n[split]\nkind='alike'", "split"),
        ("task = ", "not TOML"),
    ],
)
def test_what_is_wrong_is_named(text: str, why: str) -> None:
    with pytest.raises(ExperimentError, match=f"^e.toml: .*{why}") as caught:
        experiment.parse(text, "e.toml")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"none\.toml: cannot be read"):
        experiment.load(tmp_path / "none.toml")


# Behaviours


def test_shares_of_behaviours_are_devices() -> None:
    asked = [Behaving(share=0.25, like="slow"), Behaving(share=0.1, like="silent")]
    found = dealing.behave(asked, 40, np.random.default_rng(1))
    assert isinstance(found, list)
    assert [found.count(kind) for kind in (SLOW, SILENT, HONEST)] == [10, 4, 26]
    assert found != sorted(found, key=lambda kind: kind.training)


@pytest.mark.parametrize("devices", range(1, 12))
def test_shares_that_do_not_divide_are_rounded(devices: int) -> None:
    asked = [Behaving(share=1 / 3, like="slow"), Behaving(share=2 / 3, like="silent")]
    found = dealing.behave(asked, devices, np.random.default_rng(1))
    assert isinstance(found, list)
    assert len(found) == devices
    assert abs(found.count(SLOW) - devices / 3) < 1
    assert HONEST not in found


def test_a_ready_made_behaviour_but_for_what_is_said() -> None:
    asked = Behaving(share=1, like="slow", training=Duration(8), repeats=2, lies=0.5)
    assert dealing.behaviour_of(asked) == Behaviour(training=8, spread=1.5, repeats=2, lies=0.5)


# Examples


def prepared(folder: Path, rest: str, asked: Asked = Asked()) -> Prepared:  # noqa: B008 - frozen
    path = folder / "e.toml"
    path.write_text(f'task = "{TASK}"\nplan = "{PLAN}"\n{rest}')
    return prepare(path, asked, lambda _: None)


def rows(count: int, start: int = 0) -> dict[str, np.ndarray]:
    """Examples that differ, of two engines."""
    x = np.arange(start, start + count, dtype=np.float32)[:, None] + np.zeros(64, np.float32)
    return {"x": x, "label": np.arange(count) % 10, "engine": np.arange(count) // 7}


def test_each_subfolder_is_a_device(tmp_path: Path) -> None:
    for device, count in enumerate((5, 3)):
        (tmp_path / "data" / f"d{device}").mkdir(parents=True)
        np.savez(tmp_path / "data" / f"d{device}" / "a.npz", **rows(count, 100 * device))
    np.savez(tmp_path / "test.npz", **rows(4))
    found = prepared(
        tmp_path,
        'held_out = 0.4\n[data]\nsource = "files"\nfolder = "data"\ntest = "test.npz"',
    )
    devices = found.devices
    assert devices.held_out is not None
    assert [len(s) for s in devices.shares] == [3, 2]
    assert [len(h) for h in devices.held_out] == [2, 1]
    for device in (0, 1):
        own = np.concatenate([devices.shares[device], devices.held_out[device]])
        values = devices.pool.arrays["x"][own, 0]
        assert set(values // 100) == {device}
    assert set(devices.pool.arrays) == {"x", "label"}
    assert found.test is not None
    assert len(found.test) == 4


def test_one_file_is_split_by_whole_groups_and_some_are_kept_for_tests(tmp_path: Path) -> None:
    table = rows(70)
    names = [f"x.{n}" for n in range(64)]
    lines = [",".join([*names, "label", "engine"])]
    for x, label, engine in zip(table["x"], table["label"], table["engine"], strict=True):
        lines.append(",".join([*map(str, x), str(label), str(engine)]))
    (tmp_path / "all.csv").write_text("\n".join([*lines, "what,is,this"]))
    found = prepared(
        tmp_path,
        'devices = 4\n[data]\nsource = "files"\nfile = "all.csv"\ntest = 0.2\n'
        '[split]\nkind = "groups"\ncolumn = "engine"',
    )
    assert found.test is not None
    assert len(found.test) == 14
    assert found.devices.held_out is not None
    owners = []
    for train, held in zip(found.devices.shares, found.devices.held_out, strict=True):
        values = found.devices.pool.arrays["x"][np.concatenate([train, held]), 0]
        assert len(values) == 14
        owners += list({int(v) // 7 for v in values})
    tested = {int(v) // 7 for v in found.test.arrays["x"][:, 0]}
    assert sorted([*owners, *tested]) == list(range(10))
    assert "1 examples are left out: all.csv line 72" in found.warnings[0]


SCRIPT = """
import numpy as np

def part(count):
    return {"x": np.zeros((count, 64)), "label": np.arange(count) % 10}

def load():
    return part(50), part(5)

def dealt(folder):
    return [part(4), part(6)] if folder.name == "here" else None

def broken():
    raise KeyError("engine")
"""


def test_a_function_of_a_script(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text(SCRIPT)
    source = '[data]\nsource = "script"\nscript = "data.py"\n'
    found = prepared(tmp_path, f"devices = 5\n{source}")
    assert found.test is not None
    assert (len(found.devices), len(found.test)) == (5, 5)
    found = prepared(tmp_path, f'held_out = 0.0\n{source}function = "dealt"\nfolder = "here"')
    assert [len(share) for share in found.devices.shares] == [4, 6]
    assert found.test is None
    assert found.evaluate_every == 0


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        ('function = "broken"', "data.py'.*broken: KeyError: 'engine'"),
        ('function = "none"', "data.function = 'none': no function"),
        ('function = "dealt"\nfolder = "x"', "expected arrays by name.*not NoneType"),
        ('function = "dealt"\nfolder = "here"\n[split]\nkind = "alike"', "split: .*dealt each"),
        ('[stop]\nmetric = "f1"\nat = 0.9', "stop.metric = 'f1': expected one of 'loss', 'acc"),
        ('[split]\nkind = "groups"\ncolumn = "engine"', "split.column = 'engine': expected one of"),
        (
            'function = "dealt"\nfolder = "here"\n[stop]\nmetric = "loss"\nat = 0.1',
            "stop.over = 'test': the data have no test set",
        ),
    ],
)
def test_a_script_that_does_not_fit_is_one_line(tmp_path: Path, rest: str, why: str) -> None:
    (tmp_path / "data.py").write_text(SCRIPT)
    head = "" if "dealt" in rest else "devices = 5\n"
    with pytest.raises(ExperimentError, match=f"e.toml: .*{why}"):
        prepared(tmp_path, f'{head}[data]\nsource = "script"\nscript = "data.py"\n{rest}')


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        ('[data]\nsource = "files"\nfile = "none.csv"', "data.file = .*none.csv': no examples"),
        ('[data]\nsource = "files"\nfile = "a.txt"', "expected a folder, or one of .npz, .csv"),
        ('[data]\nsource = "files"\nfile = "."', "no examples: nothing is there"),
        ('[data]\nsource = "idx"\nfolder = "."', "no .*train-images-idx3-ubyte"),
        ('[data]\nsource = "script"\nscript = "none.py"', "expected a Python file"),
    ],
)
def test_data_that_are_not_there_are_named(tmp_path: Path, rest: str, why: str) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ExperimentError, match=why):
        prepared(tmp_path, f"devices = 5\n{rest}")


def test_a_stop_over_devices_needs_what_they_evaluate_on(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text(SCRIPT)
    stop = '[stop]\nmetric = "loss"\nat = 0.1\nover = "devices"'
    rest = f'devices = 5\nheld_out = 0.0\n[data]\nsource = "script"\nscript = "data.py"\n{stop}'
    with pytest.raises(ExperimentError, match=r"held_out and evaluate_every: expected both"):
        prepared(tmp_path, rest)


def test_the_command_line_has_the_last_word(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text(SCRIPT)
    rest = 'devices = 5\nseed = 1\nrounds = 9\n[data]\nsource = "script"\nscript = "data.py"'
    asked = Asked(seed=7, rounds=2, output=tmp_path / "there")
    found = prepared(tmp_path, rest, asked)
    assert (found.seed, found.task.round.rounds, found.output) == (7, 2, tmp_path / "there")
    found = prepared(tmp_path, rest)
    assert (found.seed, found.task.round.rounds) == (1, 9)
    assert found.output == tmp_path / "e-results"


def test_the_documented_experiment_is_one_with_every_key() -> None:
    page = (Path(__file__).parents[3] / "docs" / "simulate.md").read_text()
    text = page.partition("```toml\n")[2].partition("```")[0]
    found = experiment.parse(text)
    assert isinstance(found.split, experiment.Dirichlet)
    assert all(
        f"\n{key} = " in text or f"[{key}]" in text
        for key in experiment.Experiment.__struct_fields__[2:]
    )


X = "np.zeros((9, 64), 'f4')"
LABEL = "np.arange(9)"


@pytest.mark.parametrize(
    ("returned", "why"),
    [
        ("sys.exit(3)", "load: SystemExit: 3"),
        ("{'x': [[1], [1, 2]], 'label': [1, 2]}", "inhomogeneous"),
        (f"({{'x': {X}}}, {{'x': {X}}}, 3)", "expected arrays by name"),
        (
            f"{{'x': {X}, 'label': {LABEL}}}, {{'x': {X}[:0], 'label': {LABEL}[:0]}}",
            "data.test: no examples",
        ),
        (f"{{'x': {X}.astype(str), 'label': {LABEL}}}", "'x' holds <U32: expected numbers"),
        (f"{{'x': {X} * 1j, 'label': {LABEL}}}", "'x' holds complex64: expected numbers"),
        (f"{{'x': {X}.astype('f8') + 1e300, 'label': {LABEL}}}", "'x' is NaN or infinite"),
        (f"{{'x': {X}, 'label': {LABEL} + 0.7}}", "'label' is not a class from 0 to 9"),
        (f"{{'x': {X}, 'label': {LABEL} * np.nan}}", "'label' is not a class from 0 to 9"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_a_script_cannot_return_is_said(tmp_path: Path, returned: str, why: str) -> None:
    script = f"import sys\nimport numpy as np\ndef load():\n    return {returned}\n"
    (tmp_path / "s.py").write_text(script)
    with pytest.raises(ExperimentError, match=re.escape(why)) as caught:
        prepared(tmp_path, 'devices = 3\n[data]\nsource = "script"\nscript = "s.py"')
    assert "\n" not in str(caught.value)


def test_a_script_may_have_dataclasses(tmp_path: Path) -> None:
    """With annotations that are text they look for their module's name."""
    (tmp_path / "s.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\nimport numpy as np\n"
        "@dataclass\nclass Wide:\n    of: int = 64\n"
        "def load():\n    return {'x': np.zeros((9, Wide().of)), 'label': np.arange(9)}\n"
    )
    found = prepared(tmp_path, 'devices = 3\n[data]\nsource = "script"\nscript = "s.py"')
    assert len(found.devices) == 3


def test_groups_are_named_by_one_number_each(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(
        "import numpy as np\ndef load():\n"
        f"    return {{'x': {X}, 'label': {LABEL}, 'engine': {LABEL}[:, None]}}\n"
    )
    with pytest.raises(ExperimentError, match=r"split\.column = 'engine': expected one of 'label'"):
        prepared(
            tmp_path,
            'devices = 3\n[data]\nsource = "script"\nscript = "s.py"\ntest = 0.2\n'
            '[split]\nkind = "groups"\ncolumn = "engine"',
        )


def test_a_device_without_examples_has_none_held_out(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(
        "import numpy as np\ndef load():\n"
        f"    own = {{'x': {X}, 'label': {LABEL}}}\n"
        "    return [own, {name: array[:0] for name, array in own.items()}]\n"
    )
    found = prepared(tmp_path, '[data]\nsource = "script"\nscript = "s.py"').devices
    assert [len(share) for share in found.shares] == [8, 0]
    assert found.held_out is not None
    assert [len(held) for held in found.held_out] == [1, 0]
