"""What the table of codecs rests on: devices that train as a new one would, runs that are
the same however many at a time, and verdicts that can be no.

The digits are made up; no time is measured here.
"""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from benchmarks import codecs, coding, mnist
from benchmarks.federation import CHOSEN, Federation, Method
from benchmarks.plans import compile_plan
from benchmarks.races import Course, Run, run_all
from benchmarks.results import course_grid, upload_goals
from examples.mnist.data import DEVICES
from fleet.simulation import idx
from wire.codecs import DEFAULT
from wire.codecs.base import Vector32
from wire.plan import Parameter

TRAINING, TEST = 1000, 200
PARAMETERS = (Parameter(name="a", shape=(30, 20)), Parameter(name="b", shape=(20,)))
PLAIN, PACKED = Method("float32"), Method("uniform:8")
FEW = Method(DEFAULT)
"""To sum few weights nothing is compiled, which takes seconds."""


def say(what: str) -> None:
    """To nobody."""


def labels_of(count: int) -> idx.Bytes:
    """As many of each class."""
    return (np.arange(count) % 10).astype(np.uint8)


def write_digits(folder: Path, name: str, count: int) -> None:
    """Digits of which each is a bright row and noise."""
    rng = np.random.default_rng(count)
    labels = labels_of(count)
    images = rng.integers(0, 100, (count, 28, 28), dtype=np.uint8)
    images[np.arange(count), 2 * labels + 3] = 255
    for part, array in (("images-idx3", images), ("labels-idx1", labels)):
        head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        (folder / f"{name}-{part}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes(), 1))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the four files."""
    folder = tmp_path_factory.mktemp("mnist")
    write_digits(folder, "train", TRAINING)
    write_digits(folder, "t10k", TEST)
    return folder


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2NN, compiled."""
    pytest.importorskip("onnx")
    return compile_plan(tmp_path_factory.mktemp("plans"), "2nn", rate=0.2)


@pytest.fixture
def course(plan: Path, data: Path) -> Course:
    """Of two rounds, to a target out of reach."""
    return Course("2nn, alike, to 100 %", plan, data, alike=True, target=1.0, most=2)


def test_digits_that_are_not_there_say_where_they_were_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(mnist.VARIABLE, str(tmp_path))
    with pytest.raises(idx.DataMissing, match=rf"{tmp_path}.*{mnist.VARIABLE}"):
        mnist.folder()


def test_a_file_that_breaks_off_is_named(tmp_path: Path) -> None:
    write_digits(tmp_path, "train", TRAINING)
    write_digits(tmp_path, "t10k", TEST)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))
    with pytest.raises(idx.DataMissing, match=path.name):
        idx.load(tmp_path)


def test_a_federation_learns(plan: Path, data: Path, tmp_path: Path) -> None:
    federation = Federation(plan, data, FEW, tmp_path, alike=False, seed=1)
    before = federation.accuracy()
    for _ in range(4):
        assert len(federation.round()) == CHOSEN
    assert federation.accuracy() > before + 0.2


def test_what_a_codec_leaves_out_comes_with_a_later_update(
    plan: Path, data: Path, tmp_path: Path
) -> None:
    method = Method("top:1/100+sign")
    one, other = (
        Federation(plan, data, method, tmp_path / name, alike=True, seed=1) for name in "ab"
    )
    start = one.weights
    one.round()
    one.rounds = other.rounds = 2  # both train alike, and only one has served before
    one.checkpoint = other.checkpoint
    changed = [
        one.send(device, start).data != other.send(device, start).data for device in range(DEVICES)
    ]
    assert sum(changed) == CHOSEN


def test_an_accuracy_below_the_target_is_a_bound(plan: Path, data: Path, tmp_path: Path) -> None:
    federation = Federation(plan, data, PLAIN, tmp_path, alike=True, seed=1)
    assert federation.accuracy() <= federation.accuracy(0.9) < 0.9


def test_runs_are_the_same_however_many_at_a_time(course: Course) -> None:
    wanted = [(course, FEW, 1), (course, FEW, 2)]
    one_by_one = run_all(wanted, say, workers=1)
    assert run_all(wanted, say, workers=2) == one_by_one
    assert one_by_one[0].upload != one_by_one[1].upload
    assert [made.rounds for made in one_by_one] == [2, 2]


def test_error_is_relative_to_the_vector() -> None:
    delta: dict[str, Vector32] = {"a": np.array([3, 4], np.float32)}
    assert coding.error({"a": np.zeros(2, np.float32)}, delta) == 1.0
    assert coding.error(delta, delta) == 0.0


def test_a_coding_is_of_the_bytes_on_the_wire() -> None:
    rng = np.random.default_rng(1)
    real = [{p.name: rng.standard_normal(p.shape, np.float32) for p in PARAMETERS}]
    plain, packed = (
        coding.measure(method.codec, PARAMETERS, real, runs=1) for method in (PLAIN, PACKED)
    )
    assert plain.weights == 620
    assert plain.size > 4 * 620 * 0.9
    assert (plain.gaussian, plain.real) == (0.0, 0.0)
    assert packed.compression > 1.5 * plain.compression
    assert 0 < packed.gaussian < 0.001


def run(course: Course, method: Method, seed: int, rounds: int, megabytes: float) -> Run:
    """One that reached its target."""
    return Run(course, method, seed, rounds, round(megabytes * 1e6), 1.0)


def test_goals_are_met_by_the_least_upload_within_the_rounds(course: Course) -> None:
    # 32 rounds of float32 FedAvg are 255 MB at 4 bytes a weight, whatever zstd makes of them.
    runs = [
        *(run(course, PLAIN, seed, 30 + seed, 200) for seed in (1, 2, 3)),
        *(run(course, PACKED, seed, 35, 8) for seed in (1, 2, 3)),
        *(run(course, FEW, seed, 90, 2) for seed in (1, 2, 3)),
    ]
    near, any_rounds = upload_goals(runs)
    assert near.met
    assert near.measured == f"31.9 x less in 1.09 x the rounds: {PACKED.name}"
    assert any_rounds.met
    assert any_rounds.measured == f"127.5 x less in 2.81 x the rounds: {FEW.name}"
    slower = [made for made in runs if made.method != PACKED]
    assert [row.met for row in upload_goals(slower)] == [False, True]


def test_a_run_that_never_gets_there_counts_for_no_goal(course: Course) -> None:
    missed = Run(course, PACKED, 2, 2, 1000, 0.9)
    runs = [run(course, PLAIN, 1, 30, 200), run(course, PACKED, 1, 30, 1), missed]
    assert [row.met for row in upload_goals(runs)] == [False, False]
    assert course_grid(runs).rows[1][1:3] == ("not in 2 (90.00 %, 1 of 2 seeds)", "-")


def test_without_float32_nothing_can_be_said(course: Course) -> None:
    runs = [Run(course, PLAIN, 1, 2, 1000, 0.9), run(course, PACKED, 1, 30, 1)]
    assert [row.met for row in upload_goals(runs)] == [None, None]


def test_the_quick_section_has_every_codec(
    tmp_path: Path, data: Path, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(mnist.VARIABLE, str(data))
    section = codecs.measure(tmp_path, [], True, say, models=("2nn",))
    names = [method.codec for method in codecs.METHODS]
    assert [row[0] for row in section.grids[0].rows] == names
    for grid in section.grids:
        assert {len(row) for row in grid.rows} == {len(grid.columns)}
    assert [row.met for row in section.rows[:2]] == [None, None]
