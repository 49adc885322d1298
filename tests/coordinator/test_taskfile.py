"""The task file: good ones are read, each bad one is one clear error."""

import math

import pytest

from coordinator.taskfile import TASK_FILE_LIMIT, TaskFileError, load, parse

GOOD = """
name = "digits"

[model]
file = "digits.onnx"

[loss]
kind = "cross_entropy"

[optimizer]
kind = "sgd"
learning_rate = 0.1

[round]
goal = 5
"""

SCHEDULE = """
[schedule]
round_deadline = "1h"
check_in = "5m"

[[schedule.windows]]
start = "22:00"
end = "06:00"
"""


def refusal(text: str) -> str:
    with pytest.raises(TaskFileError) as caught:
        parse(text, "digits.toml")
    return str(caught.value).removeprefix("digits.toml: ")


def test_a_short_file_takes_the_rest_from_the_defaults():
    task = parse(GOOD)
    assert (task.name, task.round.goal, task.upload.codec) == ("digits", 5, "auto")
    assert task.deadline == 600  # that of the schedule 'continuous'


def test_a_new_model_must_be_as_good_unless_the_task_tolerates_less():
    assert parse(GOOD).keep.tolerance == 0
    assert parse(GOOD + "[keep]\ntolerance = 0.01").keep.tolerance == 0.01


def test_training_is_plain_unless_the_task_asks_for_a_proximal_term():
    assert parse(GOOD).training.proximal == 0
    assert parse(GOOD + "[training]\nproximal = 0.01").training.proximal == 0.01


def test_personal_models_are_made_only_where_the_task_asks_for_them():
    assert parse(GOOD).personal is None
    short = parse(GOOD + "[personal]").personal
    assert (short.epochs, short.learning_rate, short.weights) == (1, None, ("*",))
    long = 'epochs = 3\nlearning_rate = 0.05\nweights = ["head.*", "scale"]'
    found = parse(f"{GOOD}[personal]\n{long}").personal
    assert (found.epochs, found.learning_rate) == (3, 0.05)
    assert found.weights == ("head.*", "scale")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("epochs = 0", "personal.epochs = 0: expected `int` >= 1"),
        ("learning_rate = 0.0", "personal.learning_rate = 0.0: expected `float` > 0.0"),
        ("learning_rate = inf", "personal.learning_rate = inf: must be finite"),
        ("learning_rate = 1e-60", "personal.learning_rate = 1e-60: float32, which"),
        ("weights = []", "personal.weights: expected `array` of length >= 1"),
        ("rate = 1", "unknown key 'personal.rate'; allowed here: epochs, learning_rate, weights"),
    ],
)
def test_what_personal_models_cannot_be_is_said(keys, says):
    assert says in refusal(f"{GOOD}[personal]\n{keys}")


def test_a_personal_rate_by_which_decay_overshoots_is_refused():
    decay = GOOD.replace("learning_rate = 0.1", "learning_rate = 0.1\nweight_decay = 1.0")
    assert parse(f"{decay}[personal]\nlearning_rate = 1.9")
    assert refusal(f"{decay}[personal]\nlearning_rate = 2.0") == (
        "personal.learning_rate = 2: with it optimizer.weight_decay (1.0) must be below 1, or each "
        "step overshoots by more than the one before it"
    )


def test_statistics_have_no_personal_models():
    text = 'name = "known"\n[statistics]\nkind = "moments"\nshape = [2]\n[round]\ngoal = 2\n'
    assert parse(text)
    assert "personal" in refusal(text + "[personal]")


@pytest.mark.parametrize(
    ("optimizer", "most"),
    [
        ('kind = "sgd"\nlearning_rate = 0.125', 16.0),
        ('kind = "sgd"\nlearning_rate = 0.125\nmomentum = 0.5', 24.0),
    ],
)
def test_a_proximal_term_by_which_sgd_would_diverge_is_an_error(optimizer, most):
    text = GOOD.replace('kind = "sgd"\nlearning_rate = 0.1', optimizer)
    below = math.nextafter(most, 0)
    assert parse(f"{text}[training]\nproximal = {below!r}").training.proximal == below
    said = refusal(f"{text}[training]\nproximal = {most}")
    assert said.startswith(f"training.proximal = {most}: below {most:g} at this")


