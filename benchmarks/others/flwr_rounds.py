"""Flower's simulation engine: 100 supernodes, as many at a time as there are workers."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

os.environ["LAMPLIGHTER_BENCHMARK_DATA"] = str(Path(sys.argv[1]).absolute())
os.environ["PYTHONPATH"] = str(Path(__file__).parent)

from flwr.app import ArrayRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from flwr_client import client, data, network

ROUNDS, WORKERS = int(sys.argv[2]), int(sys.argv[3])

server = ServerApp()


@server.main()
def main(grid: Grid, context: object) -> None:
    """All rounds."""
    model = network()
    with torch.no_grad():
        for layer, name in ((0, "w1"), (2, "w2"), (4, "w3")):
            model[layer].weight.copy_(torch.from_numpy(data()[name].T.copy()))
            model[layer].bias.zero_()

    def ended(number: int, arrays: ArrayRecord) -> None:
        print(json.dumps({"round": number, "at": time.monotonic()}), flush=True)
        if number == ROUNDS:
            model.load_state_dict(arrays.to_torch_state_dict())
            with torch.no_grad():
                found = model(torch.from_numpy(data()["test_x"])).argmax(1).numpy()
            right = float(np.mean(found == data()["test_label"]))
            print(json.dumps({"accuracy": right}), flush=True)

    strategy = FedAvg(
        fraction_train=0.1, fraction_evaluate=0.0, min_train_nodes=10, min_available_nodes=100
    )
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(model.state_dict()),
        num_rounds=ROUNDS,
        evaluate_fn=ended,
    )


if __name__ == "__main__":
    assert isinstance(client, ClientApp)
    run_simulation(
        server,
        client,
        num_supernodes=100,
        backend_config={
            "init_args": {"num_cpus": WORKERS},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
