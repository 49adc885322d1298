"""The plan's manifest."""

import math

import msgspec
import pytest

from tests.wire.samples import DIGEST, manifest
from wire.digest import digest_of
from wire.errors import Rule, WireError
from wire.plan import (
    MANIFEST_LIMIT,
    Draw,
    Input,
    Manifest,
    Metric,
    Parameter,
    Personal,
    PlanFile,
    Slot,
    parse_manifest,
)


def refusal(data: bytes) -> str:
    with pytest.raises(WireError) as caught:
        parse_manifest(data)
    assert caught.value.code == Rule.BAD_MESSAGE
    return caught.value.detail


def changed(**changes: object) -> bytes:
    """The bytes of a manifest with some keys changed to any value."""
    fields = msgspec.to_builtins(manifest()) | changes
    return msgspec.json.encode(fields, order="deterministic")


def test_a_manifest_comes_back():
    made = manifest(
        inputs=(
            Input(name="image", dtype="float32", shape=(8, 8)),
            Input(name="label", dtype="int64", shape=(), classes=10),
        ),
        state=(Slot(name="w/v", shape=(2, 3), fill=-0.5),),
        metrics=(Metric(name="loss"), Metric(name="rmse", reduce="root_mean")),
        learning_rate=1e-300,
        files={"frozen.bin": PlanFile(digest=DIGEST, bytes=0)} | manifest().files,
    )
    found = parse_manifest(made.to_bytes())
    assert found == made
    assert found.digest() == digest_of(made.to_bytes())


def test_the_same_manifest_is_the_same_bytes():
    files = manifest().files
    backwards = manifest(files={name: files[name] for name in reversed(files)})
    assert backwards.to_bytes() == manifest().to_bytes()


def test_a_tolerance_is_told_only_where_there_is_one():
    """So the manifests of most tasks are what older agents know."""
    without, with_one = manifest(), manifest(tolerance=0.25)
    assert b"tolerance" not in without.to_bytes()
    assert parse_manifest(without.to_bytes()).may_be_worse_by == 0
    assert parse_manifest(with_one.to_bytes()).may_be_worse_by == 0.25
    assert with_one.digest() != without.digest()


def test_a_proximal_term_is_told_only_where_there_is_one():
    without, with_one = manifest(), manifest(proximal=0.5)
    assert b"proximal" not in without.to_bytes()
    found = parse_manifest(with_one.to_bytes())
    assert (found.mu, parse_manifest(without.to_bytes()).mu) == (0.5, 0)
    assert found.bases == {"w": "base/w", "b": "base/b", "scalar": "base/scalar"} | {
        "empty": "base/empty"
    }
    assert without.bases == {}


def test_random_numbers_are_told_only_where_there_are_some():
    draws = (Draw(name="draw/1", shape=(3, 2)),)
    without, with_some = manifest(), manifest(draws=draws)
    assert b"draws" not in without.to_bytes()
    assert parse_manifest(with_some.to_bytes()).drawn == draws
    assert parse_manifest(without.to_bytes()).drawn == ()


def test_a_tensor_with_the_name_of_random_numbers_is_refused():
    one = Draw(name="w", shape=())
    assert refusal(manifest(draws=(one,)).to_bytes()) == (
        "two tensors of the manifest have one name"
    )


def test_laziness_is_told_only_where_there_is_some():
    without, with_some = manifest(), manifest(lazy=0.5)
    assert b"lazy" not in without.to_bytes()
    assert parse_manifest(with_some.to_bytes()).laziness == 0.5
    assert parse_manifest(without.to_bytes()).laziness == 0


def test_what_is_given_is_told_only_where_there_is_some():
    given = (Parameter(name="control/w", shape=(2, 3)),)
    without, with_some = manifest(), manifest(given=given)
    assert b"given" not in without.to_bytes()
    assert without.checkpoint == without.parameters
    found = parse_manifest(with_some.to_bytes())
    assert found.checkpoint == without.parameters + given
    assert found.weights == without.weights
    assert found.checkpoint_limit >= without.checkpoint_limit + 4 * 6


def test_what_a_slot_carries_is_told_only_where_there_is_some():
    slots = (Slot(name="mean", shape=(2,)), Slot(name="own", shape=(2,), carried="mean"))
    made = manifest(state=slots)
    assert made.to_bytes().count(b"carried") == 1
    assert parse_manifest(made.to_bytes()).carries == {"own": "mean"}
    assert manifest().carries == {}


