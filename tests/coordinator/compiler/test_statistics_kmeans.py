"""k-means over a fleet is Lloyd's algorithm over all examples in one place."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from coordinator.compiler.compile import compile_beside
from coordinator.compiler.errors import CompileError
from edge_agent import session
from edge_agent.session import Preempted, Progress, Trainer
from tests.coordinator.compiler.gathering import Array, Gathering, shares_of, task

FIRST = 'kind = "kmeans"\nshape = [2]\nclusters = 3\ncentres = "centres.npy"'
SEEDED = 'kind = "kmeans"\nshape = [5]\nclusters = 8\nseed = 3'


def lloyd(x: Array, centres: Array) -> tuple[Array, float]:
    """One step over all examples in double precision: the next centres, and the mean squared
    distance to the nearest of those before. A centre without examples stays."""
    x, centres = x.astype(np.float64), centres.astype(np.float64)
    squares = ((x[:, None] - centres) ** 2).sum(-1)
    nearest = squares.argmin(1)
    moved = [
        x[nearest == j].mean(0) if (nearest == j).any() else centre
        for j, centre in enumerate(centres)
    ]
    return np.array(moved), float(squares.min(1).mean())


def blobs(count: int, features: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(6, features), scale=3)
    x = centres[rng.integers(0, 6, count)] + rng.normal(size=(count, features))
    return x.astype(np.float32)


def with_centres(folder: Path, centres: Array | list[list[float]]) -> Gathering:
    np.save(folder / "centres.npy", np.asarray(centres))
    return Gathering(task(FIRST), folder)


@pytest.mark.parametrize("offset", [0.0, 5000.0])
def test_rounds_are_lloyds_steps_over_all_examples(offset: float, tmp_path: Path) -> None:
    """Devices of very unequal size, one with a single example; batches of 7 that do not divide."""
    x = blobs(600, 5) + np.float32(offset)
    shares = shares_of(x, 1, 30, 160)
    first = x[[5, 99, 240, 300, 301, 400, 450, 599]]
    np.save(tmp_path / "centres.npy", first)
    spec = task(SEEDED.replace("seed = 3", 'centres = "centres.npy"'))
    fleet, expected = Gathering(spec, tmp_path), first
    for _ in range(12):
        before = fleet.measured(x)
        loss = fleet.round(shares)
        expected, inertia = lloyd(x, expected)
        # The centres are of float32, so that distances are off by its last place of the offset.
        assert loss == pytest.approx(inertia, rel=1e-5 + 1e-8 * offset)
        assert before == pytest.approx(inertia, rel=1e-5 + 1e-8 * offset)
        found = fleet.said(x)["centres"]
        # Half a last place of float32, once for the centre and once for where it was seen from.
        np.testing.assert_allclose(found, expected, rtol=1.2e-7, atol=1e-6)
    assert inertia < lloyd(x, first)[1] / 2


def test_first_centres_are_drawn_by_the_seed(tmp_path: Path) -> None:
    drawn = [
        Gathering(task(SEEDED.replace("3", str(seed))), tmp_path).said(blobs(1, 5))["centres"]
        for seed in (3, 3, 4)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert np.abs(drawn[0]).max() < 5


def test_local_programs_get_the_cluster_and_the_distance(tmp_path: Path) -> None:
    fleet = with_centres(tmp_path, [[0, 0], [10, 0], [0, 10]])
    found = fleet.said(np.float32([[3, 4], [10, 1], [0, 10], [-2, 0]]))
    assert found["cluster"].dtype == np.int64
    assert found["cluster"].tolist() == [0, 1, 2, 0]
    np.testing.assert_allclose(found["distance"], [5, 1, 0, 2], atol=1e-6)
    np.testing.assert_array_equal(found["centres"], [[0, 0], [10, 0], [0, 10]])


def test_a_cluster_without_examples_stays_where_it_is(tmp_path: Path) -> None:
    """Also one that had some before: not a digit of it is lost, however often."""
    fleet = with_centres(tmp_path, [[0.1, 0.3], [1e4, 1e4], [-5, 0]])
    near = np.float32([[0.1, 0.2], [0.4, 0.1], [0.3, 0.3], [-5.2, 0.7], [-4.9, 0.1], [-5, 0]])
    fleet.round(shares_of(near, 2))
    after = fleet.said(near)["centres"]
    np.testing.assert_array_equal(after[1], np.float32([1e4, 1e4]))
    for _ in range(4):
        fleet.round([near[:1], near[1:2]])  # nothing is near the last centre any more
        np.testing.assert_array_equal(fleet.said(near)["centres"][1:], after[1:])
    assert not np.array_equal(fleet.said(near)["centres"][0], after[0])


def test_one_example_in_a_large_fleet_is_a_cluster_of_its_own(tmp_path: Path) -> None:
    """What a device counts is sent exactly, beside whatever was counted before."""
    fleet = with_centres(tmp_path, [[0, 0], [100, 100], [-100, 0]])
    rng = np.random.default_rng(2)
    crowd = rng.normal(size=(4000, 2)).astype(np.float32)
    fleet.round([crowd, crowd + 100, crowd + np.float32([-100, 0])])
    lonely = np.float32([[99.7, 101.3]])
    fleet.round([crowd, crowd[:10], lonely])
    np.testing.assert_array_equal(fleet.said(crowd)["centres"][1], lonely[0])


def test_examples_of_any_shape(tmp_path: Path) -> None:
    x = blobs(200, 6)
    flat = with_shape(tmp_path / "flat", "[6]")
    tall = with_shape(tmp_path / "tall", "[3, 1, 2]")
    for _ in range(3):
        flat.round(shares_of(x, 50))
        tall.round(shares_of(x.reshape(-1, 3, 1, 2), 50))
    centres = tall.said(x.reshape(-1, 3, 1, 2))["centres"]
    assert centres.shape == (4, 3, 1, 2)
    np.testing.assert_array_equal(centres.reshape(4, 6), flat.said(x)["centres"])


def with_shape(folder: Path, shape: str) -> Gathering:
    folder.mkdir()
    return Gathering(task(f'kind = "kmeans"\nshape = {shape}\nclusters = 4'), folder)


def test_examples_of_one_number(tmp_path: Path) -> None:
    x = np.float32([1, 2, 3, 10, 11, 12])
    np.save(tmp_path / "centres.npy", np.float64([0, 20]))
    text = 'kind = "kmeans"\nshape = []\nclusters = 2\ncentres = "centres.npy"'
    fleet = Gathering(task(text), tmp_path)
    fleet.round([x[:2], x[2:]])
    np.testing.assert_allclose(fleet.said(x)["centres"], [(1 + 2 + 3 + 10) / 4, 11.5])
    assert fleet.said(x)["cluster"].tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("kind", ["kmeans", "moments"])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_training_that_goes_on_gives_the_very_same(kind: str, steps: int, tmp_path: Path) -> None:
    text = SEEDED if kind == "kmeans" else 'kind = "moments"\nshape = [5]'
    fleet = Gathering(task(text), tmp_path)
    x = blobs(40, 5)
    fleet.round(shares_of(x, 9))
    whole = fleet.trained(x, seed=5)
    kept, progress = stopped(fleet, x, steps)
    trainer = Trainer(fleet.manifest, fleet.folder, fleet.weights, 1, kept, steps)
    rng = np.random.default_rng(5)
    again = session.train(trainer, fleet.manifest, fleet.examples(x), rng, lambda: False, progress)
    assert (again.examples, again.steps, again.loss) == (40, 6, whole.loss)
    for name, delta in whole.delta.items():
        np.testing.assert_array_equal(again.delta[name], delta)


def stopped(fleet: Gathering, x: Array, steps: int) -> tuple[dict[str, Array], Progress]:
    """A training as it is kept after so many steps."""
    trainer = Trainer(fleet.manifest, fleet.folder, fleet.weights, threads=1)
    progress = Progress()
    with pytest.raises(Preempted):
        session.train(
            *(trainer, fleet.manifest, fleet.examples(x), np.random.default_rng(5)),
            lambda: trainer.steps == steps,
            progress,
        )
    return {name: np.array(value) for name, value in trainer.state().items()}, progress


class Hostile:
    """What nobody should unpickle."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return print, ("unpickled",)


