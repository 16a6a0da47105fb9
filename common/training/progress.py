"""What is seen of a training run: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from common.training.checkpoints import Position
from common.training.download import Progress
from common.training.evaluation import Evaluation
from common.training.experiment import Experiment

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from common.training.loop import Display

__all__ = ["display", "download"]

_PLAIN_SECONDS = 10
"""How often a line is written within an epoch, away from a terminal."""


class _Lines:
    """Plain lines on standard error: one an epoch, and one every few seconds within."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment

    def begin(self, start: Position, epochs: int, steps: int) -> None:
        self._epochs, self._steps = epochs, steps
        self._start, self._began = start.step, time.monotonic()
        self._written = self._began
        experiment = self._experiment
        verb = f"going on after step {start.step}" if start.step else "beginning"
        self.write(
            f"{experiment.network} in {experiment.backend}, {experiment.dtype}, on {experiment.data}: {verb}, {epochs} "
            f"epochs of {steps} steps of {experiment.batch_size} images"
        )

    def write(self, line: str) -> None:
        click.echo(line, err=True)

    def left(self, position: Position) -> float:
        """Return about how many seconds are left."""
        done, total = position.step - self._start, self._epochs * self._steps
        return (time.monotonic() - self._began) / max(done, 1) * (total - position.step)

    def speed(self, position: Position) -> float:
        """Return the images per second since the run began, or went on."""
        taken = (position.step - self._start) * self._experiment.batch_size
        return taken / max(time.monotonic() - self._began, 1e-9)

    def step(self, position: Position, loss: float) -> None:
        if time.monotonic() - self._written >= _PLAIN_SECONDS:
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
    """A line that moves, on a terminal, with the epochs' lines standing above it."""

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
def display(experiment: Experiment) -> Iterator[Display]:
    """Show a run on standard error, for as long as the context lasts."""
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
def download() -> Iterator[Progress | None]:
    """Give what shows how a download goes: a bar on a terminal, a line for each file elsewhere."""
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
        tasks: dict[str, object] = {}

        def bar(name: str, done: int, size: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=size)
            bars.update(tasks[name], completed=done)  # type: ignore[arg-type]

        yield bar