@pytest.mark.parametrize("carried", ["w", "none", "other"])
def test_a_slot_carries_a_slot_of_its_shape(carried):
    slots = (Slot(name="other", shape=(3,)), Slot(name="own", shape=(2,), carried=carried))
    expected = f"slot 'own' carries {carried!r}, which is no slot of its shape"
    assert refusal(manifest(state=slots).to_bytes()) == expected


def personal(**changes: object) -> Manifest:
    """A manifest that asks for personal models."""
    fields = {
        "epochs": 2,
        "learning_rate": 0.05,
        "weights": ("w",),
        "state": (Slot(name="w/velocity_2", shape=(2, 3)),),
        "draws": (Draw(name="draw/9", shape=(3,)),),
    }
    files = manifest().files | {"personal.onnx": PlanFile(digest=DIGEST, bytes=9)}
    return manifest(personal=Personal(**(fields | changes)), files=files)


def test_personal_models_are_told_only_where_there_are_some():
    assert b"personal" not in manifest().to_bytes()
    assert parse_manifest(manifest().to_bytes()).tuning is None
    made = personal()
    assert parse_manifest(made.to_bytes()) == made
    assert made.tuning is made.personal


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"weights": ("w", "none")}, "personal weight 'none' is no parameter"),
        ({"weights": ("w", "w")}, "a personal weight is named twice"),
        ({"weights": ()}, "personal.weights: expected "),
        ({"epochs": 0}, "personal.epochs = 0: expected "),
        ({"learning_rate": 0.0}, "personal.learning_rate = 0.0: expected "),
        ({"state": (Slot(name="w", shape=()),)}, "two tensors of the manifest have one name"),
        (
            {"state": (Slot(name="w/velocity", shape=()),)},
            "two tensors of the manifest have one name",
        ),
        ({"draws": (Draw(name="b", shape=()),)}, "two tensors of the manifest have one name"),
        (
            {"state": (Slot(name="one", shape=(), carried="one"),)},
            "a slot of personal state is carried",
        ),
    ],
)
def test_what_is_said_of_personal_models_is_checked(changes, says):
    assert says in refusal(personal(**changes).to_bytes())


def test_personal_models_need_their_graph_and_their_graph_needs_them():
    without = msgspec.structs.replace(personal(), files=manifest().files)
    assert refusal(without.to_bytes()) == "the manifest names no personal.onnx"
    alone = msgspec.structs.replace(personal(), personal=msgspec.UNSET)
    assert refusal(alone.to_bytes()) == "personal.onnx is there, and nothing said of it"


def test_a_tensor_with_the_name_of_a_base_is_refused_only_where_there_are_bases():
    names = (Parameter(name="w", shape=()), Parameter(name="base/w", shape=()))
    made = manifest(parameters=names)
    assert parse_manifest(made.to_bytes()) == made
    both = manifest(parameters=names, proximal=1.0)
    assert refusal(both.to_bytes()) == "two tensors of the manifest have one name"


def test_labels_that_do_not_count_and_ranges_are_told_only_where_there_are_some():
    plain = Input(name="label", dtype="int64", shape=(), classes=3)
    assert (plain.ignored_label, plain.range) == (None, msgspec.UNSET)
    made = manifest(inputs=(plain,))
    assert not {b"ignored", b"range"} & set(made.to_bytes().split(b'"'))
    both = (
        msgspec.structs.replace(plain, ignored=-100),
        Input(name="target", dtype="float32", shape=(2,), range=(0.0, 1.0)),
    )
    found = parse_manifest(manifest(inputs=both).to_bytes())
    assert [found.inputs[0].ignored_label, found.inputs[1].range] == [-100, (0.0, 1.0)]


def test_a_scalar_metric_is_told_as_it_always_was():
    """So that older agents read the manifests of tasks that they can measure."""
    assert msgspec.json.encode(Metric(name="loss")) == (
        b'{"name":"loss","reduce":"mean","better":"lower"}'
    )


@pytest.mark.parametrize(
    "metric",
    [
        Metric(name="a", reduce="ratio"),
        Metric(name="a", reduce="auc"),
        Metric(name="a", shape=()),
        Metric(name="a", shape=(2, 1)),
        Metric(name="a", reduce="root_mean", shape=(2, 1)),
        Metric(name="a", reduce="ratio", shape=(3, 1)),
        Metric(name="a", reduce="ratio", shape=(2,)),
        Metric(name="a", reduce="ratio", shape=(2, 0)),
        Metric(name="a", reduce="sum_of_ratios", shape=(2, 3, 4)),
        Metric(name="a", reduce="auc", shape=(2,)),
        Metric(name="a", reduce="auc", shape=(2, 1 << 19)),
        Metric(name="a", reduce="auc", shape=(2, 1 << 30, 1 << 30)),
    ],
    ids=str,
)
def test_totals_that_no_reduction_takes_are_refused(metric):
    assert "metric 'a': no " in refusal(manifest(metrics=(metric,)).to_bytes())


