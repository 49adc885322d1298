"""Flower's client app: a module, as the processes that run it must be able to import it."""

import os
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

DATA = "LAMPLIGHTER_BENCHMARK_DATA"
"""The environment variable that names the file of data."""

client = ClientApp()


def network() -> torch.nn.Sequential:
    """2NN."""
    return torch.nn.Sequential(
        torch.nn.Linear(784, 200),
        torch.nn.ReLU(),
        torch.nn.Linear(200, 200),
        torch.nn.ReLU(),
        torch.nn.Linear(200, 10),
    )


@lru_cache(maxsize=1)
def data() -> dict[str, Any]:
    """All arrays, once in each process."""
    with np.load(os.environ[DATA]) as found:
        return {name: found[name] for name in found.files}


@client.train()
def train(message: Message, context: Context) -> Message:
    """One epoch over a device's digits."""
    torch.set_num_threads(1)
    found = data()
    rows = found["shares"][context.node_config["partition-id"]]
    model = network()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    x, label = torch.from_numpy(found["x"][rows]), torch.from_numpy(found["label"][rows])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = torch.nn.CrossEntropyLoss()
    for batch in torch.randperm(len(rows)).split(10):
        optimizer.zero_grad()
        loss(model(x[batch]), label[batch]).backward()
        optimizer.step()
    metrics = MetricRecord({"num-examples": len(rows)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)
