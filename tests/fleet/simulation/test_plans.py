"""Plans whose devices or coordinator do more than plain training."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from coordinator import taskfile
from coordinator.compiler.compile import compile_beside
from coordinator.compiler.folder import write_plan_dir
from coordinator.export import complete_model
from coordinator.taskfile import AnyTask
from edge_agent.examples import Examples
from fleet.simulation import Devices, Result, simulate
from tests.coordinator.compiler.building import model, node, weights
from tests.fleet.test_scaffold import Published, linear, lines, scaffold
from wire import checkpoint

ROUND = '[round]\ngoal = 3\ndeadline = "1h"\nover_selection = 1.0\nrounds = 2\n'


def planned(task: AnyTask, folder: Path) -> Path:
    """The task's plan, compiled."""
    write_plan_dir(compile_beside(task, folder), folder / "plan")
    return folder / "plan"


def played(task: AnyTask, folder: Path, shares: list[dict[str, np.ndarray]], **keys: Any) -> Result:
    """All devices in each round; in this process."""
    pool = {name: np.concatenate([share[name] for share in shares]) for name in shares[0]}
    ends = np.cumsum([len(next(iter(share.values()))) for share in shares])
    rows = np.split(np.arange(ends[-1]), ends[:-1])
    devices = Devices(pool=Examples(pool), shares=rows, held_out=keys.pop("held_out", None))
    return simulate(task, planned(task, folder), devices, **({"workers": 0, "seed": 2} | keys))


def test_scaffold_is_the_published_algorithm(tmp_path: Path) -> None:
    """With what devices carry, and what the coordinator gives: all of them, in each of the rounds,
    by full batches."""
    examples, number, rounds = lines(4), 4, 5
    spec = scaffold(number, "learning_rate = 0.8", epochs=4)
    text = {"goal": number, "minimum": number, "over_selection": 1.0, "rounds": rounds}
    text |= {"over_selection_limit": 1.0}
    round_ = type(spec.round)(**text, deadline=spec.deadline)
    spec = type(spec)(**{f: getattr(spec, f) for f in spec.__struct_fields__} | {"round": round_})
    onnx.save(linear(), tmp_path / spec.model.file)
    result = played(spec, tmp_path, examples)
    found = result.weights
    first = onnx.numpy_helper.to_array
    start = {i.name: first(i) for i in linear().graph.initializer}
    published = Published(examples, np.vstack([start["w"], start["b"]]), server_rate=0.8)
    for _ in range(rounds):
        published.round(list(range(number)), steps=4)
    np.testing.assert_allclose(
        np.vstack([found["w"], found["b"]]), published.x, rtol=1e-4, atol=1e-4
    )
    assert np.abs(found["control/w"]).max() > 0.01


def shares() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    found = rng.normal([1000.0, -3.0, 0.0], [1.0, 2.0, 0.1], size=(400, 3))
    found[::2] += np.array([2.0, 8.0, 0.0])
    return [{"x": part} for part in np.split(found.astype(np.float32), [1, 150])]


def run(result: Result, folder: Path, names: list[str], x: np.ndarray) -> list[np.ndarray]:
    """The last model's outputs, as local programs have them."""
    graph = (folder / "plan" / "model.onnx").read_bytes()
    whole = complete_model(graph, checkpoint.write(result.weights), None)
    return onnxruntime.InferenceSession(whole).run(names, {"x": x.astype(np.float32)})


def test_moments_of_a_fleet(tmp_path: Path) -> None:
    text = 'name = "known"\n[statistics]\nkind = "moments"\nshape = [3]\n' + ROUND
    result = played(taskfile.parse(text), tmp_path, shares())
    x = np.concatenate([share["x"] for share in shares()]).astype(np.float64)
    mean, variance = run(result, tmp_path, ["mean", "variance"], x)
    np.testing.assert_allclose(mean, x.mean(0), rtol=2e-7, atol=1e-7)
    np.testing.assert_allclose(variance, x.var(0), rtol=3e-6)


def test_centres_of_a_fleet(tmp_path: Path) -> None:
    first = np.float64([[1000, 0, 0], [1000, 3, 0]])
    np.save(tmp_path / "centres.npy", first)
    text = (
        'name = "known"\n[statistics]\nkind = "kmeans"\nshape = [3]\nclusters = 2\n'
        'centres = "centres.npy"\n' + ROUND
    )
    result = played(taskfile.parse(text), tmp_path, shares())
    x, centres = np.concatenate([s["x"] for s in shares()]).astype(np.float64), first
    for _ in range(2):
        nearest = ((x[:, None] - centres) ** 2).sum(-1).argmin(1)
        centres = np.array([x[nearest == j].mean(0) for j in range(2)])
    (found,) = run(result, tmp_path, ["centres"], x)
    np.testing.assert_allclose(found, centres, rtol=2e-7, atol=1e-6)


TASK = """
name = "known"
[model]
file = "model.onnx"
[loss]
kind = "mse"
[optimizer]
kind = "sgd"
learning_rate = 0.1
{schedule}
[training]
batch = 64
{training}
[round]
goal = 3
over_selection = 1
deadline = "1h"
rounds = 2
[upload]
codec = "float32"
{upload}
"""


