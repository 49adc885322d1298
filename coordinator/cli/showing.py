"""How a plan is printed."""

from collections.abc import Iterable, Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from coordinator.cli.common import narrow_table, out, plain
from coordinator.cli.compiling import spread
from coordinator.compiler.estimate import EXAMPLES, Estimate, OnBoard
from coordinator.compiler.report import Personal, PlanReport, Tensor
from wire.sizes import human_size

_SHOWN = 40  # parameters, without --all
_NAMES = 8  # personal weights
_OPERATORS = 12  # whose arithmetic is told one by one


def print_plan(report: PlanReport, show_all: bool) -> None:
    """The whole of it, for people."""
    out.print(plain(f"plan of the task {report.task}"), style="bold")
    out.print(plain(f"  {report.digest}, ONNX operator set {report.opset}"))
    _section("goes in: examples", _tensors(report.inputs))
    _section("comes out: the model's outputs", _tensors(report.outputs))
    _section(f"is trained: {report.weights:,} weights", _parameters(report, show_all))
    _section("is done in a round", _lines(_training(report)))
    _section("is fetched", _files(report))
    _section("training graph: operators", _lines([_counts(report.operators)]))
    if report.estimate:
        _section("a step and a round, estimated", _estimate(report.estimate))
        _section(f"{EXAMPLES} examples on one thread", _boards(report.estimate.boards))
    if report.warnings:
        _section("warnings", _lines(report.warnings))


def _section(title: str, *body: RenderableType) -> None:
    out.print()
    out.print(plain(title), style="bold")
    out.print(Group(*body))


def _lines(lines: Iterable[str]) -> Group:
    return Group(*(plain(f"  {line}") for line in lines))


def _tensors(tensors: Iterable[Tensor]) -> Table:
    table = narrow_table(("name", "type", "one example", "what"), ("name", "what"), ())
    for t in tensors:
        what = ["label"] if t.label else []
        what += [f"0 to {t.classes - 1}"] if t.classes else []
        what += ["{:.12g} to {:.12g}".format(*t.range)] if t.range else []
        table.add_row(plain(t.name), t.dtype, _shape(t.shape), ", ".join(what))
    return table


def _parameters(report: PlanReport, show_all: bool) -> Group:
    table = narrow_table(
        ("name", "shape", "weights", "share"), wraps=("name",), numbers=("weights", "share")
    )
    shown = report.parameters if show_all else report.parameters[:_SHOWN]
    for p in shown:
        table.add_row(plain(p.name), _shape(p.shape), f"{p.size:,}", f"{p.share:.1%}")
    rest = len(report.parameters) - len(shown)
    lines = [f"and {rest} more: --all"] if rest else []
    if report.frozen:
        lines.append(f"frozen: {report.frozen:,} numbers of the model stay as they are")
    return Group(table, _lines(lines)) if lines else Group(table)


def _training(report: PlanReport) -> list[str]:
    state = sum(_size(s.shape) for s in report.state)
    lines = [
        f"{_passes(report.epochs)} over a device's examples, in batches of {report.batch}, at a "
        f"learning rate of {report.learning_rate:g}",
        f"the optimiser remembers {state:,} numbers in {len(report.state)} tensors"
        if report.state
        else "the optimiser remembers nothing",
        f"metrics: {', '.join(report.metrics)}; the first decides",
    ]
    if report.personal:
        lines.append(_personal(report.personal))
    return lines + [f"{key}: {value}" for key, value in report.more.items()]


def _personal(found: Personal) -> str:
    names = ", ".join(found.names[:_NAMES])
    more = f" and {len(found.names) - _NAMES} more" if len(found.names) > _NAMES else ""
    return (
        f"a device makes the models that it adopts its own: {_passes(found.epochs)}, in which "
        f"{found.weights:,} weights ({names}{more}) move, at a learning rate of "
        f"{found.learning_rate:g}"
    )


def _passes(epochs: int) -> str:
    return f"{epochs} pass{'es' if epochs > 1 else ''}"


def _files(report: PlanReport) -> Group:
    table = narrow_table(("file", "bytes", "digest"), ("digest",), ("bytes",))
    for f in report.files:
        table.add_row(f.name, f"{f.bytes:,}", f.digest or "each model's own")
    if report.upload is None:
        return Group(table)
    size = human_size(report.upload.bytes)
    return Group(table, _lines([f"sent each round: about {size}, coded as {report.upload.codec}"]))


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {op}" if n > 1 else op for op, n in counts.items())


def _estimate(found: Estimate) -> Group:
    m = found.memory
    by_operator = list(found.flops_by_operator.items())[:_OPERATORS]
    parts = ", ".join(f"{op} {_si(n)}" for op, n in by_operator)
    lines = [
        f"a step on a batch of {found.batch}: {_si(found.flops)} floating-point operations "
        f"({parts})",
        f"{human_size(found.bytes)} read and written by {found.nodes} operators",
        f"a round of {EXAMPLES} examples: {found.steps} steps",
        f"memory beyond the runtime's own: {human_size(m.total)} (weights {human_size(m.weights)}, "
        f"optimiser {human_size(m.state)}, live in a step {human_size(m.live)}, examples "
        f"{human_size(m.examples)}; see docs/coordinator.md)",
    ]
    if found.tuning:
        steps, flops = found.tuning.steps, found.tuning.flops
        lines.append(f"a personal model: {steps} more steps of {_si(flops)} operations")
    if found.unknown:
        lines.append(f"without {found.unknown} tensors whose shapes cannot be told: it is more")
    return _lines(lines)


def _boards(boards: Iterable[OnBoard]) -> Table:
    table = narrow_table(("board", "step", "round", "memory", "fits"), ("board",), ())
    for on in boards:
        limit = f"{human_size(on.needs)} of {human_size(on.limit)}"
        fits = "yes" if on.fits else Text("no", style="red")
        table.add_row(on.board, spread(on.step), spread(on.round), limit, fits)
    return table


def _shape(shape: Iterable[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _size(shape: Iterable[int]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


def _si(number: float) -> str:
    """1.5 G, 340 M, 12 k."""
    for unit, step in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= step:
            return f"{number / step:.3g} {unit}"
    return f"{number:.0f}"
