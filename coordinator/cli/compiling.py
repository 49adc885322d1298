"""From a task file to a plan that was tried, for every command that compiles."""

from pathlib import Path

from coordinator.cli.common import Complaint, err, out, plain
from coordinator.codec_choice import Expectation, TooSmall, expected
from coordinator.compiler.plan import CompiledPlan
from coordinator.plans import codec_of
from coordinator.taskfile import AnyTask, StatisticsFile, TaskFile, TaskFileError
from schedules.duration import human
from wire.plan import Manifest
from wire.sizes import human_size


def compiled(task: TaskFile | StatisticsFile, file: Path) -> CompiledPlan:
    """The plan of a task, whose own files' paths are seen from the task file."""
    from coordinator.compiler.compile import compile_beside  # slow to import

    return compile_beside(task, file.parent)


def tried(task: AnyTask, plan: CompiledPlan) -> tuple[str, ...]:
    """Warnings of the plan and of its dry run. Raises `CompileError`."""
    from coordinator.compiler.dry_run import dry_run

    return plan.warnings + dry_run(plan, learns(task))


def learns(task: AnyTask) -> bool:
    """Whether the task has a loss, which is to fall: other kinds of tasks may have none."""
    return isinstance(task, TaskFile)


def updates(task: AnyTask, manifest: Manifest) -> tuple[str, Expectation]:
    """The codec of updates, and what they cost. Raises `TaskFileError` where none fits."""
    try:
        codec = codec_of(task, manifest)
    except TooSmall as error:
        raise TaskFileError(f"upload.budget: {error}") from None
    return codec, expected(codec, manifest.parameters)


def upload_line(task: AnyTask, manifest: Manifest) -> str:
    """How updates are coded, and what that costs: bytes, and the error to expect of one update."""
    codec, found = updates(task, manifest)
    return (
        f"updates are coded as {codec}: about {human_size(found.bytes)} each, "
        f"{4 * manifest.weights / found.bytes:.3g} times less than float32; expect "
        f"|error|^2 of about {found.error:.2g} |change|^2 in one (on made-up, normal changes)"
    )


def estimate_line(plan: CompiledPlan) -> str | None:
    """What a round costs a device, in one line; None where nothing can be told."""
    from coordinator.compiler.errors import CompileError
    from coordinator.compiler.estimate import EXAMPLES, estimate

    try:
        found = estimate(plan.manifest, plan.files)
    except CompileError:
        return None  # the plan's warnings say so
    boards = "; ".join(f"{on.board}: {spread(on.round)}" for on in found.boards)
    return (
        f"a round of {EXAMPLES} examples, estimated, on one thread: {boards}; "
        f"{human_size(found.memory.total)} of memory beyond the runtime's own"
    )


def spread(seconds: tuple[float, float]) -> str:
    """A range of times."""
    best, worst = (_time(s) for s in seconds)
    return best if best == worst else f"{best} to {worst}"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.1g} ms" if seconds < 0.01 else human(float(f"{seconds:.2g}"))


def warn(warnings: tuple[str, ...]) -> None:
    """Say each on standard error."""
    for warning in warnings:
        line = " ".join(warning.split())
        err.print("[yellow]warning:[/]", plain(line), highlight=False)


def say_estimate(plan: CompiledPlan) -> None:
    """Print the one line, if there is one."""
    if line := estimate_line(plan):
        out.print(plain(f"  {line}"))


def check_folder(output: Path) -> None:
    """Raise `Complaint` if this cannot be a plan's folder, before anything is compiled."""
    if output.exists() and not output.is_dir():
        raise Complaint(f"--output {output}: there is a file of that name; name a folder")
