"""`personal.onnx`: which weights move in it, by what, and what it does not take."""

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from coordinator.compiler.compile import compile_task
from coordinator.compiler.dry_run import dry_run
from coordinator.compiler.errors import CompileError
from coordinator.compiler.estimate import EXAMPLES, Tuning, estimate
from coordinator.compiler.plan import CompiledPlan
from coordinator.compiler.report import report_of
from coordinator.plans import contradictions
from coordinator.taskfile import TaskFile
from edge_agent.examples import Examples
from edge_agent.personal import Tuned, tune
from tests.coordinator.compiler.building import (
    compiled,
    dense,
    model,
    node,
    session,
    task,
    weights,
)
from wire import checkpoint
from wire.digest import digest_of
from wire.plan import Personal, PlanFile, parse_manifest

HEAD = '[personal]\nweights = ["?2"]'
ALL = "[personal]"
MOMENTUM = 'kind = "sgd"\nlearning_rate = 0.1\nmomentum = 0.5'
ADAMW = 'kind = "adamw"\nlearning_rate = 0.01\nclip_norm = 1.0'


def examples(seed: int = 3) -> Examples:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(20, 4)).astype(np.float32)
    return Examples({"x": x, "label": x[:, :3].argmax(axis=1)})


def personal(plan: CompiledPlan) -> Personal:
    assert plan.manifest.tuning is not None
    return plan.manifest.tuning


def tuned(plan: CompiledPlan, folder: Path) -> Tuned:
    initial = checkpoint.read(plan.initial, plan.manifest.checkpoint)
    return tune(
        *(plan.manifest, folder / "plan", initial, examples(), examples(4)),
        threads=1,
        seed=1,
        stop=lambda: False,
    )


def moved(plan: CompiledPlan, folder: Path) -> set[str]:
    """The weights that differ after tuning."""
    initial = checkpoint.read(plan.initial, plan.manifest.checkpoint)
    found = tuned(plan, folder).weights
    assert found.keys() == initial.keys()
    return {name for name in found if (found[name] != initial[name]).any()}


def taken(folder: Path) -> list[str]:
    return [i.name for i in session(folder / "plan" / "personal.onnx").get_inputs()]


@pytest.mark.parametrize("optimizer", [MOMENTUM, ADAMW], ids=["momentum", "adamw"])
def test_only_the_chosen_weights_move(optimizer: str, tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path, task(optimizer=optimizer, rest=HEAD))
    assert personal(plan).weights == ("w2", "b2")
    assert moved(plan, tmp_path) == {"w2", "b2"}
    outputs = {o.name for o in session(tmp_path / "plan" / "personal.onnx").get_outputs()}
    slots = {f"next/{s.name}" for s in personal(plan).state}
    assert outputs == {"loss", "next/w2", "next/b2", *slots}


def test_by_default_all_that_are_trained_move(tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path, task(rest=ALL, frozen=["b1"]))
    assert personal(plan).weights == ("w1", "w2", "b2")
    assert moved(plan, tmp_path) == {"w1", "w2", "b2"}


def test_the_rate_is_its_own_or_the_optimisers_at_its_height(tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path, task(rest=ALL))
    assert (personal(plan).epochs, personal(plan).learning_rate) == (1, 0.1)
    own = task(rest="[personal]\nepochs = 3\nlearning_rate = 0.02")
    assert personal(compiled(dense(), tmp_path, own)).epochs == 3
    assert personal(compiled(dense(), tmp_path, own)).learning_rate == 0.02


def test_nothing_holds_it_near_the_fleet(tmp_path: Path) -> None:
    """A proximal term's graph is that of a task without one."""
    plain = compiled(dense(), tmp_path, task(rest=ALL))
    held = compiled(dense(), tmp_path, task(rest=ALL, proximal=0.5))
    assert held.files["personal.onnx"] == plain.files["personal.onnx"]
    assert held.files["train.onnx"] != plain.files["train.onnx"]


