"""What codecs save: bytes, rounds and milliseconds of 2NN and CNN on MNIST, as FedAvg's paper has
it: 100 devices, ten a round, one epoch in batches of ten.

`LAMPLIGHTER_MNIST` names the folder of the four IDX files; `../shared/data/mnist` beside the
checkout where it is not set.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import coding, mnist
from benchmarks.coding import Coding
from benchmarks.federation import Federation, Method
from benchmarks.plans import compile_plan
from benchmarks.races import Course, Run, run_all
from benchmarks.report import Grid, Row, Section
from benchmarks.results import FLOAT32, course_grid, upload_goals
from benchmarks.runtimes import Runtime
from coordinator.compiler.folder import read_plan_dir
from examples.mnist.data import DEVICES
from wire.checkpoint import Weights
from wire.codecs import DEFAULT

ONE_BIT = "rotate+eden:1"
METHODS = (
    Method(FLOAT32),
    Method("uniform:8"),
    Method(ONE_BIT),
    Method("lowrank:4"),
    Method("mask:1/8+uniform:8"),
    Method("sample:1/8"),
    Method("sample:1/32"),
    Method("sample:1/128"),
    Method("top:1/100+sign"),
)
"""Float32 FedAvg and the default are among them."""
FEW = tuple(Method(codec) for codec in (FLOAT32, DEFAULT, "sample:1/128"))
"""Those that a CNN learns with: a round of it takes ten seconds of a core."""
SEEDS = (1, 2, 3)

_ONE_BIT_ERROR = math.pi / 2 - 1
_DIGITS = 3  # to which a measured error is compared with it: it is a limit, of many weights
_ENCODE_MS, _ENCODE_MODELS, _ADD_MS = 100.0, 3.0, 15.0
_QUICK_ROUNDS = 3

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Setting:
    """A model, how the digits are dealt, and who learns it how often."""

    model: str
    alike: bool
    rate: float
    target: float
    most: int
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]

    def course(self, work: Path, data: Path, most: int) -> Course:
        """With the plan compiled."""
        dealt = "alike" if self.alike else "two labels"
        name = f"{self.model}, {dealt}, to {100 * self.target:.0f} %"
        plan = compile_plan(work, self.model, rate=self.rate)
        return Course(name, plan, data, self.alike, self.target, most)


GOALS = _Setting("2nn", True, 0.2, 0.97, 400, METHODS, SEEDS)
"""What the goals of bytes are of."""
SETTINGS = (
    GOALS,
    _Setting("2nn", False, 0.2, 0.97, 1500, METHODS, SEEDS[:1]),
    _Setting("cnn", True, 0.2, 0.99, 150, FEW, SEEDS[:1]),
    _Setting("cnn", False, 0.1, 0.99, 600, FEW[:2], SEEDS[:1]),
)


def measure(
    work: Path,
    runtimes: list[Runtime],
    quick: bool,
    say: Say,
    models: tuple[str, ...] = ("2nn", "cnn"),
) -> Section:
    """The section. `models` are those whose updates are coded. Raises `mnist.DataMissing`,
    `CompileError`."""
    data = mnist.folder()
    section = Section("Codecs: goals")
    codings = {}
    for model in models:
        codings[model] = _codings(work, data, model, quick, say)
        section.grids.append(_coding_grid(model, codings[model]))
    runs: list[Run] = []
    if quick:
        course = GOALS.course(work, data, _QUICK_ROUNDS)
        runs = run_all([(course, Method(c), 1) for c in (FLOAT32, DEFAULT)], say, workers=1)
        section.grids.append(course_grid(runs))
    else:
        for setting in SETTINGS:
            course = setting.course(work, data, setting.most)
            wanted = [(course, m, seed) for m in setting.methods for seed in setting.seeds]
            made = run_all(wanted, say)
            section.grids.append(course_grid(made))
            runs += made if setting is GOALS else []
    section.rows = [*upload_goals(runs), *_coding_goals(codings)]
    section.notes = _notes(quick)
    return section


def _codings(work: Path, data: Path, model: str, quick: bool, say: Say) -> dict[str, Coding]:
    """Every codec's, of a model."""
    plan = compile_plan(work, model, rate=GOALS.rate)
    parameters = read_plan_dir(plan).manifest.parameters
    say(f"codecs: {model}, updates to code")
    real = _real(plan, data, rounds=0 if quick else {"2nn": 5, "cnn": 1}[model])
    found = {}
    for method in METHODS:
        say(f"codecs: {model}, {method.codec}")
        found[method.codec] = coding.measure(
            method.codec, parameters, real, runs=3 if quick else 10
        )
    return found


