"""The training loop, shared by all backends: batches, schedule, validation, checkpoints, metrics.

A run is determined by its configuration. A step depends only on the weights, the optimizer state and the step number,
so an interrupted run that is resumed ends with the same weights as an uninterrupted one.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol, Self

import numpy as np

from common import weights
from common.backends import registry
from common.backends.protocol import Backend, Trainer
from common.errors import ConfigError, DivergedError, InputError
from common.training import checkpoints, plots
from common.training.batches import Batches
from common.training.checkpoints import Checkpoint, Position
from common.training.datasets import Dataset
from common.training.evaluation import Evaluation, evaluate
from common.training.experiment import CONFIG, Experiment
from common.training.metrics import Metrics

__all__ = ["Display", "Outcome", "train", "training_batches", "validation_batches"]


class Display(Protocol):
    """Receives the progress of a run."""

    def begin(self, start: Position, epochs: int, steps: int) -> None:
        """Called when the run starts or resumes at `start`; an epoch has `steps` steps."""

    def step(self, position: Position, loss: float) -> None:
        """Called after each step."""

    def epoch(self, position: Position, training: tuple[float, float], validation: Evaluation, speed: float) -> None:
        """Called after each epoch with training loss and accuracy, the validation result, and images per second."""

    def warn(self, message: str) -> None:
        """Called with a warning; the run continues."""


@dataclass(frozen=True)
class Outcome:
    """The end of a run: its last checkpoint and position, and whether it was interrupted."""

    checkpoint: Path
    position: Position
    interrupted: bool
    validation: Evaluation | None


def training_batches(experiment: Experiment, dataset: Dataset) -> Batches:
    """Return the training batches: all full, reshuffled in each epoch."""
    return Batches(
        dataset.training,
        experiment.entry.input_shape,
        experiment.batch_size,
        dtype=experiment.dtype,
        mean=experiment.mean,
        std=experiment.std,
        seed=experiment.seed,
        flip=experiment.flip,
        crop=experiment.crop,
    )


def validation_batches(experiment: Experiment, dataset: Dataset) -> Batches:
    """Return the validation batches: all images, in order and without augmentation."""
    return Batches(
        dataset.validation,
        experiment.entry.input_shape,
        min(experiment.batch_size, len(dataset.validation)),
        dtype=experiment.dtype,
        mean=experiment.mean,
        std=experiment.std,
        seed=experiment.seed,
        shuffle=False,
        drop_last=False,
    )


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    """Keep other processes from training in this folder. The lock is released even if the process is killed."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(run / ".lock", timeout=0):
            yield
    except Timeout:
        raise InputError(f"another process is training in {run}; wait for it, or give another folder") from None


def _create(run: Path, experiment: Experiment) -> None:
    """Create the folder of a new run and write its configuration."""
    if (run / CONFIG).exists():
        raise InputError(f"{run} already holds a run; resume it with --resume, or give another folder")
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise InputError(f"{run} is not an empty folder; give the name of a new one")
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create {run}: {error.strerror or error}") from error
    experiment.save(run)


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether SIGINT (Ctrl-C) or SIGTERM came; a second signal ends the process at once."""
    signaled = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield signaled.is_set
        return

    def handle(number: int, _: FrameType | None) -> None:
        signaled.set()
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signaled.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Painter:
    """Redraws the curves after each epoch in a background thread, for at most a tenth of the time."""

    def __init__(self, run: Path, warn: Callable[[str], None]) -> None:
        self._run, self._warn = run, warn
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="curves")
        self._drawing: Future[float] | None = None
        self._next = 0.0

    def _draw(self) -> float:
        start = time.perf_counter()
        plots.draw(self._run)
        return time.perf_counter() - start

    def redraw(self) -> None:
        """Redraw the curves, unless they are being drawn or were drawn just before."""
        if self._drawing is not None:
            if not self._drawing.done():
                return
            self._next = time.perf_counter() + 9 * self._finished(self._drawing)
            self._drawing = None
        if time.perf_counter() >= self._next:
            self._drawing = self._thread.submit(self._draw)

    def _finished(self, drawing: Future[float]) -> float:
        try:
            return drawing.result()
        except InputError as error:
            self._warn(str(error))
            return math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Draw the curves a last time, unless an error such as a full disk ended the run."""
        if self._drawing is not None:
            self._finished(self._drawing)
        if kind is None or issubclass(kind, DivergedError):
            self._finished(self._thread.submit(self._draw))
        self._thread.shutdown()


