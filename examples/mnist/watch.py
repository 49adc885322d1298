"""What is seen of a run while it goes on: a bar for each, with its last accuracy. Where there is no
terminal to draw on, a line for each that has ended."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from fleet.simulation import Version


class Bar:
    """Of one run."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task
        self._started = time.monotonic()
        self._last = ""

    def version(self, version: Version) -> None:
        """A round has ended."""
        self.at(version.round, version.test)

    def at(self, number: int, test: Mapping[str, float]) -> None:
        """So many rounds, or epochs, are done."""
        says = f"{100 * test['accuracy']:.2f} %"
        self._last = f"{number} done, {says}"
        self._progress.update(self._task, completed=number, says=says)

    @property
    def seconds(self) -> float:
        """Since the start of the run."""
        return time.monotonic() - self._started

    def __str__(self) -> str:
        return f"{self._last}, {self.seconds:.0f} s"


class Watch:
    """Use `shown()` as a context around the runs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} {task.fields[says]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    @contextmanager
    def shown(self) -> Iterator[None]:
        """While it is on the screen."""
        with self._progress:
            yield

    @contextmanager
    def run(self, name: str, rounds: int) -> Iterator[Bar]:
        """A bar for a run of so many rounds at most; it stays as the run left it."""
        task = self._progress.add_task(name, total=rounds, says="")
        yield (bar := Bar(self._progress, task))
        self._progress.stop_task(task)
        if not self._console.is_terminal:
            self._console.print(f"{name}: {bar}")