def test_scaffolds_corrections_are_not_in_it(tmp_path: Path) -> None:
    scaffold = '[aggregation]\nkind = "scaffold"\ndevices = 9\nmax_steps = 30\n'
    plan = compiled(dense(), tmp_path, task(rest=scaffold + HEAD))
    assert sorted(taken(tmp_path)) == ["b1", "b2", "label", "learning_rate", "w1", "w2", "x"]
    assert moved(plan, tmp_path) == {"w2", "b2"}


def test_a_schedule_is_not_followed(tmp_path: Path) -> None:
    """Its state is the rate's velocity, as a rate that stays allows."""
    schedule = '\n[optimizer.schedule]\nkind = "cosine"\nover = "steps"'
    plain = compiled(dense(), tmp_path, task(optimizer=MOMENTUM, rest=HEAD))
    scheduled = compiled(dense(), tmp_path, task(optimizer=MOMENTUM + schedule, rest=HEAD))
    assert scheduled.files["personal.onnx"] == plain.files["personal.onnx"]


def test_adapters_are_what_is_tuned(tmp_path: Path) -> None:
    lora = '[model.lora]\nweights = ["w?"]\nrank = 1'
    plan = compiled(dense(), tmp_path, task(model=lora, rest='[personal]\nweights = ["w2/*"]'))
    assert personal(plan).weights == ("w2/lora_a", "w2/lora_b")
    assert moved(plan, tmp_path) == {"w2/lora_a", "w2/lora_b"}


def normed() -> onnx.ModelProto:
    """Two layers, a batch norm after the first; with dropout."""
    nodes = [
        node("Gemm", "x w1 b1", "h", "first"),
        node("BatchNormalization", "h scale bias mean var", "n", "norm"),
        node("Dropout", "n", "d", "drop"),
        node("Gemm", "d w2 b2", "out", "second"),
    ]
    values = weights(w1=(4, 5), b1=(5,), scale=(5,), bias=(5,), mean=(5,), w2=(5, 3), b2=(3,))
    return model(nodes, values | {"var": np.ones(5, np.float32)})


def test_a_head_sees_what_it_sees_in_use(tmp_path: Path) -> None:
    """A batch norm before it keeps its statistics, and moves nothing."""
    spec = task(model='batch_norm = "recomputed"', rest=HEAD)
    plan = compiled(normed(), tmp_path, spec)
    assert personal(plan).weights == ("w2", "b2")
    assert {"mean", "var"} <= set(taken(tmp_path))
    assert moved(plan, tmp_path) == {"w2", "b2"}


def test_statistics_move_when_all_is_chosen(tmp_path: Path) -> None:
    plan = compiled(normed(), tmp_path, task(model='batch_norm = "recomputed"', rest=ALL))
    assert {"mean", "var", "w1", "scale"} <= set(personal(plan).weights)
    assert {"mean", "var", "w1", "scale"} <= moved(plan, tmp_path)


def test_dropout_has_random_numbers_of_its_own(tmp_path: Path) -> None:
    plan = compiled(normed(), tmp_path, task(rest=ALL))
    assert len(personal(plan).draws) == 1
    assert not {d.name for d in personal(plan).draws} & {d.name for d in plan.manifest.drawn}
    assert moved(plan, tmp_path)


def test_large_constants_are_in_the_frozen_file_once(tmp_path: Path) -> None:
    wide = dense(hidden=200, features=4)
    without = compiled(wide, tmp_path, task(frozen=["w1", "b1"]))
    plan = compiled(wide, tmp_path, task(frozen=["w1", "b1"], rest=ALL))
    assert plan.files["frozen.bin"] == without.files["frozen.bin"]
    assert moved(plan, tmp_path) == {"w2", "b2"}


def test_a_task_without_it_has_the_plan_that_it_had(tmp_path: Path) -> None:
    without = compiled(dense(), tmp_path, task(optimizer=MOMENTUM))
    plan = compiled(dense(), tmp_path, task(optimizer=MOMENTUM, rest=ALL))
    assert b"personal" not in without.manifest.to_bytes()
    assert "personal.onnx" not in without.files
    for name, data in without.files.items():
        assert plan.files[name] == data
    assert (plan.manifest.state, plan.initial) == (without.manifest.state, without.initial)


