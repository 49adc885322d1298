"""Task files that gather statistics: what they need, and what would make their figures wrong."""

import pytest

from coordinator.aggregation import FedAvg
from coordinator.compiler.options.statistics import KMeans, Moments
from coordinator.taskfile import StatisticsFile, TaskFile, TaskFileError, parse
from tests.coordinator.test_taskfile import GOOD as TRAINING

KMEANS = """
name = "kinds"

[statistics]
kind = "kmeans"
shape = [16]
clusters = 8

[round]
goal = 5
"""
MOMENTS = KMEANS.replace('"kmeans"', '"moments"').replace("clusters = 8\n", "")


def refusal(text: str) -> str:
    with pytest.raises(TaskFileError) as caught:
        parse(text, "task.toml")
    return str(caught.value).removeprefix("task.toml: ")


def test_a_short_file_takes_what_is_exact_from_the_defaults():
    task = parse(KMEANS)
    assert isinstance(task, StatisticsFile)
    assert task.statistics == KMeans(input="x", shape=(16,), clusters=8)
    assert (task.training.epochs, task.training.metrics) == (1, ("loss",))
    assert task.aggregation == FedAvg(by="uniform")
    assert (task.round.late, task.upload.lazy) == ("refuse", 0)
    moments = parse(MOMENTS)
    assert isinstance(moments, StatisticsFile)
    assert moments.statistics == Moments(shape=(16,))


def test_a_task_that_trains_a_model_is_what_it_was():
    assert isinstance(parse(TRAINING), TaskFile)


def test_what_is_exact_may_be_said():
    text = KMEANS + "late = 'refuse'\nrounds = 1\n[upload]\ncodec = 'float32'\n"
    text += "[training]\nepochs = 1\nbatch = 99\nmetrics = ['loss']\n"
    parse(text + "[aggregation]\nkind = 'fedavg'\nby = 'uniform'\n[keep]\ntolerance = 1e9\n")
    parse(KMEANS + "[upload]\ncodec = 'auto'")
    parse(MOMENTS + "rounds = 2")