@pytest.mark.parametrize(
    "metric",
    [
        Metric(name="a", reduce="ratio", shape=(2, 1)),
        Metric(name="a", reduce="sum_of_ratios", shape=(2, 9)),
        Metric(name="a", reduce="auc", shape=(2, 64)),
        Metric(name="a", reduce="auc", shape=(2, 10, 64), better="higher"),
    ],
    ids=str,
)
def test_totals_come_back(metric):
    made = manifest(metrics=(metric,))
    assert parse_manifest(made.to_bytes()) == made


def test_bytes_that_are_not_canonical_are_refused():
    data = manifest().to_bytes()
    doubled = b'{"batch":10,' + data[1:]
    fields = msgspec.json.decode(data)
    for other in (
        b" " + data,
        doubled,
        msgspec.json.encode(dict(reversed(fields.items()))),
        msgspec.json.encode({k: v for k, v in fields.items() if k != "format"}),
    ):
        assert refusal(other) == "the manifest is not canonical JSON"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"null", "the document = None: expected `object`, got `null`"),
        (changed(sudo=1), "unknown key 'sudo'; allowed here: format, task, inputs, parameters"),
        (changed(format=2), "format = 2: expected one of 1"),
        (changed(task="../../etc"), "task = '../../etc': expected lower-case letters, digits"),
        (changed(inputs=[]), "inputs: expected `array` of length >= 1"),
        (changed(parameters=[]), "parameters: expected `array` of length >= 1"),
        (
            changed(parameters=[{"name": "w", "shape": [2, -1]}]),
            "parameters[0].shape[1] = -1: expected `int` >= 0",
        ),
        (
            changed(parameters=[{"name": "w", "shape": [1] * 9}]),
            "parameters[0].shape: expected `array` of length <= 8",
        ),
        (
            changed(parameters=[{"name": "", "shape": []}]),
            "parameters[0].name = '': expected `str` of length >= 1",
        ),
        (
            changed(inputs=[{"name": "x", "dtype": "object", "shape": []}]),
            "inputs[0].dtype = 'object': expected one of 'float32', 'float64', 'int32', 'int64', ",
        ),
        (changed(metrics=[{"name": "a"}]), "not canonical"),
        (
            changed(metrics=[{"name": "a", "reduce": "sum"}]),
            "metrics[0].reduce = 'sum': expected one of 'mean', 'root_mean'",
        ),
        (changed(batch=0), "batch = 0: expected `int` >= 1"),
        (changed(learning_rate=0), "learning_rate = 0: expected `float` > 0.0"),
        (changed(learning_rate=math.inf), "learning_rate = None: expected `float`, got `null`"),
        (changed(tolerance=0), "tolerance = 0: expected `float` > 0.0"),
        (changed(lazy=0), "lazy = 0: expected `float` > 0.0"),
        (changed(tolerance=math.nan), "tolerance = None: expected `float`, got `null`"),
        (changed(proximal=0), "proximal = 0: expected `float` > 0.0"),
        (changed(proximal=math.inf), "proximal = None: expected `float`, got `null`"),
        (changed(given=[]), "given: expected `array` of length >= 1"),
        (changed(draws=[]), "draws: expected `array` of length >= 1"),
        (changed(draws=None), "draws = None: expected `array`, got `null`"),
        (changed(opset=12), "opset = 12: expected `int` >= 13"),
        (changed(files={}), "the manifest names no train.onnx"),
        (
            changed(files={"../x": {"digest": DIGEST, "bytes": 1}}),
            "files: key '../x': expected one of 'train.onnx', 'evaluate.onnx', 'model.onnx', ",
        ),
        (
            changed(files={"train.onnx": {"digest": "sha256:..", "bytes": 1}}),
            "files.train.onnx.digest = 'sha256:..': expected 'sha256:' and 64 hexadecimal digits",
        ),
        (
            changed(files={"train.onnx": {"digest": DIGEST, "bytes": 10 << 30}}),
            "files.train.onnx.bytes = 10737418240: expected `int` <= 1073741824",
        ),
        (
            manifest(metrics=(Metric(name="loss"), Metric(name="loss"))).to_bytes(),
            "two metrics of the manifest have one name",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_manifest_is_refused(data, error):
    assert error in refusal(data)


@pytest.mark.parametrize("missing", ["train.onnx", "evaluate.onnx", "model.onnx"])
def test_a_plan_without_one_of_its_graphs_is_refused(missing):
    files = {name: file for name, file in manifest().files.items() if name != missing}
    assert refusal(manifest(files=files).to_bytes()) == f"the manifest names no {missing}"


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": (Parameter(name="w", shape=()),) * 2, "state": ()},
        {"parameters": (Parameter(name="image", shape=()),), "state": ()},
        {"state": (Slot(name="w", shape=()),)},
        {"state": (Slot(name="image", shape=()),)},
        {"given": (Parameter(name="w", shape=()),)},
        {"given": (Parameter(name="w/velocity", shape=()),)},
    ],
)
def test_two_tensors_of_one_name_are_refused(changes):
    assert refusal(manifest(**changes).to_bytes()) == "two tensors of the manifest have one name"