def _real(plan: Path, data: Path, rounds: int) -> list[Weights]:
    """What devices learnt: one in the first round, and two of the model some rounds later."""
    with TemporaryDirectory() as folder:
        federation = Federation(plan, data, Method(FLOAT32), Path(folder), alike=True, seed=1)
        found = [federation.send(0, federation.weights).delta]
        for _ in range(rounds):
            federation.round()
        return found + [federation.send(n, federation.weights).delta for n in (1, 2)[: 2 * rounds]]


def _coding_grid(model: str, codings: dict[str, Coding]) -> Grid:
    weights = next(iter(codings.values())).weights
    grid = Grid(
        f"{model}, {weights:,} weights: one update",
        (
            *("codec", "bytes", "bits a weight", "of float32", "encode ms", "memory"),
            *("decode ms", "decode + add ms", "error, Gaussian", "error, real"),
        ),
    )
    grid.rows = [
        (
            *(name, f"{c.size:,.0f}", f"{8 * c.size / c.weights:.2f}", f"1/{c.compression:.1f}"),
            *(f"{c.encode:.1f}", f"{c.memory:.2f}", f"{c.decode:.2f}", f"{c.add:.2f}"),
            *(f"{c.gaussian:.4g}", f"{c.real:.4g}"),
        )
        for name, c in codings.items()
    ]
    return grid


def _coding_goals(codings: dict[str, dict[str, Coding]]) -> list[Row]:
    return [
        *(_one_bit_goal(model, found) for model, found in codings.items()),
        *(_cost_goals(codings["cnn"]) if "cnn" in codings else ()),
    ]


def _one_bit_goal(model: str, codings: dict[str, Coding]) -> Row:
    what, goal = f"{model}: error at 1 bit a weight", f"<= {_ONE_BIT_ERROR:.{_DIGITS}f} (pi/2 - 1)"
    if ONE_BIT not in codings:
        return Row(what, f"not measured: no {ONE_BIT}", "", goal)
    found = codings[ONE_BIT]
    return Row(
        what,
        f"Gaussian {found.gaussian:.4f}, real {found.real:.4f}",
        f"{ONE_BIT}: {8 * found.size / found.weights:.2f} bits a weight",
        goal,
        round(max(found.gaussian, found.real), _DIGITS) <= round(_ONE_BIT_ERROR, _DIGITS),
    )


def _cost_goals(codings: dict[str, Coding]) -> list[Row]:
    """Of the default codec on the CNN."""
    ours, plain = codings[DEFAULT], codings[FLOAT32]
    return [
        Row(
            f"cnn: encode, {DEFAULT}",
            f"{ours.encode:.1f} ms, {ours.memory:.2f} models of memory",
            f"{FLOAT32}: {plain.encode:.1f} ms, {plain.memory:.2f} models",
            f"<= {_ENCODE_MS:.0f} ms, {_ENCODE_MODELS:.0f} models",
            ours.encode <= _ENCODE_MS and ours.memory <= _ENCODE_MODELS,
        ),
        Row(
            f"cnn: decode and add, {DEFAULT}",
            f"{ours.add:.2f} ms",
            f"{FLOAT32}: {plain.add:.2f} ms",
            f"<= {_ADD_MS:.0f} ms",
            ours.add <= _ADD_MS,
        ),
    ]


def _notes(quick: bool) -> list[str]:
    rates = ", ".join(
        f"{s.model} {'alike' if s.alike else 'two labels'} {s.rate:g}" for s in SETTINGS
    )
    return [
        "Our own runtime in one process, without HTTP: the compiled plan trains in ONNX "
        "Runtime, updates are written by edge_agent.reporting, sums and models are "
        "coordinator.aggregation's. FedAvg, SGD with a rate of " + rates + ".",
        f"{DEVICES} devices, 10 a round, E=1, B=10. alike: shuffled; two labels: two of 200 "
        "shards of the digits sorted by label. A codec that is right only in the long run has what "
        "it left out kept on the device and added the next time.",
        "Bytes: header, codec and zstd; median of real updates. float32 FedAvg sends 4 bytes a "
        "weight; the goals are against that, the last column against what ours sends of float32 "
        "(zstd packs the weights of dead pixels). Flower 1.41 sends 835 kB of 2NN's (quoted).",
        "Times: one core, median, from a change of the weights to the bytes and from there into "
        "the sum. Memory: peak of Python and numpy beside the change, in models of 4 bytes a "
        "weight; zstd's own is not seen.",
        "Error: ||Q(x) - x||^2 / ||x||^2, mean; of one update alone, whatever is added later.",
        f"rounds: median [least .. most] of seeds {SEEDS} where there are brackets; of runs that "
        "are given up, the accuracy of the last model, of the worst.",
        *(["Quick: too few rounds to get anywhere."] if quick else []),
    ]