def _pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Hostile()))


def _objects(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([Hostile()], dtype=object), allow_pickle=True)


def _zipped(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, centres=np.zeros((3, 2)))


def _saved(centres: object) -> Callable[[Path], None]:
    return lambda path: np.save(path, np.asarray(centres))


def _cut(path: Path) -> None:
    _saved(np.arange(6.0).reshape(3, 2))(path)
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda path: None, "centres.npy: cannot be read: No such file"),
        (lambda path: path.mkdir(), "centres.npy: cannot be read"),
        (lambda path: path.write_bytes(b""), "not a .npy file of numbers"),
        (lambda path: path.write_bytes(b"\0" * 100_000), "too large for centres"),
        (_pickled, "not a .npy file of numbers"),
        (_objects, "not a .npy file of numbers"),
        (_zipped, "not a .npy file of numbers"),
        (_cut, "not a .npy file of numbers"),
        (_saved(np.zeros((2, 3))), "float64 of shape [2, 3]; the first centres are numbers of"),
        (_saved([["a", "b"], ["c", "d"], ["e", "f"]]), "<U1 of shape [3, 2]"),
        (_saved([[1j, 0], [0, 1], [2, 2]]), "complex128 of shape [3, 2]"),
        (_saved([[1, 2], [np.nan, 4], [5, 6]]), "a number is NaN, infinite or beyond float32"),
        (_saved([[1, 2], [1e300, 4], [5, 6]]), "a number is NaN, infinite or beyond float32"),
        (_saved([[1, 2], [3, 4], [1, 2]]), "two centres are alike"),
    ],
)
def test_centres_that_cannot_be_used_are_one_clear_error(
    make: Callable[[Path], None], error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "centres.npy")
    with pytest.raises(CompileError) as caught:
        compile_beside(task(FIRST), tmp_path)
    assert error in str(caught.value)
    assert "unpickled" not in capsys.readouterr().out
