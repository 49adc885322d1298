"""Apple's pfl: its simulated backend, in one process (`WORKERS` is passed over)."""

import json
import sys
import time

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel

DATA, ROUNDS = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)


class Network(torch.nn.Module):
    """2NN, with the two methods that pfl asks for."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(784, 200),
            torch.nn.ReLU(),
            torch.nn.Linear(200, 200),
            torch.nn.ReLU(),
            torch.nn.Linear(200, 10),
        )

    def loss(self, x, y, eval=False):
        return torch.nn.functional.cross_entropy(self.net(x), y)

    def metrics(self, x, y, eval=True):
        return {}


class Tell(TrainingProcessCallback):
    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        line = {"round": central_iteration + 1, "at": time.monotonic()}
        print(json.dumps(line), flush=True)
        return False, Metrics()


with np.load(DATA) as found:
    data = {name: found[name] for name in found.files}
network = Network()
with torch.no_grad():
    for layer, name in ((0, "w1"), (2, "w2"), (4, "w3")):
        network.net[layer].weight.copy_(torch.from_numpy(data[name].T.copy()))
        network.net[layer].bias.zero_()
shares = [
    [torch.from_numpy(data["x"][rows]), torch.from_numpy(data["label"][rows])]
    for rows in data["shares"]
]
devices = FederatedDataset(
    lambda user: Dataset(raw_data=shares[user], user_id=str(user)),
    get_user_sampler("random", list(range(len(shares)))),
)
FederatedAveraging().run(
    NNAlgorithmParams(
        central_num_iterations=ROUNDS,
        evaluation_frequency=ROUNDS + 1,
        train_cohort_size=10,
        val_cohort_size=0,
    ),
    SimulatedBackend(training_data=devices, val_data=devices),
    PyTorchModel(network, torch.optim.SGD, torch.optim.SGD(network.parameters(), lr=1.0)),
    NNTrainHyperParams(local_batch_size=10, local_num_epochs=1, local_learning_rate=0.1),
    None,
    [Tell()],
    send_metrics_to_platform=False,
)
with torch.no_grad():
    right = network.net(torch.from_numpy(data["test_x"])).argmax(1).numpy() == data["test_label"]
print(json.dumps({"accuracy": float(np.mean(right))}), flush=True)