def _initial(backend: Backend, model: object, experiment: Experiment) -> Mapping[str, np.ndarray]:
    """Return the initial weights of a new run."""
    network = experiment.entry
    if experiment.init == "xavier":
        return weights.initialize(network, "xavier", experiment.seed, experiment.dtype)
    if experiment.init == "native":
        return backend.initial(network, experiment.dtype, experiment.seed)
    return weights.read_for(model, experiment.init).tensors


def _resumed(run: Path, experiment: Experiment, display: Display) -> Checkpoint | None:
    """Return the checkpoint to resume from, or None to start from the beginning."""
    checkpoint, damage = checkpoints.last(run)
    for message in damage:
        display.warn(f"{message}; using the checkpoint before it")
    if checkpoint is None:
        if damage:
            display.warn(f"all checkpoints of {run} are damaged; starting again")
        return None
    network = experiment.entry
    if checkpoint.network.family != network.family or checkpoint.network.config != network.config:
        raise InputError(
            f"{checkpoint.path} is of {checkpoint.network.name} {checkpoint.network.config_json()}; this run is of "
            f"{network.name} {network.config_json()}"
        )
    if {name.partition(".")[0] for name in checkpoint.slots} != set(experiment.optimizer.slots):
        raise InputError(f"{checkpoint.path} was made by another optimizer than {experiment.optimizer.name}")
    return checkpoint


def train(run: Path, experiment: Experiment, dataset: Dataset, display: Display, resume: bool = False) -> Outcome:
    """Train in the folder `run`, from the beginning or, with `resume`, from the last checkpoint.

    Raises DivergedError at the first loss that is not finite, InputError where the folder holds another run or a file
    cannot be written, ConfigError for settings that do not fit the data, BackendError for a missing device.
    """
    training, validation = training_batches(experiment, dataset), validation_batches(experiment, dataset)
    _check(experiment, dataset)
    backend = registry.load(experiment.backend, experiment.device)
    if resume:
        experiment.save(run)
    else:
        _create(run, experiment)
    with _locked(run), _interruptible() as interrupted, ExitStack() as stack:
        model = backend.build(experiment.entry, experiment.dtype)
        checkpoint = _resumed(run, experiment, display) if resume else None
        backend.load(model, checkpoint.weights if checkpoint else _initial(backend, model, experiment))
        trainer = backend.trainer(model, experiment.optimizer, experiment.seed)
        position = Position()
        if checkpoint:
            position = checkpoint.position
            trainer.load_state(checkpoint.slots, position.step)
        metrics = stack.enter_context(Metrics(run, position.step if resume else None))
        painter = stack.enter_context(_Painter(run, display.warn))
        state = _State(run, experiment, backend, model, trainer, metrics, display, interrupted, position)
        display.begin(position, experiment.epochs, len(training))
        return state.learn(training, validation, painter)


def _check(experiment: Experiment, dataset: Dataset) -> None:
    classes = experiment.config["num_classes"]
    if classes != len(dataset.classes):
        raise ConfigError(f"`num_classes` (={classes}) must be {len(dataset.classes)}, the classes of {dataset.name}")
    if (experiment.classes, experiment.mean, experiment.std) != (dataset.classes, dataset.mean, dataset.std):
        raise InputError(
            f"{dataset.name} is not the data that the run started with; give that with --data-dir or --data"
        )