def test_nesterov_and_decay_leave_less_room_for_a_proximal_term():
    optimizer = 'kind = "sgd"\nlearning_rate = 0.125\nmomentum = 0.5\nnesterov = true'
    text = GOOD.replace('kind = "sgd"\nlearning_rate = 0.1', optimizer + "\nweight_decay = 2.0")
    assert parse(f"{text}[training]\nproximal = 9.99").training.proximal == 9.99
    assert refusal(f"{text}[training]\nproximal = 10.0").startswith(
        "training.proximal = 10.0: below"
    )
    clipped = text.replace("nesterov", "clip_norm = 1.0\nnesterov")
    assert parse(f"{clipped}[training]\nproximal = 100.0").training.proximal == 100


def test_adamw_s_decay_must_leave_something():
    text = GOOD.replace(
        'kind = "sgd"\nlearning_rate = 0.1', 'kind = "adamw"\nweight_decay = 2000.0'
    )
    assert refusal(text).startswith("optimizer.weight_decay = 2000.0: below 2000 at this")


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ("momentum = 0.5\nnesterov = true", "optimizer.nesterov: 'fednova'"),
        (
            "momentum = 0.5\nschedule = { kind = 'linear', over = 'steps' }",
            "optimizer.schedule.over: 'fednova'",
        ),
    ],
)
def test_fednova_knows_plain_momentum_and_steps_of_one_length(lines, error):
    text = GOOD.replace("0.1", f"0.1\n{lines}")
    nova = "[aggregation]\nkind = 'fednova'\nmomentum = 0.5\nmax_steps = 10"
    assert refusal(text + nova).startswith(error)


def test_adamw_takes_any_proximal_term():
    text = GOOD.replace('kind = "sgd"\nlearning_rate = 0.1', 'kind = "adamw"')
    assert parse(text + "[training]\nproximal = 1e6").training.proximal == 1e6


def test_the_rounds_own_deadline_goes_before_the_schedules():
    assert parse(GOOD + "deadline = '90s'").deadline == 90
    assert parse(GOOD + SCHEDULE).deadline == 3600


def test_a_schedule_is_written_out_or_named():
    assert parse(GOOD + SCHEDULE).timing.windows[0].start == "22:00"
    assert parse("schedule = 'nightly'" + GOOD).timing.round_deadline == 7200


def test_late_updates_are_refused_unless_the_task_says_otherwise():
    task = parse(GOOD)
    assert (task.round.late, task.round.max_staleness, task.round.staleness_exponent) == (
        *("refuse", 5),
        0.5,
    )
    for late in ("refuse", "fold", "buffer"):
        task = parse(GOOD + f"late = '{late}'\nmax_staleness = 3\nstaleness_exponent = 1")
        assert (task.round.late, task.round.max_staleness) == (late, 3)


@pytest.mark.parametrize(
    ("table", "kind"),
    [("aggregation", kind) for kind in ("fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi")]
    + [("aggregation", kind) for kind in ("median", "trimmed_mean")]
    + [("selection", kind) for kind in ("uniform", "data", "speed", "fair")],
)
def test_each_strategy_has_defaults(table, kind):
    task = parse(GOOD + f"minimum = 5\n[{table}]\nkind = '{kind}'")
    assert type(getattr(task, table)).__struct_config__.tag == kind


def test_fednova_must_be_told_how_many_steps_a_device_does():
    text = GOOD + "[training]\nepochs = 3\nbatch = 8\n[aggregation]\nkind = 'fednova'\n"
    with pytest.raises(TaskFileError) as missing:
        parse(text)
    assert str(missing.value) == (
        "task file: aggregation.max_steps: 'fednova' needs it, since a device that claims more "
        "steps than it did lengthens the step of all: write training.epochs x the examples of a "
        "device / training.batch; with 500 examples, max_steps = 189"
    )
    assert parse(text + "max_steps = 189").aggregation.max_steps == 189