def test_the_same_task_gives_the_same_bytes(tmp_path: Path) -> None:
    spec = task(optimizer=ADAMW, rest=HEAD)
    plan = compiled(dense(), tmp_path, spec)
    assert compile_task(spec, tmp_path / "model.onnx") == plan
    assert parse_manifest(plan.manifest.to_bytes()) == plan.manifest


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (task(rest='[personal]\nweights = ["head.*"]'), r"'head\.\*' matches no weight .* w1, b1"),
        (task(rest='[personal]\nweights = ["w2", "w1"]', frozen=["w1"]), "'w1' matches no weight"),
    ],
    ids=["unknown", "frozen"],
)
def test_a_pattern_that_matches_nothing_is_an_error(
    spec: TaskFile, says: str, tmp_path: Path
) -> None:
    with pytest.raises(CompileError, match=rf"personal\.weights: {says}"):
        compiled(dense(), tmp_path, spec)


def test_statistics_alone_are_nothing_to_tune(tmp_path: Path) -> None:
    rest = '[personal]\nweights = ["mean", "var"]'
    with pytest.raises(CompileError, match="only running statistics are chosen"):
        compiled(normed(), tmp_path, task(model='batch_norm = "recomputed"', rest=rest))


def test_a_sound_one_passes_the_dry_run(tmp_path: Path) -> None:
    for optimizer in (MOMENTUM, ADAMW):
        assert dry_run(compiled(dense(), tmp_path, task(optimizer=optimizer, rest=HEAD))) == ()
    assert dry_run(compiled(normed(), tmp_path, task(rest=ALL))) == ()


def test_one_that_cannot_be_run_does_not(tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path, task(rest=HEAD))
    broken = plan.files | {"personal.onnx": b"nonsense"}
    entry = PlanFile(digest=digest_of(b"nonsense"), bytes=8)
    files = plan.manifest.files | {"personal.onnx": entry}
    manifest = msgspec.structs.replace(plan.manifest, files=files)
    with pytest.raises(CompileError, match=r"cannot run this plan: .*personal\.onnx"):
        dry_run(CompiledPlan(manifest, broken, plan.initial))


def test_it_is_in_the_estimate_and_the_report(tmp_path: Path) -> None:
    two = '[personal]\nepochs = 2\nweights = ["?2"]'
    plan = compiled(dense(), tmp_path, task(rest=two))
    found = estimate(plan.manifest, plan.files)
    assert isinstance(found.tuning, Tuning)
    assert found.tuning.steps == 2 * EXAMPLES // 10
    assert 0 < found.tuning.flops < found.flops  # the first layer has no gradient
    report = report_of(plan)
    assert report.personal is not None
    assert (report.personal.weights, report.personal.names) == (3 * 5 + 3, ("w2", "b2"))
    assert "personal" not in report.more
    without = compiled(dense(), tmp_path, task())
    assert estimate(without.manifest, without.files).tuning is None
    assert report_of(without).personal is None


def test_a_plan_and_a_task_agree_on_it(tmp_path: Path) -> None:
    own = "[personal]\nepochs = 3\nlearning_rate = 0.02"
    with_it, without = task(rest=own), task()
    plan = compiled(dense(), tmp_path, with_it).manifest
    plain = compiled(dense(), tmp_path, without).manifest
    assert contradictions(with_it, plan) == contradictions(without, plain) == []
    assert contradictions(without, plan) == ["personal is None in the task, a table in the plan"]
    assert contradictions(with_it, plain) == ["personal is a table in the task, None in the plan"]
    assert contradictions(task(rest=ALL), plan) == [
        "personal.epochs is 1 in the task, 3 in the plan",
        "personal.learning_rate is 0.1 in the task, 0.02 in the plan",
    ]
