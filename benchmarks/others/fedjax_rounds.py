"""FedJAX: the devices of a round one after the other, in one compiled program (its `jit` backend)
with one worker, or side by side (its `pmap` backend) with several."""

import json
import os
import sys
import time

os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={sys.argv[3]}"

import fedjax
import jax
import numpy as np
from jax import numpy as jnp

DATA, ROUNDS, WORKERS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

if WORKERS > 1:
    fedjax.set_for_each_client_backend("pmap")
with np.load(DATA) as found:
    data = {name: found[name] for name in found.files}


def forward(params, x):
    h = jax.nn.relu(x @ params["w1"] + params["b1"])
    h = jax.nn.relu(h @ params["w2"] + params["b2"])
    return h @ params["w3"] + params["b3"]


def loss(params, batch, rng):
    logs = jax.nn.log_softmax(forward(params, batch["x"]))
    return -jnp.mean(jnp.take_along_axis(logs, batch["y"][:, None], 1))


weights = {name: jnp.asarray(data[name]) for name in ("w1", "w2", "w3")}
biases = {f"b{n}": jnp.zeros(weights[f"w{n}"].shape[1]) for n in (1, 2, 3)}
algorithm = fedjax.algorithms.fed_avg.federated_averaging(
    jax.grad(loss),
    fedjax.optimizers.sgd(0.1),
    fedjax.optimizers.sgd(1.0),
    fedjax.ShuffleRepeatBatchHParams(batch_size=10, num_epochs=1),
)
devices = [
    fedjax.ClientDataset({"x": data["x"][rows], "y": data["label"][rows].astype(np.int32)})
    for rows in data["shares"]
]
state = algorithm.init(weights | biases)
chance = np.random.default_rng(1)
for number in range(1, ROUNDS + 1):
    chosen = chance.choice(len(devices), 10, replace=False)
    keys = jax.random.split(jax.random.PRNGKey(number), 10)
    clients = [(str(n).encode(), devices[n], k) for n, k in zip(chosen, keys, strict=True)]
    state, _ = algorithm.apply(state, clients)
    jax.block_until_ready(state.params)
    print(json.dumps({"round": number, "at": time.monotonic()}), flush=True)
right = np.argmax(np.asarray(forward(state.params, data["test_x"])), 1) == data["test_label"]
print(json.dumps({"accuracy": float(np.mean(right))}), flush=True)