def trained(folder: Path, more: str = "", seed: int = 2, **tables: Any) -> Result:
    """Lines of three devices, two rounds; `tables` has more for some, `more` is further ones."""
    keys = {name: tables.pop(name) for name in ("held_out", "workers") if name in tables}
    empty = dict.fromkeys(("schedule", "training", "upload"), "")
    task = taskfile.parse(TASK.format(**(empty | tables)) + more)
    onnx.save(linear(), folder / "model.onnx")
    return played(task, folder, lines(3), seed=seed, **keys)


def test_the_rate_falls_over_the_rounds(tmp_path: Path) -> None:
    """One full batch a round: the second moves by a tenth of what it would at the whole rate."""
    schedule = "[optimizer.schedule]\nkind = 'exponential'\nfactor = 0.1"
    weights = trained(tmp_path, schedule=schedule, seed=1).weights
    x, b = _descended([0.1, 0.01])
    np.testing.assert_allclose(weights["w"], x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(weights["b"].ravel(), b, rtol=1e-4, atol=1e-5)


def _descended(rates: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Full gradients over three devices of as many examples, in float64."""
    start = {i.name: onnx.numpy_helper.to_array(i) for i in linear().graph.initializer}
    a = np.vstack([e["x"] for e in lines(3)]).astype("f8")
    a = np.hstack([a, np.ones((len(a), 1))])
    target = np.vstack([e["target"] for e in lines(3)])
    y = np.vstack([start["w"], start["b"].reshape(1, 1)]).astype("f8")
    for rate in rates:
        y = y - rate * 2 * a.T @ (a @ y - target) / len(a)
    return y[:-1], y[-1]


def test_a_proximal_term_holds_on_to_the_rounds_own_first_weights(tmp_path: Path) -> None:
    """Each device begins from the round's model, whoever had the session before it."""
    weights = trained(tmp_path, training="epochs = 3\nproximal = 2.0").weights
    start = {i.name: onnx.numpy_helper.to_array(i) for i in linear().graph.initializer}
    y = np.vstack([start["w"], start["b"].reshape(1, 1)]).astype("f8")
    for _ in range(2):
        ends = []
        for e in lines(3):
            a = np.hstack([e["x"], np.ones((len(e["x"]), 1))]).astype("f8")
            own = y
            for _ in range(3):
                pull = 2 * a.T @ (a @ own - e["target"]) / len(a) + 2.0 * (own - y)
                own = own - 0.1 * pull
            ends.append(own)
        y = np.mean(ends, axis=0)
    np.testing.assert_allclose(weights["w"], y[:-1], rtol=1e-4, atol=1e-5)


def test_lazy_devices_say_nothing_new_and_keep_it(tmp_path: Path) -> None:
    eager = trained(tmp_path)
    (tmp_path / "lazy").mkdir()
    found = trained(tmp_path / "lazy", upload="lazy = 1000.0")
    one, two = found.versions[1:]
    assert (one.updates, two.updates) == (3, 3)
    assert one.losses == eager.versions[1].losses  # nothing was said yet: all report
    assert two.upload - one.upload < eager.versions[2].upload - eager.versions[1].upload
    assert any((found.weights[name] != eager.weights[name]).any() for name in ("w", "b"))


def test_a_device_whose_examples_the_model_cannot_take_gives_up(tmp_path: Path) -> None:
    """It is no reason for the others to stop. Nothing says that `x` is a row of a table of five."""
    cast = node("Cast", "x", "i", to=onnx.TensorProto.INT64)
    nodes = [cast, node("Gather", "w i", "h"), node("Add", "h b", "out")]
    onnx.save(model(nodes, weights(w=(5, 2), b=(2,)), x=("N",)), tmp_path / "model.onnx")
    last = [2.0, 3.0, 9.0]
    target = np.zeros((2, 2), np.float32)
    examples = [{"x": np.float32([0.0, row]), "target": target} for row in last]
    task = taskfile.parse(TASK.format(schedule="", training="", upload=""))
    result = played(task, tmp_path, examples)
    assert [sorted(version.losses) for version in result.versions[1:]] == [[0, 1]] * 2
    assert result.versions[1].dropped == 1


def test_devices_make_the_last_model_their_own(tmp_path: Path) -> None:
    held_out = [np.arange(5), np.empty(0, np.int64), np.arange(40, 45)]
    more = "[personal]\nepochs = 20\nlearning_rate = 0.05\n"
    result = trained(tmp_path, more=more, held_out=held_out)
    found = result.personal
    assert found is not None
    assert (found.devices, [*found.per_device]) == (2, [0, 2])
    assert found.gaining == 2  # planes of their own, and held-out examples that they train on
    assert found.mean == np.mean([*found.per_device.values()]) > 0
    apart = trained(tmp_path, more=more, held_out=held_out, workers=1)
    assert apart.personal == found


def test_a_device_whose_tuning_diverges_has_no_version_of_its_own(tmp_path: Path) -> None:
    """As where the coordinator sums: it hears nothing of such a version."""
    held_out = [np.arange(5), np.arange(20, 25), np.arange(40, 45)]
    more = "[personal]\nepochs = 20\nlearning_rate = 1e30\n"
    assert trained(tmp_path, more=more, held_out=held_out).personal is None
