"""Whole models of sequences: each trains on a stock runtime until its loss falls.

Transformers are built of the primitives that exporters write them in.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest

from edge_agent.draws import drawn
from tests.coordinator.compiler.building import (
    FLOAT,
    INT64,
    compiled,
    model,
    node,
    run,
    session,
    task,
    weights,
)
from tests.coordinator.compiler.checking import Gradients
from tests.coordinator.compiler.stepping import start

WORDS, WIDTH, HEADS, STEPS, CLASSES = 7, 8, 2, 5, 3
EACH = WIDTH // HEADS
Nodes = list[onnx.NodeProto]
Arrays = dict[str, np.ndarray]


class Case(NamedTuple):
    """A model, and examples for it with labels that can be told from them."""

    proto: onnx.ModelProto
    examples: Callable[[np.random.Generator, int], Arrays]


def constants(**values: Any) -> Arrays:
    return {name: np.asarray(value) for name, value in values.items()}


# Blocks


def attention(mask: Nodes) -> tuple[Nodes, Arrays]:
    """Self-attention of `h` to `a`; `mask` goes from the scores `s` to `m`.

    Keys have no bias: a softmax takes no notice of it, and its gradient would be but rounding.
    """
    nodes: Nodes = []
    for part, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        bias = "" if part == "k" else f"b_{part}"
        nodes += [
            node("MatMul", f"h w_{part}", f"{part}0"),
            node("Identity" if part == "k" else "Add", f"{part}0 {bias}", f"{part}1"),
            node("Reshape", f"{part}1 apart", f"{part}2"),
            node("Transpose", f"{part}2", part, perm=perm),
        ]
    nodes += [
        node("MatMul", "q k", "s0"),
        node("Div", "s0 root", "s"),
        *mask,
        node("Softmax", "m", "p", axis=-1),
        node("MatMul", "p v", "c0"),
        node("Transpose", "c0", "c1", perm=[0, 2, 1, 3]),
        node("Reshape", "c1 together", "c2"),
        node("MatMul", "c2 w_o", "a"),
    ]
    shapes = {f"w_{part}": (WIDTH, WIDTH) for part in "qkvo"}
    shapes |= {f"b_{part}": (WIDTH,) for part in "qv"}
    fixed = constants(
        apart=[0, STEPS, HEADS, EACH], together=[0, STEPS, WIDTH], root=np.float32(EACH**0.5)
    )
    return nodes, weights(3, **shapes) | fixed


def block(mask: Nodes) -> tuple[Nodes, Arrays]:
    """A transformer block from `h` to `z`: attention, then two dense layers, each normalised."""
    nodes, values = attention(mask)
    nodes += [
        node("Dropout", "a tenth", "a_d"),
        node("Add", "h a_d", "r"),
        node("LayerNormalization", "r g1 o1", "n", axis=-1),
        node("MatMul", "n w_up", "u0"),
        node("Add", "u0 b_up", "u1"),
        # Gelu as torch writes it.
        node("Div", "u1 root2", "e0"),
        node("Erf", "e0", "e1"),
        node("Add", "e1 one", "e2"),
        node("Mul", "u1 e2", "e3"),
        node("Mul", "e3 half", "u"),
        node("MatMul", "u w_down", "d0"),
        node("Add", "d0 b_down", "d1"),
        node("Add", "n d1", "t"),
        node("LayerNormalization", "t g2 o2", "z", axis=-1),
    ]
    values |= weights(
        4, w_up=(WIDTH, 2 * WIDTH), b_up=(2 * WIDTH,), w_down=(2 * WIDTH, WIDTH), b_down=(WIDTH,),
        o1=(WIDTH,), o2=(WIDTH,),
    )  # fmt: skip
    ones = {name: np.ones(WIDTH, np.float32) for name in ("g1", "g2")}
    numbers = constants(
        root2=np.float32(2**0.5), one=np.float32(1), half=np.float32(0.5), tenth=np.float32(0.1)
    )
    return nodes, values | ones | numbers


def embedded(values: Arrays) -> Nodes:
    """Words and their places, as `h`."""
    values |= weights(5, table=(WORDS, WIDTH), places=(STEPS, WIDTH))
    return [node("Gather", "table x", "h0"), node("Add", "h0 places", "h")]


def of_words(nodes: Nodes, values: Mapping[str, np.ndarray], **more: Any) -> onnx.ModelProto:
    return model(nodes, values, inputs={"x": (INT64, ("N", STEPS))} | more)


# Models


def causal_transformer() -> Case:
    """The word after the last: each place sees those before it."""
    hidden = np.triu(np.full((STEPS, STEPS), -1e9, np.float32), 1)
    nodes, values = block([node("Add", "s mask", "m")])
    nodes = [
        *embedded(values),
        *nodes,
        node("Gather", "z last", "l", axis=1),
        node("MatMul", "l w_out", "out"),
    ]
    values |= weights(6, w_out=(WIDTH, WORDS)) | constants(mask=hidden, last=STEPS - 1)
    return Case(of_words(nodes, values), next_words)


def encoder() -> Case:
    """A class for a sequence whose padded places are hidden by Where, and left out of the mean."""
    nodes, values = block([node("Where", "shown s low", "m")])
    nodes = [
        *embedded(values),
        node("Cast", "seen", "seen_b", to=9),
        node("Unsqueeze", "seen_b middle", "shown"),
        *nodes,
        node("Unsqueeze", "seen end", "weight"),
        node("Mul", "z weight", "zw"),
        node("ReduceSum", "zw along", "total", keepdims=0),
        node("ReduceSum", "seen along", "count", keepdims=1),
        node("Div", "total count", "pooled"),
        node("Gemm", "pooled w_out b_out", "out"),
    ]
    values |= weights(6, w_out=(WIDTH, CLASSES), b_out=(CLASSES,))
    values |= constants(middle=[1, 2], end=[2], along=[1], low=np.float32(-1e9))
    proto = of_words(nodes, values, seen=(FLOAT, ("N", STEPS)))
    return Case(proto, padded)


def next_word() -> Case:
    """An LSTM over embedded words; the word that follows."""
    nodes = [
        node("Gather", "table x", "h0"),
        node("Transpose", "h0", "h", perm=[1, 0, 2]),
        node("LSTM", "h w r b", "y", "rec", hidden_size=6),
        node("Squeeze", "y one", "y3"),
        node("Transpose", "y3", "y4", perm=[1, 0, 2]),
        node("Gather", "y4 last", "l", axis=1),
        node("Gemm", "l w_out b_out", "out"),
    ]
    values = weights(
        table=(WORDS, WIDTH), w=(1, 24, WIDTH), r=(1, 24, 6), b=(1, 48), w_out=(6, WORDS),
        b_out=(WORDS,),
    )  # fmt: skip
    return Case(of_words(nodes, values | constants(one=[1], last=-1)), next_words)


def classifier(op: str, directions: int) -> Case:
    """Two recurrent layers, as torch exports them, with dropout between; the last step decides."""
    gates, n = {"LSTM": 4, "GRU": 3}[op], 4
    extra: dict[str, Any] = {"linear_before_reset": 1} if op == "GRU" else {}
    direction = "bidirectional" if directions == 2 else "forward"
    nodes = [node("Transpose", "x", "y0", perm=[1, 0, 2])]
    shapes: dict[str, tuple[int, ...]] = {}
    for i, inputs in ((0, 3), (1, directions * n)):
        nodes += [
            node(op, f"y{i} w{i} r{i} b{i}", f"a{i}", f"rec{i}", hidden_size=n,
                 direction=direction, **extra),
            node("Transpose", f"a{i}", f"t{i}", perm=[0, 2, 1, 3]),
            node("Reshape", f"t{i} flat", f"f{i}"),
            node("Dropout", f"f{i}", f"y{i + 1}"),
        ]  # fmt: skip
        shapes |= {
            f"w{i}": (directions, gates * n, inputs),
            f"r{i}": (directions, gates * n, n),
            f"b{i}": (directions, 2 * gates * n),
        }
    nodes += [
        node("Transpose", "f1", "z", perm=[1, 0, 2]),
        node("Gather", "z last", "l", axis=1),
        node("Gemm", "l v c", "out"),
    ]
    values = weights(**shapes, v=(directions * n, 2), c=(2,))
    values |= constants(flat=[0, 0, -1], last=-1)
    return Case(model(nodes, values, ("N", STEPS, 3)), rising)


# Examples


def next_words(rng: np.random.Generator, count: int) -> Arrays:
    """Words that go up by a step of their own, one or two."""
    first, by = rng.integers(0, WORDS, (count, 1)), rng.integers(1, 3, (count, 1))
    words = (first + by * np.arange(STEPS + 1)) % WORDS
    return {"x": words[:, :-1], "label": words[:, -1]}


def padded(rng: np.random.Generator, count: int) -> Arrays:
    """Words of three kinds, of which a sequence holds one, and any words where it is padded."""
    label = rng.integers(0, CLASSES, count)
    words = 2 * label[:, None] + rng.integers(0, 2, (count, STEPS))
    seen = np.arange(STEPS) < rng.integers(1, STEPS + 1, (count, 1))
    words = np.where(seen, words, rng.integers(0, WORDS, words.shape))
    return {"x": words, "seen": seen.astype(np.float32), "label": label}


def rising(rng: np.random.Generator, count: int) -> Arrays:
    """Sequences that rise, or do not."""
    label = rng.integers(0, 2, count)
    slope = (2 * label - 1)[:, None, None] * np.linspace(-1, 1, STEPS)[:, None]
    noise = rng.normal(size=(count, STEPS, 3), scale=0.3)
    return {"x": (slope + noise).astype(np.float32), "label": label}


CASES: dict[str, Case] = {
    "causal transformer": causal_transformer(),
    "encoder with a mask": encoder(),
    "next word": next_word(),
    "LSTM classifier": classifier("LSTM", 1),
    "LSTM classifier, both directions": classifier("LSTM", 2),
    "GRU classifier": classifier("GRU", 1),
    "GRU classifier, both directions": classifier("GRU", 2),
}


@pytest.mark.parametrize("name", CASES)
def test_it_learns(name: str, tmp_path: Path) -> None:
    """Adam, a new batch at each step, and examples that were never seen to measure."""
    proto, examples = CASES[name]
    optimizer = 'kind = "adamw"\nlearning_rate = 0.03\nweight_decay = 0.0'
    plan = compiled(proto, tmp_path, task("cross_entropy", optimizer, metrics=["accuracy"]))
    rng = np.random.default_rng(0)
    made, now = session(tmp_path / "plan" / "train.onnx"), start(plan)
    losses = []
    for step in range(100):
        feeds = examples(rng, 32) | drawn(plan.manifest.drawn, 0, step, 32)
        found = run(made, {**feeds, **now, "learning_rate": np.float32(0.03)})
        now = {n.removeprefix("next/"): v for n, v in found.items() if n != "loss"}
        losses.append(float(found["loss"]))
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    evaluate = session(tmp_path / "plan" / "evaluate.onnx")
    right = run(evaluate, examples(rng, 200) | now)["metric/accuracy"]
    assert right > 170


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str, tmp_path: Path) -> None:
    proto, examples = CASES[name]
    gradients = Gradients(proto, task(), tmp_path)
    feeds = gradients.examples(3) | examples(np.random.default_rng(1), 3)
    lowered = gradients.lowered(feeds)
    assert all(np.abs(value).max() > 1e-7 for value in lowered.values())
    gradients.check_differences(feeds, lowered)


def test_a_padded_word_changes_nothing(tmp_path: Path) -> None:
    proto, examples = CASES["encoder with a mask"]
    plan = compiled(proto, tmp_path)
    made = session(tmp_path / "plan" / "model.onnx")
    feeds = examples(np.random.default_rng(1), 20)
    before = run(made, feeds | start(plan))["out"]
    feeds["x"] = np.where(feeds["seen"] > 0, feeds["x"], 0)
    np.testing.assert_allclose(run(made, feeds | start(plan))["out"], before, atol=1e-5)


def test_a_later_word_does_not_change_what_comes_before(tmp_path: Path) -> None:
    """Also not its gradient: the table's rows of words that come too late have none."""
    proto, _ = CASES["causal transformer"]
    for made in proto.graph.initializer:
        if made.name == "last":
            made.CopyFrom(onnx.numpy_helper.from_array(np.array(1), "last"))
    gradients = Gradients(proto, task(), tmp_path)
    feeds = gradients.examples(2) | {
        "x": np.array([[0, 1, 5, 5, 6]] * 2),
        "label": np.array([1, 2]),
    }
    found = gradients.lowered(feeds)["table"]
    assert np.abs(found[:2]).max() > 1e-4
    assert (found[2:] == 0).all()
