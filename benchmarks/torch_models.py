"""The same models as torch modules, and a step of training: torch's side of the training steps."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.plans import LEARNING_RATE
from examples.mnist.models import CLASSES, PIXELS


class TwoNN(nn.Module):
    """784 -> 200 -> 200 -> 10."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(PIXELS, 200), nn.Linear(200, 200)
        self.logits = nn.Linear(200, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(F.relu(self.second(F.relu(self.first(x)))))


class Cnn(nn.Module):
    """Two 5x5 convolutions with pooling, 512, 10."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 5, padding=2), nn.Conv2d(32, 64, 5, padding=2)
        self.hidden, self.logits = nn.Linear(7 * 7 * 64, 512), nn.Linear(512, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.conv1, self.conv2):
            x = F.max_pool2d(F.relu(conv(x)), 2)
        return self.logits(F.relu(self.hidden(x.flatten(1))))


class Keywords(nn.Module):
    """1-D convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(40, 64, 5, padding=2)
        self.depth1, self.depth2 = (nn.Conv1d(64, 64, 5, padding=2, groups=64) for _ in range(2))
        self.point1, self.point2 = (nn.Conv1d(64, 64, 1) for _ in range(2))
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(F.relu(self.conv1(x)), 2)
        for layer in (self.depth1, self.point1, self.depth2, self.point2):
            x = F.relu(layer(x))
        return self.head(x.mean(dim=2))


class Mobile(nn.Module):
    """MobileNet's blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        for i, (n_in, n_out, stride) in enumerate(((16, 16, 1), (16, 24, 2), (24, 24, 1)), 1):
            wide = 4 * n_in
            self.add_module(f"widen{i}", nn.Conv2d(n_in, wide, 1))
            depth = nn.Conv2d(wide, wide, 3, stride=stride, padding=1, groups=wide)
            self.add_module(f"depth{i}", depth)
            self.add_module(f"narrow{i}", nn.Conv2d(wide, n_out, 1))
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem(x))
        for i in (1, 2, 3):
            inner = F.relu6(self.get_submodule(f"widen{i}")(x))
            inner = F.relu6(self.get_submodule(f"depth{i}")(inner))
            inner = self.get_submodule(f"narrow{i}")(inner)
            x = inner if i == 2 else x + inner
        return self.head(x.mean(dim=(2, 3)))


class Lstm(nn.Module):
    """The last state of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(28, 64, batch_first=True)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        _, (last, _) = self.rnn(x)
        return self.head(last[0])


class Transformer(nn.Module):
    """A transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(64), nn.LayerNorm(64)
        self.q, self.k, self.v, self.out = (nn.Linear(64, 64) for _ in range(4))
        self.widen, self.narrow = nn.Linear(64, 256), nn.Linear(256, 64)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        normal = self.before(x)
        q, k, v = (
            layer(normal).reshape(-1, 16, 4, 16).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, 16, 64)
        x = x + self.out(mixed)
        x = x + self.narrow(F.relu(self.widen(self.after(x))))
        return self.head(x.mean(dim=1))


MODULES: dict[str, type[nn.Module]] = {
    "2nn": TwoNN,
    "cnn": Cnn,
    "keywords": Keywords,
    "mobile": Mobile,
    "lstm": Lstm,
    "transformer": Transformer,
}


class TorchTrainer:
    """A model under torch, plain SGD; `step` is one batch, as torch's tutorials write it."""

    def __init__(self, model: str, weights: Mapping[str, np.ndarray[Any, Any]]) -> None:
        torch.set_num_threads(1)
        self._module = MODULES[model]()
        self._module.load_state_dict(_state(self._module, weights))
        self._optimizer = torch.optim.SGD(self._module.parameters(), lr=LEARNING_RATE)

    def step(self, batch: Mapping[str, np.ndarray[Any, Any]]) -> float:
        """One optimiser step; returns the batch's mean loss."""
        x, label = torch.from_numpy(batch["x"]), torch.from_numpy(batch["label"])
        loss = F.cross_entropy(self._module(x), label)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return loss.item()


def _state(module: nn.Module, weights: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Tensor]:
    """The weights under torch's names, in torch's layout."""
    given = dict(weights)
    if isinstance(module, Lstm):
        given |= _lstm(given)
    if isinstance(module, TwoNN | Cnn):
        given = {name: value.T if value.ndim == 2 else value for name, value in given.items()}
    return {name: torch.tensor(given[name]) for name in module.state_dict()}


def _lstm(weights: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """ONNX has the gates in the order i, o, f, c; torch i, f, c, o."""

    def turned(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        i, o, f, c = np.split(value, 4)
        return np.concatenate([i, f, c, o])

    bias = weights["rnn.B"][0]
    return {
        "rnn.weight_ih_l0": turned(weights["rnn.W"][0]),
        "rnn.weight_hh_l0": turned(weights["rnn.R"][0]),
        "rnn.bias_ih_l0": turned(bias[: len(bias) // 2]),
        "rnn.bias_hh_l0": turned(bias[len(bias) // 2 :]),
    }