EITHER = "[model], [loss] and [optimizer] say what to train, [statistics] what to gather"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            KMEANS + "[model]\nfile = 'digits.onnx'",
            f"[statistics] and [model]: {EITHER}; a task does one",
        ),
        (
            TRAINING + "[statistics]\nkind = 'moments'\nshape = [4]",
            f"[statistics] and [model], [loss], [optimizer]: {EITHER}; a task does one",
        ),
        (
            'name = "a"\n[round]\ngoal = 5',
            f"nothing to do: {EITHER}; one of them is needed",
        ),
        ('name = "a"\n[model]\nfile = "m.onnx"\n[round]\ngoal = 5', "missing key 'loss'"),
        ("[round]\ngoal = 5", "missing key 'name'"),
        (KMEANS.replace("[statistics]", "[statistics"), "not TOML: "),
    ],
)
def test_a_task_trains_or_gathers(text: str, error: str):
    assert refusal(text).startswith(error)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (
            '"kmeans"',
            '"kmedians"',
            "line 5: statistics.kind = 'kmedians': expected one of 'kmeans', 'moments'",
        ),
        ("clusters = 8", "", "line 4: missing key 'statistics.clusters'"),
        ("shape = [16]", "", "line 4: missing key 'statistics.shape'"),
        (
            "clusters = 8",
            "cluster = 8",
            "line 7: unknown key 'statistics.cluster'; allowed here: kind, input, shape, clusters, "
            "seed, centres",
        ),
        (
            "clusters = 8",
            "clusters = 8\nseed = 3\ncentres = 'c.npy'",
            "line 8: statistics.seed = 3: not beside 'centres'",
        ),
        ("clusters = 8", "clusters = 0", "line 7: statistics.clusters = 0: expected `int` >= 1"),
        ("[16]", "[0]", "line 6: statistics.shape[0] = 0: expected `int` >= 1"),
        ("[16]", "16", "line 6: statistics.shape = 16: expected `array`, got `int`"),
        ("[16]", "[-1]", "line 6: statistics.shape[0] = -1: expected `int` >= 1"),
        (
            "[16]",
            "[4096, 4096]",
            "line 6: statistics.shape = [4096, 4096]: 134,217,728 numbers; at most 16,777,216",
        ),
        (
            "[16]",
            "[1, 1, 1, 1, 1, 1, 1]",
            "line 6: statistics.shape: expected `array` of length <=",
        ),
        (
            "goal = 5",
            "goal = 5\nlate = 'fold'",
            "round.late = 'fold': expected 'refuse': a late update's sums were taken from an older",
        ),
        ("goal = 5", "goal = 5\nlate = 'buffer'", "round.late = 'buffer': expected 'refuse'"),
        ("goal = 5", "goal = 5\nminimum = 6", "round.minimum = 6: at most round.goal (5)"),
        (
            "goal = 5",
            "goal = 5\n[training]\nepochs = 2",
            "training.epochs = 2: expected 1: statistics count each example once",
        ),
        (
            "goal = 5",
            "goal = 5\n[training]\nmetrics = ['loss', 'accuracy']",
            "training.metrics = ['loss', 'accuracy']: expected ['loss']",
        ),
        (
            "goal = 5",
            "goal = 5\n[training]\nproximal = 0.5",
            "training.proximal = 0.5: expected 0",
        ),
        (
            "goal = 5",
            "goal = 5\n[aggregation]\nkind = 'fedavg'",
            "aggregation.by = 'examples': expected 'uniform', as a statistic is a sum over all "
            "devices (without [aggregation] it is that)",
        ),
        (
            "goal = 5",
            "goal = 5\n[aggregation]\nkind = 'median'",
            "aggregation.kind = 'median': expected 'fedavg', as",
        ),
        (
            "goal = 5",
            "goal = 5\n[aggregation]\nkind = 'fedavgm'\nby = 'uniform'",
            "aggregation.kind = 'fedavgm': expected 'fedavg'",
        ),
        (
            "goal = 5",
            "goal = 5\n[aggregation]\nkind = 'fedavg'\nby = 'uniform'\nmax_norm = 5.0",
            "aggregation.max_norm = 5.0: sums that are scaled down are wrong",
        ),
        (
            "goal = 5",
            "goal = 5\n[upload]\ncodec = 'uniform:8'",
            "upload.codec = 'uniform:8': expected 'float32', as others round what they send",
        ),
        (
            "goal = 5",
            "goal = 5\n[upload]\ncodec = 'zip'",
            "upload.codec = 'zip': expected 'float32'",
        ),
        (
            "goal = 5",
            "goal = 5\n[upload]\nbudget = '20 kB'",
            "upload.budget = '20 kB': statistics are always sent as 'float32'",
        ),
        (
            "goal = 5",
            "goal = 5\n[upload]\nlazy = 1.0",
            "upload.lazy = 1.0: expected 0: who says nothing is not counted",
        ),
        ("goal = 5", "goal = 5\n[keep]\ntolerance = inf", "keep.tolerance = inf: must be finite"),
    ],
)
def test_a_bad_file_is_one_clear_error(old: str, new: str, error: str):
    assert KMEANS.count(old) == 1
    assert refusal(KMEANS.replace(old, new)).startswith(error)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("goal = 5", "goal = 5\nrounds = 1", "round.rounds = 1: the variance takes a second round"),
        ("[16]", "[16]\nepsilon = 0", "line 7: statistics.epsilon = 0: expected `float` > 0.0"),
        ("[16]", "[16]\nepsilon = inf", "statistics.epsilon = inf: must be finite"),
        (
            "[16]",
            "[16777217]",
            "line 6: statistics.shape[0] = 16777217: expected `int` <= 16777216",
        ),
    ],
)
def test_bad_moments_are_one_clear_error(old: str, new: str, error: str):
    assert refusal(MOMENTS.replace(old, new)).startswith(error)
