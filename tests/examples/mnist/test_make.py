"""The tasks say what the paper's rows do, and compile."""

import pytest

from examples.mnist import FOLDER, fedavg, nodes
from examples.mnist.make import prepare, read_task

# Weights, devices a round, epochs, as the paper has them; the batch is ten in all rows.
PAPER = {
    "2nn-iid": (199_210, 10, 1),
    "2nn-shards": (199_210, 10, 1),
    "2nn-all-iid": (199_210, 100, 1),
    "2nn-all-shards": (199_210, 100, 1),
    "cnn-iid": (1_663_370, 10, 5),
    "cnn-shards": (1_663_370, 10, 5),
}


def test_every_task_file_is_somebodys():
    files = {path.stem for path in FOLDER.glob("*.toml")}
    assert files == {*fedavg.ROWS, nodes.FEDERATED, nodes.CENTRALISED}
    assert set(PAPER) == set(fedavg.ROWS)


@pytest.mark.parametrize("name", PAPER)
def test_a_row_is_the_papers(name):
    task = read_task(name)
    weights, devices, epochs = PAPER[name]
    assert (task.name, task.round.goal, task.training.epochs) == (name, devices, epochs)
    assert (task.training.batch, task.round.over_selection) == (10, 1.0)
    assert task.model.file == ("2nn.onnx" if weights == 199_210 else "cnn.onnx")
    assert task.round.rounds >= fedavg.ROWS[name].paper or name == "2nn-shards"


@pytest.mark.parametrize("name", ["2nn-iid", "cnn-iid", "nodes"])
def test_a_plan_has_the_models_weights(name, tmp_path):
    found = prepare(read_task(name), tmp_path)
    weights = sum(p.size for p in found.manifest.parameters)
    assert weights == PAPER.get(name, PAPER["2nn-iid"])[0]
    assert (found.plan / "manifest.json").is_file()


def test_the_centralised_model_trains_as_much_as_the_nodes():
    alone, together = read_task(nodes.CENTRALISED), read_task(nodes.FEDERATED)
    assert alone.training.epochs == together.training.epochs * together.round.rounds
    assert alone.optimizer.learning_rate == together.optimizer.learning_rate
    assert alone.training.batch == together.training.batch