SCAFFOLD = """
name = "digits"
[model]
file = "digits.onnx"
[loss]
kind = "cross_entropy"
[optimizer]
kind = "sgd"
learning_rate = 0.1
[training]
epochs = 3
[round]
goal = 5
[upload]
codec = "float16"
[aggregation]
kind = "scaffold"
devices = 100
max_steps = 30
"""


def test_scaffold_has_its_keys_and_its_codec():
    task = parse(SCAFFOLD)
    assert (task.aggregation.devices, task.aggregation.learning_rate) == (100, 1.0)
    assert (task.adds_up, task.looks_at_each) == (True, False)
    assert parse(SCAFFOLD.replace("float16", "auto")).upload.codec == "auto"


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("devices = 100\n", "", "line 16: missing key 'aggregation.devices'"),
        ("devices = 100", "devices = 4", "aggregation.devices = 4: at least round.goal (5)"),
        ("devices = 100", "devices = 0", "line 18: aggregation.devices = 0: expected `int` >= 1"),
        ("max_steps = 30", "", "aggregation.max_steps: 'scaffold' needs it, since a device"),
        ("0.1", "0.1\nmomentum = 0.9", "optimizer: aggregation.kind = 'scaffold' corrects the"),
        ("sgd", "adamw", "optimizer: aggregation.kind = 'scaffold' corrects the gradients of pl"),
        ("epochs = 3", "proximal = 0.1", "training.proximal = 0.1: expected 0, since aggregation"),
        ("goal = 5", "goal = 5\nlate = 'fold'", "round.late = 'fold': expected 'refuse', since"),
        ("goal = 5", "goal = 5\nlate = 'buffer'", "round.late = 'buffer': expected 'refuse', si"),
        ("[upload]", "[upload]\nlazy = 1.0", "upload.lazy = 1.0: expected 0, since aggregation."),
        ("float16", "uniform:8", "upload.codec = 'uniform:8': expected auto, float32, float16 or"),
        ("float16", "top:1/9", "upload.codec = 'top:1/9': expected auto, float32, float16 or rot"),
        ("float16", "lowrank:4", "upload.codec = 'lowrank:4': expected auto, float32, float16 or"),
    ],
)
def test_what_scaffold_cannot_work_with_is_one_clear_error(old, new, error):
    assert SCAFFOLD.count(old) == 1
    assert refusal(SCAFFOLD.replace(old, new)).startswith(error)