class _State:
    """The state of a run in progress."""

    def __init__(
        self,
        run: Path,
        experiment: Experiment,
        backend: Backend,
        model: object,
        trainer: Trainer,
        metrics: Metrics,
        display: Display,
        interrupted: Callable[[], bool],
        position: Position,
    ) -> None:
        self.run, self.experiment, self.backend, self.model = run, experiment, backend, model
        self.trainer, self.metrics, self.display = trainer, metrics, display
        self.interrupted, self.position = interrupted, position
        self.began = time.perf_counter() - position.seconds

    def learn(self, training: Batches, validation: Batches, painter: _Painter) -> Outcome:
        """Take all remaining steps."""
        experiment, steps = self.experiment, len(training)
        schedule = experiment.schedule.schedule(experiment.learning_rate, experiment.epochs, steps)
        path, evaluation = None, None
        while self.position.epoch <= experiment.epochs:
            began, first = time.perf_counter(), self.position.examples
            with ExitStack() as stack:
                batches = training.epoch(self.position.epoch, self.position.batch)
                stack.callback(batches.close)  # type: ignore[attr-defined]  # a generator
                for batch in batches:
                    rate = schedule.learning_rate(self.position.step)
                    loss, correct = self.trainer.step(batch.images, batch.labels, rate)
                    self.advance(loss, correct, len(batch.labels), rate)
                    if self.interrupted():
                        return Outcome(self.checkpoint(), self.position, True, evaluation)
                    due = self.position.step % (experiment.checkpoint_every or schedule.total) == 0
                    if due and self.position.batch < steps:
                        path = self.checkpoint()
            speed = (self.position.examples - first) / (time.perf_counter() - began)
            evaluation = self.end_epoch(validation, speed)
            path = self.checkpoint()
            painter.redraw()
            if self.interrupted():
                break
        finished = self.position.epoch > experiment.epochs
        return Outcome(path or self.checkpoint(), self.position, not finished, evaluation)

    def advance(self, loss: float, correct: int, examples: int, rate: float) -> None:
        """Record a step."""
        before = self.position
        self.position = dataclasses.replace(
            before,
            step=before.step + 1,
            batch=before.batch + 1,
            loss=before.loss + loss * examples,
            correct=before.correct + correct,
            examples=before.examples + examples,
            seconds=time.perf_counter() - self.began,
        )
        self.metrics.step(
            step=self.position.step,
            epoch=before.epoch,
            loss=loss,
            learning_rate=rate,
            correct=correct,
            examples=examples,
            seconds=self.position.seconds,
        )
        if not math.isfinite(loss):
            raise self.diverged(f"the loss is {loss}", rate)
        self.display.step(self.position, loss)

    def diverged(self, what: str, rate: float) -> DivergedError:
        """Return the error for a loss or weights that are not finite, with the step and the last checkpoint."""
        kept = checkpoints.checkpoints(self.run)
        left = f"the last checkpoint is {kept[0]}" if kept else "there is no checkpoint yet"
        return DivergedError(
            f"the run diverged: {what} at step {self.position.step} (epoch {self.position.epoch}, learning rate "
            f"{rate:g}); {left}; try a smaller --lr, or --clip-norm"
        )

    def end_epoch(self, validation: Batches, speed: float) -> Evaluation:
        """Validate, record the epoch, and advance to the next."""
        evaluation = evaluate(self.trainer.logits, validation.epoch(self.position.epoch))
        done = self.position
        training = (done.loss / done.examples, done.correct / done.examples)
        self.metrics.epoch(
            epoch=done.epoch,
            step=done.step,
            training_loss=training[0],
            training_accuracy=training[1],
            validation_loss=evaluation.loss,
            validation_accuracy=evaluation.accuracy,
            images_per_second=speed,
            seconds=done.seconds,
        )
        self.display.epoch(done, training, evaluation, speed)
        self.position = Position(done.step, done.epoch + 1, seconds=done.seconds)
        return evaluation

    def checkpoint(self) -> Path:
        """Write a checkpoint of the current state."""
        tensors, slots = self.backend.weights(self.model), self.trainer.state()
        for name, array in {**tensors, **slots}.items():
            if not np.isfinite(array).all():
                raise self.diverged(f"{name} holds a NaN or an infinity", math.nan)
        return checkpoints.write(self.run, self.experiment.entry, self.position, tensors, slots, self.experiment.keep)