def test_a_tensor_with_the_name_of_the_metadata_is_refused():
    made = manifest(parameters=(Parameter(name="__metadata__", shape=()),), state=())
    assert refusal(made.to_bytes()) == "no tensor can be named __metadata__"


@pytest.mark.parametrize(
    "made",
    [
        manifest(inputs=(Input(name="image", dtype="float32", shape=(1 << 31,) * 2),)),
        manifest(parameters=(Parameter(name="w", shape=(1 << 31,) * 8),), state=()),
        manifest(state=(Slot(name="w/v", shape=(0, *(1 << 31,) * 7)),)),
        manifest(given=(Parameter(name="c", shape=(1 << 31, 1 << 10)),)),
        manifest(draws=(Draw(name="noise", shape=(1 << 31, 1 << 10)),)),
        personal(state=(Slot(name="w/own", shape=(1 << 31,) * 8),)),
        personal(draws=(Draw(name="noise", shape=(1 << 31,) * 8),)),
    ],
)
def test_a_tensor_that_fits_nowhere_is_refused(made):
    assert "more elements than any memory holds" in refusal(made.to_bytes())


def test_a_manifest_over_the_limit_is_refused_unread():
    with pytest.raises(WireError) as caught:
        parse_manifest(b"[" * (MANIFEST_LIMIT + 1))
    assert caught.value.code == Rule.TOO_LARGE


def test_sizes_count_elements():
    assert Parameter(name="w", shape=(3, 4)).size == 12
    assert Parameter(name="w", shape=()).size == 1
    assert manifest().weights == 6 + 3 + 1 + 0


def test_a_metric_over_many_examples():
    assert Metric(name="loss").value(6.0, 4) == 1.5
    assert Metric(name="rmse", reduce="root_mean").value(16.0, 4) == 2.0
    assert Metric(name="rmse", reduce="root_mean").value(-1e-9, 4) == 0.0


def test_ratios_leave_out_what_never_was():
    ratio = Metric(name="recall", reduce="ratio", shape=(2, 3))
    assert ratio.value([1.0, 0.0, 3.0, 2.0, 0.0, 4.0], 9) == (0.5 + 0.75) / 2
    assert ratio.value([0.0] * 6, 9) == 0
    both = Metric(name="loss", reduce="sum_of_ratios", shape=(2, 3))
    assert both.value([1.0, 0.0, 3.0, 2.0, 0.0, 4.0], 9) == 0.5 + 0.75
    assert both.value([0.0] * 6, 9) == 0


def test_the_area_under_the_curve_is_the_part_of_pairs_in_order():
    auc = Metric(name="auc", reduce="auc", shape=(2, 3))
    # Positives in the bins 1, 2, 2; negatives in 0, 1, 1, 2.
    won = (1 + 2 / 2) + 2 * (3 + 1 / 2)
    assert auc.value([0, 1, 2, 1, 2, 1], 7) == won / 12
    assert auc.value([0, 0, 3, 4, 0, 0], 7) == 1
    assert auc.value([3, 0, 0, 0, 0, 4], 7) == 0
    assert auc.value([0, 0, 0, 1, 2, 1], 4) == 0.5


def test_the_area_is_a_mean_over_the_classes_that_have_both_kinds():
    auc = Metric(name="auc", reduce="auc", shape=(2, 3, 2))
    positives, negatives = [0, 1, 1, 0, 5, 0], [1, 0, 1, 1, 0, 0]
    assert auc.value(positives + negatives, 9) == (1 + 0.25) / 2