@pytest.mark.parametrize("kind", ["krum", "multi_krum"])
def test_krum_takes_as_few_updates_as_it_can_combine(kind):
    text = GOOD + f"minimum = 3\n[aggregation]\nkind = '{kind}'"
    assert parse(text).round.minimum == 3


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('name = "digits"', "", "missing key 'name'"),
        (
            '"digits"',
            '"Digits!"',
            "line 2: name = 'Digits!': expected lower-case letters, digits and hyphens "
            "(63 at most, no hyphen first)",
        ),
        ('file = "digits.onnx"', "", "line 4: missing key 'model.file'"),
        (
            'file = "digits.onnx"',
            'file = "a"\nfreeze = ["b"]',
            "line 6: unknown key 'model.freeze'; allowed here: file, frozen",
        ),
        (
            '"cross_entropy"',
            '"focal"',
            "line 8: loss.kind = 'focal': expected one of 'cross_entropy', 'bce', 'mse', 'l1', ",
        ),
        (
            'kind = "sgd"',
            'kind = "adam"',
            "line 11: optimizer.kind = 'adam': expected one of 'sgd', 'adamw'",
        ),
        (
            'kind = "sgd"',
            "",
            "line 10: missing key 'optimizer.kind'; expected one of 'sgd', 'adamw'",
        ),
        (
            'kind = "sgd"',
            'kind = "sgd"\nbeta1 = 0.9',
            "line 12: unknown key 'optimizer.beta1'; allowed here: kind, clip_norm, schedule, "
            "learning_rate, momentum, nesterov, weight_decay",
        ),
        ("0.1", "0", "line 12: optimizer.learning_rate = 0: expected `float` > 0.0"),
        ("0.1", "-0.1", "line 12: optimizer.learning_rate = -0.1: expected `float` > 0.0"),
        ("0.1", "1e300", "optimizer.learning_rate = 1e+300: float32"),
        ("0.1", "1e-60", "optimizer.learning_rate = 1e-60: float32"),
        (
            "0.1",
            "0.1\nmomentum = 0.99999999999",
            "optimizer.momentum = 0.99999999999: is 1 in float32",
        ),
        ("0.1", "0.1\nclip_norm = 0", "line 13: optimizer.clip_norm = 0: expected `float` > 0.0"),
        ("0.1", "0.1\nclip_norm = -1.0", "line 13: optimizer.clip_norm = -1.0: expected `float` >"),
        ("0.1", "0.1\nclip_norm = 1e39", "optimizer.clip_norm = 1e+39: float32"),
        ("0.1", "0.1\nnesterov = true", "optimizer.nesterov: needs an optimizer.momentum above 0"),
        ("0.1", "0.1\nweight_decay = 20.0", "optimizer.weight_decay = 20.0: below 20 at this"),
        ("0.1", "0.1\nschedule = 'cosine'", "line 13: optimizer.schedule = 'cosine': expected"),
        (
            "0.1",
            "0.1\nschedule = { kind = 'wave' }",
            "line 13: optimizer.schedule.kind = 'wave': expected one of 'constant', 'step'",
        ),
        (
            "0.1",
            "0.1\nschedule = { kind = 'linear' }",
            "optimizer.schedule.length: needed, since round.rounds = 0 says no end",
        ),
        (
            "0.1",
            "0.1\nschedule = { kind = 'step', every = 0 }",
            "line 13: optimizer.schedule.every = 0: expected `int` >= 1",
        ),
        (
            "0.1",
            "0.1\nschedule = { kind = 'exponential', factor = 1.5 }",
            "line 13: optimizer.schedule.factor = 1.5: expected `float` <= 1.0",
        ),
        (
            "0.1",
            "0.1\nschedule = { kind = 'cosine', over = 'steps', length = 10, warmup = 10 }",
            "optimizer.schedule.warmup = 10: below optimizer.schedule.length (10)",
        ),
        (
            "0.1\n\n[round]",
            "0.1\nschedule = { kind = 'constant', warmup = 6 }\n[round]\nrounds = 5",
            "optimizer.schedule.warmup = 6: below round.rounds (5)",
        ),
        ("0.1", "nan", "line 12: optimizer.learning_rate = nan: expected `float` > 0.0"),
        ("0.1", "inf", "optimizer.learning_rate = inf: must be finite"),
        ("0.1", "'0.1'", "line 12: optimizer.learning_rate = '0.1': expected `float`, got `str`"),
        (
            "0.1",
            "0.1\nmomentum = 1.0",
            "line 13: optimizer.momentum = 1.0: expected `float` < 1.0",
        ),
        ("goal = 5", "", "line 14: missing key 'round.goal'"),
        ("goal = 5", "goal = 0", "line 15: round.goal = 0: expected `int` >= 1"),
        ("goal = 5", "goal = 5.5", "line 15: round.goal = 5.5: expected `int`, got `float`"),
        ("goal = 5", "goal = true", "line 15: round.goal = True: expected `int`, got `bool`"),
        ("goal = 5", "goal = 5\nminimum = 6", "round.minimum = 6: at most round.goal (5)"),
        (
            "goal = 5",
            "goal = 5\ndeadline = 90",
            "line 16: round.deadline = 90: expected a duration such as '30s', '15m', '1h30m' "
            "or '2d'",
        ),
        (
            "goal = 5",
            "goal = 5\ndeadline = '90 sec'",
            "line 16: round.deadline = '90 sec': expected a duration such as '30s', '15m', "
            "'1h30m' or '2d'",
        ),
        ("goal = 5", "goal = 5\ndeadline = '0s'", "round.deadline = 0 ms: from 1 s to 30 days"),
        ("goal = 5", "goal = 5\ndeadline = '31d'", "round.deadline = 31 d: from 1 s to 30 days"),
        (
            "goal = 5",
            "goal = 5\nover_selection = 0.5",
            "line 16: round.over_selection = 0.5: expected `float` >= 1.0",
        ),
        (
            "goal = 5",
            "goal = 5\nlate = 'wait'",
            "line 16: round.late = 'wait': expected one of 'refuse', 'fold', 'buffer'",
        ),
        (
            "goal = 5",
            "goal = 5\nmax_staleness = 0",
            "line 16: round.max_staleness = 0: expected `int` >= 1",
        ),
        (
            "goal = 5",
            "goal = 5\nmax_staleness = 1001",
            "line 16: round.max_staleness = 1001: expected `int` <= 1000",
        ),
        (
            "goal = 5",
            "goal = 5\nstaleness_exponent = -0.5",
            "line 16: round.staleness_exponent = -0.5: expected `float` >= 0.0",
        ),
        (
            "goal = 5",
            "goal = 5\nstaleness_exponent = inf",
            "round.staleness_exponent = inf: must be finite",
        ),
        (
            "goal = 5",
            "goal = 5\nover_selection_limit = 0.5",
            "line 16: round.over_selection_limit = 0.5: expected `float` >= 1.0",
        ),
        (
            "goal = 5",
            "goal = 5\n[aggregation]\nkind = 'mean'",
            "line 17: aggregation.kind = 'mean': expected one of 'fedavg', 'fedavgm', "
            "'fedadagrad', 'fedadam', 'fedyogi', 'fednova', 'scaffold', 'median', 'trimmed_mean', "
            "'krum', 'multi_krum'",
        ),
        (
            "goal = 5",
            "goal = 5\n[aggregation]\nkind = 'trimmed_mean'\ntrim = 0.5",
            "line 18: aggregation.trim = 0.5: expected `float` < 0.5",
        ),
        (
            "goal = 5",
            "goal = 5\n[aggregation]\nkind = 'median'\nmax_examples = 9",
            "line 18: unknown key 'aggregation.max_examples'",
        ),
        (
            "goal = 5",
            "goal = 5\n[aggregation]\nkind = 'fedadam'\ntau = inf",
            "aggregation.tau = inf: must be finite",
        ),
        (
            "goal = 5",
            "goal = 5\nminimum = 2\n[aggregation]\nkind = 'multi_krum'",
            "round.minimum = 2: at least 3, since aggregation.kind = 'multi_krum' cannot combine "
            "fewer",
        ),
        (
            "goal = 5",
            "goal = 5\n[selection]\nkind = 'fastest'",
            "line 17: selection.kind = 'fastest': expected one of 'uniform', 'data', 'speed', "
            "'fair'",
        ),
        (
            "goal = 5",
            "goal = 5\n[selection]\nkind = 'speed'\nmargin = 0.5",
            "line 18: selection.margin",
        ),
        (
            "goal = 5",
            "goal = 5\n[training]\nmetrics = ['top_1']",
            "line 17: training.metrics[0] = 'top_1': expected loss, accuracy, top_5 (or another",
        ),
        (
            "goal = 5",
            "goal = 5\n[training]\nmetrics = []",
            "line 17: training.metrics: expected `array` of length >= 1",
        ),
        (
            "goal = 5",
            "goal = 5\n[training]\nmetrics = ['rmse']",
            "training.metrics: 'rmse' needs a loss of 'mse', 'l1', 'huber'; this is 'cross_ent",
        ),
        (
            "goal = 5",
            "goal = 5\n[training]\nmetrics = ['loss', 'loss']",
            "training.metrics: a metric is named twice",
        ),
        (
            "goal = 5",
            "goal = 5\n[upload]\ncodec = 'zip'",
            "upload.codec = 'zip': no codec 'zip': known: float32, float16, uniform:B",
        ),
        (
            "goal = 5",
            "goal = 5\n[keep]\ntolerance = -1",
            "line 17: keep.tolerance = -1: expected `float` >= 0.0",
        ),
        (
            "goal = 5",
            "goal = 5\n[training]\nproximal = -1",
            "line 17: training.proximal = -1: expected `float` >= 0.0",
        ),
        (
            "goal = 5",
            "goal = 5\n[training]\nproximal = inf",
            "training.proximal = inf: must be finite",
        ),
        (
            "goal = 5",
            "goal = 5\n[training]\nproximal = nan",
            "line 17: training.proximal = nan: expected `float` >= 0.0",
        ),
        ("goal = 5", "goal = 5\n[keep]\ntolerance = inf", "keep.tolerance = inf: must be finite"),
        (
            "goal = 5",
            "goal = 5\n[aggregation]\nkind = 'fedprox'",
            "line 17: aggregation.kind = 'fedprox': expected one of 'fedavg'",
        ),
        (
            "goal = 5",
            "goal = 5\n[participants]\nlabels = {site = 3}",
            "line 17: participants.labels.site = 3: expected `str`, got `int`",
        ),
        (
            'name = "digits"',
            'name = "digits"\nschedule = "weekly"',
            "schedule = 'weekly': expected one of nightly, hourly, continuous, "
            "or a [schedule] table",
        ),
        (
            "[round]",
            "[rounds]",
            "line 14: unknown key 'rounds'; allowed here: name, training, round",
        ),
        ("[model]", "[model", "not TOML: Expected ']' at the end of a table declaration"),
    ],
)
def test_a_bad_task_file_is_one_clear_error(old, new, error):
    assert GOOD.count(old) == 1
    assert refusal(GOOD.replace(old, new)).startswith(error)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (
            "22:00",
            "25:00",
            "line 22: schedule.windows[0].start = '25:00': expected a time of day such as '01:30'",
        ),
        (
            'end = "06:00"',
            'end = "06:00"\ndays = ["sat", "son"]',
            "line 24: schedule.windows[0].days[1] = 'son': expected one of 'mon', 'tue', 'wed', ",
        ),
        (
            'end = "06:00"',
            'end = "06:00"\ndays = []',
            "line 24: schedule.windows[0].days = []: name some of mon, tue, wed, thu, fri, ",
        ),
        (
            'end = "06:00"',
            'end = "06:00"\nzone = "Mars"',
            "line 24: schedule.windows[0].zone = 'Mars': expected 'local' or a name such as ",
        ),
        ('"5m"', '"5ms"', "line 19: schedule.check_in = 5 ms: from 50 ms to 7 days"),
        ('check_in = "5m"', "", "line 17: missing key 'schedule.check_in'"),
    ],
)
def test_a_bad_schedule_is_one_clear_error(old, new, error):
    assert SCHEDULE.count(old) == 1
    assert refusal(GOOD + SCHEDULE.replace(old, new)).startswith(error)


