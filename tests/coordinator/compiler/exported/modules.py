"""Small torch modules of every kind that devices train, for `make.py`.

Torch is not needed to run the tests: the exported files are kept beside this one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class KeywordSpotter(nn.Module):
    """A 1-D CNN over 20 frames of 8 features, with dilations and pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(8, 12, 3, padding=1),
            nn.BatchNorm1d(12),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(12, 12, 3, padding=2, dilation=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(12, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class InvertedResidual(nn.Module):
    """MobileNet's block: widen, depthwise convolution, narrow, with batch norm and ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.block = nn.Sequential(
            nn.Conv2d(8, 16, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU6(),
            nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU6(),
            nn.Conv2d(16, 8, 1, bias=False),
            nn.BatchNorm2d(8),
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        h = h + self.block(h)
        return self.head(h.mean(dim=(2, 3)))


class SqueezeExcite(nn.Module):
    """MobileNetV3's block: hard swish, and channels weighted by a hard sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 5, padding=2, groups=8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.hardswish(self.depthwise(F.hardswish(self.stem(x))))
        weight = F.adaptive_avg_pool2d(h, 1)
        weight = F.hardsigmoid(self.excite(F.relu(self.squeeze(weight))))
        return self.head(F.adaptive_avg_pool2d(h * weight, 1).flatten(1))


class Residual(nn.Module):
    """ResNet's block with group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first, self.second = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.GroupNorm(4, 8) for _ in range(2))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        inner = F.relu(self.norms[0](self.first(h)))
        h = F.relu(h + self.norms[1](self.second(inner)))
        return self.head(F.avg_pool2d(h, 8).flatten(1))


class ConvNext(nn.Module):
    """ConvNeXt's block: depthwise convolution, layer norm over channels, GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, stride=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.LayerNorm(8)
        self.widen, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        inner = self.norm(self.depthwise(h).permute(0, 2, 3, 1))
        inner = self.narrow(F.gelu(self.widen(inner)))
        h = h + inner.permute(0, 3, 1, 2)
        return self.head(h.mean(dim=(2, 3)))


class Recurrent(nn.Module):
    """A classifier of sequences: the last state of an RNN, LSTM or GRU."""

    def __init__(self, kind: type[nn.RNNBase], bidirectional: bool = False) -> None:
        super().__init__()
        self.rnn = kind(4, 6, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(12 if bidirectional else 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(x)
        return self.head(y[:, -1])


class NextWord(nn.Module):
    """An embedding, two LSTM layers and a logit for each word, at the last place."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 8)
        self.lstm = nn.LSTM(8, 10, num_layers=2, batch_first=True)
        self.head = nn.Linear(10, 30)

    def forward(self, words: Tensor) -> Tensor:
        y, _ = self.lstm(self.embedding(words))
        return self.head(y[:, -1])


class Transformer(nn.Module):
    """A causal transformer block over embedded tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(20, 8), nn.Parameter(0.1 * torch.randn(6, 8))
        self.before, self.after = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.widen, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 20)
        self.register_buffer("mask", torch.triu(torch.ones(6, 6, dtype=torch.bool), 1))

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.tokens(tokens) + self.places
        q, k, v = (
            part.reshape(-1, 6, 2, 4).transpose(1, 2)
            for part in self.qkv(self.before(h)).chunk(3, dim=-1)
        )
        scores = (q @ k.transpose(2, 3) / 2).masked_fill(self.mask, float("-inf"))
        mixed = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(-1, 6, 8)
        h = h + self.out(mixed)
        h = h + self.narrow(F.gelu(self.widen(self.after(h))))
        return self.head(h[:, -1])


class Encoder(nn.Module):
    """Torch's own transformer layer, over continuous features."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(dim=1))


class UNet(nn.Module):
    """Down and up again with a bridge: by transposed convolution, or by upsampling."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.into, self.down = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.up: nn.Module = nn.ConvTranspose2d(8, 4, 2, stride=2)
        if not transposed:
            self.up = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(8, 4, 3, padding=1))
        self.out = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = F.relu(self.into(x))
        coarse = F.relu(self.down(F.max_pool2d(fine, 2)))
        return self.out(torch.cat([fine, self.up(coarse)], dim=1))


class Autoencoder(nn.Module):
    """12 features through 3 and back."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 3))
        self.decode = nn.Sequential(nn.Linear(3, 6), nn.ELU(), nn.Linear(6, 12))

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


class Embedder(nn.Module):
    """An embedding of unit length, for contrastive and cosine losses."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, 16), nn.PReLU(16), nn.Linear(16, 6))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.layers(x), dim=1)


class TwoHeads(nn.Module):
    """A shared trunk, a class and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(8, 12)
        self.kind, self.amount = nn.Linear(12, 3), nn.Linear(12, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.silu(self.trunk(x))
        return self.kind(h), self.amount(h)


class Recommender(nn.Module):
    """Matrix factorisation: two embeddings, their product, and a bias for each."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(12, 4), nn.Embedding(15, 4)
        self.user_bias, self.item_bias = nn.Embedding(12, 1), nn.Embedding(15, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        score = (self.users(user) * self.items(item)).sum(dim=1, keepdim=True)
        return score + self.user_bias(user) + self.item_bias(item)


class Pooled(nn.Module):
    """Attention pooling written with einsum, and instance norm before it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(4, 6, 3), nn.InstanceNorm1d(6, affine=True)
        self.query = nn.Parameter(torch.randn(6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv(x))
        weight = torch.einsum("bct,c->bt", h, self.query).softmax(dim=1)
        return self.head(torch.einsum("bct,bt->bc", h, weight))


class Activations(nn.Module):
    """Every activation that has no module of its own above, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        kinds = (nn.LeakyReLU, nn.SELU, nn.CELU, nn.Softplus, nn.Softsign, nn.Sigmoid, nn.Mish)
        layers: list[nn.Module] = []
        for kind in kinds:
            layers += [nn.Linear(8, 8), kind()]
        self.layers = nn.Sequential(*layers, nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def perceptron() -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 3))


def lenet() -> nn.Module:
    """LeNet-5 in small: average pooling, tanh."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 5, padding=2),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(3, 6, 3),
        nn.Tanh(),
        nn.MaxPool2d(3, stride=2),
        nn.Flatten(),
        nn.Linear(24, 12),
        nn.Tanh(),
        nn.Linear(12, 4),
    )


def dropped() -> nn.Module:
    """A perceptron with dropout, exported as it trains."""
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.25), nn.Linear(16, 3))


def normed() -> nn.Module:
    """Convolutions with batch norm, exported as they train."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 6),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.Linear(6, 3),
    )


@dataclass(frozen=True)
class Case:
    """How to make a module, and the shapes of one example of its inputs; integers are below
    `words`."""

    make: Callable[[], nn.Module]
    inputs: tuple[tuple[int, ...], ...]
    words: int = 0
    training: bool = False
    outputs: tuple[str, ...] = ("out",)


CASES = {
    "perceptron": Case(perceptron, ((6,),)),
    "lenet": Case(lenet, ((1, 14, 14),)),
    "keyword_spotter": Case(KeywordSpotter, ((8, 20),)),
    "inverted_residual": Case(InvertedResidual, ((3, 8, 8),)),
    "squeeze_excite": Case(SqueezeExcite, ((3, 8, 8),)),
    "residual": Case(Residual, ((3, 8, 8),)),
    "convnext": Case(ConvNext, ((3, 8, 8),)),
    "rnn": Case(lambda: Recurrent(nn.RNN), ((7, 4),)),
    "lstm": Case(lambda: Recurrent(nn.LSTM), ((7, 4),)),
    "gru": Case(lambda: Recurrent(nn.GRU), ((7, 4),)),
    "lstm_both_ways": Case(lambda: Recurrent(nn.LSTM, True), ((5, 4),)),
    "next_word": Case(NextWord, ((6,),), words=30),
    "transformer": Case(Transformer, ((6,),), words=20),
    "encoder": Case(Encoder, ((5, 8),)),
    "unet": Case(lambda: UNet(True), ((1, 8, 8),)),
    "unet_upsampled": Case(lambda: UNet(False), ((1, 8, 8),)),
    "autoencoder": Case(Autoencoder, ((12,),)),
    "embedder": Case(Embedder, ((10,),)),
    "two_heads": Case(TwoHeads, ((8,),), outputs=("kind", "amount")),
    "recommender": Case(Recommender, ((), ()), words=12),
    "pooled": Case(Pooled, ((4, 10),)),
    "activations": Case(Activations, ((8,),)),
    "dropped": Case(dropped, ((6,),), training=True),
    "normed": Case(normed, ((2, 4, 4),), training=True),
}
