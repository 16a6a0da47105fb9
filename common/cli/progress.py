"""Progress on standard error: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from common.training.checkpoints import Position
    from common.training.download import Progress
    from common.training.evaluation import Evaluation
    from common.training.experiment import Experiment
    from common.training.loop import Display

__all__ = ["download_progress", "show_progress", "training_progress", "with_progress"]

_LINE_INTERVAL = 10
"""Seconds between lines within an epoch, where standard error is not a terminal."""


def _print_quarters(name: str, done: int, total: int) -> None:
    """Print a line after each quarter of a backend's work."""
    if done == total or done * 4 // total > (done - 1) * 4 // total:
        click.echo(f"{_label(name)}: {done} of {total}", err=True)


def _label(backend: str) -> str:
    return "reference" if backend == "numpy" else backend


def with_progress(work: Callable[[Callable[[str, int, int], None]], Any], backends: Sequence[str]) -> Any:
    """Return `work(progress)`, and show the progress of each backend; `progress` takes a backend, done and total."""
    with show_progress(backends) as (progress, _):
        return work(progress)


@contextmanager
def show_progress(
    backends: Sequence[str],
) -> Iterator[tuple[Callable[[str, int, int], None], Callable[[Callable[[], None]], None]]]:
    """Show the progress of each backend. Gives two functions: `progress(backend, done, total)`, and one that prints.

    The second calls what it is given while no bars are on the screen.
    """
    if not sys.stderr.isatty():
        yield _print_quarters, lambda output: output()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {name: bars.add_task(_label(name), total=None) for name in backends}

        def without_bars(output: Callable[[], None]) -> None:
            bars.stop()
            output()
            bars.start()

        yield lambda name, done, total: bars.update(tasks[name], completed=done, total=total), without_bars


class _Lines:
    """Training progress as plain lines: one per epoch, and one every few seconds within an epoch."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment

    def begin(self, start: Position, epochs: int, steps: int) -> None:
        self._epochs, self._steps = epochs, steps
        self._start, self._began = start.step, time.monotonic()
        self._written = self._began
        experiment = self._experiment
        action = f"resuming after step {start.step}" if start.step else "training"
        self.write(
            f"{experiment.network} in {experiment.backend}, {experiment.dtype}, on {experiment.data}: {action}, "
            f"{epochs} epochs of {steps} steps of {experiment.batch_size} images"
        )

    def write(self, line: str) -> None:
        click.echo(line, err=True)

    def left(self, position: Position) -> float:
        """Return the estimated time left, in seconds."""
        done, total = position.step - self._start, self._epochs * self._steps
        return (time.monotonic() - self._began) / max(done, 1) * (total - position.step)

    def speed(self, position: Position) -> float:
        """Return the images per second since the run started or resumed."""
        taken = (position.step - self._start) * self._experiment.batch_size
        return taken / max(time.monotonic() - self._began, 1e-9)

    def step(self, position: Position, loss: float) -> None:
        if time.monotonic() - self._written >= _LINE_INTERVAL:
            self._written = time.monotonic()
            self.write(
                f"epoch {position.epoch}/{self._epochs}, step {position.step}: loss {loss:.4f}, accuracy "
                f"{position.correct / position.examples:.2%}, {self.speed(position):,.0f} images/s, "
                f"{self.left(position):.0f} s left"
            )

    def epoch(self, position: Position, training: tuple[float, float], validation: Evaluation, speed: float) -> None:
        self._written = time.monotonic()
        self.write(
            f"epoch {position.epoch}/{self._epochs}, step {position.step}: loss {training[0]:.4f}, accuracy "
            f"{training[1]:.2%}; validation loss {validation.loss:.4f}, accuracy {validation.accuracy:.2%}; "
            f"{speed:,.0f} images/s, {self.left(position):.0f} s left"
        )

    def warn(self, message: str) -> None:
        self.write(f"rosetta: {message}")


class _Live(_Lines):
    """Training progress on a terminal: a live bar below one line per epoch."""

    def __init__(self, experiment: Experiment, bars: Bars) -> None:
        super().__init__(experiment)
        self._bars = bars

    def write(self, line: str) -> None:
        self._bars.console.print(line, markup=False, highlight=False)

    def begin(self, start: Position, epochs: int, steps: int) -> None:
        super().begin(start, epochs, steps)
        self._task = self._bars.add_task("", total=epochs * steps, completed=start.step, numbers="", epoch="1")

    def step(self, position: Position, loss: float) -> None:
        self._bars.update(
            self._task,
            completed=position.step,
            epoch=f"{position.epoch}/{self._epochs}",
            numbers=f"loss {loss:.4f}  accuracy {position.correct / position.examples:.2%}  "
            f"{self.speed(position):,.0f} images/s",
        )


@contextmanager
def training_progress(experiment: Experiment) -> Iterator[Display]:
    """Show the progress of a training run on standard error while the context lasts."""
    if not sys.stderr.isatty():
        yield _Lines(experiment)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4) as bars:
        yield _Live(experiment, bars)


@contextmanager
def download_progress() -> Iterator[Progress | None]:
    """Yield a callback that shows downloads: a bar on a terminal, one line per file elsewhere."""
    if not sys.stderr.isatty():
        seen: set[str] = set()

        def line(name: str, _: int, size: int) -> None:
            if name not in seen:
                seen.add(name)
                click.echo(f"downloading {name}, {size / 1e6:.1f} MB", err=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def bar(name: str, done: int, size: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=size)
            bars.update(tasks[name], completed=done)

        yield bar