def test_a_huge_file_is_refused_unread():
    assert "over 1048576 characters" in refusal("#" * (TASK_FILE_LIMIT + 1))


def test_a_key_of_many_parts_is_refused_unread():
    # Of 50,000 parts the parser would make 10 GB.
    assert "a line with over 1000 dots" in refusal(GOOD + "a." * 2000 + "b = 1")


def test_the_error_names_the_file(tmp_path):
    with pytest.raises(TaskFileError, match=r"absent\.toml: cannot be read"):
        load(tmp_path / "absent.toml")
    path = tmp_path / "task.toml"
    path.write_bytes(b"\xff")
    with pytest.raises(TaskFileError, match=r"task\.toml: cannot be read"):
        load(path)
    path.write_text(GOOD)
    assert load(path) == parse(GOOD)


@pytest.mark.parametrize("codec", ["sample:1/8", "mask:1/8", "top:1/100"])
@pytest.mark.parametrize("kind", ["median", "multi_krum"])
def test_a_sampled_update_is_not_for_who_looks_at_single_ones(codec, kind):
    upload, robust = f"[upload]\ncodec = '{codec}'\n", f"[aggregation]\nkind = '{kind}'\n"
    assert refusal(GOOD.replace("goal = 5", "goal = 9\nminimum = 9") + upload + robust) == (
        f"upload.codec = {codec!r}: its updates have most weights unchanged, and "
        f"aggregation.kind = {kind!r} looks at single updates; expected "
        "float32, float16, uniform:B, rotate+eden:B or lowrank:R"
    )
    parse(GOOD + upload)


def test_a_budget_is_for_the_codec_that_is_picked_by_it():
    budget = "[upload]\nbudget = '20 kB'\n"
    assert parse(GOOD + budget).upload.budget == 20_000
    assert refusal(GOOD + budget + "codec = 'float32'\n") == (
        "upload.budget = '20 kB': for upload.codec = 'auto' alone"
    )
