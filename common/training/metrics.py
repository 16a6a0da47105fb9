"""Metrics of a training run: one JSON object per line in metrics.jsonl, and the same numbers as TensorBoard events.

A line without its newline was cut short by a crash and is ignored. JSON has no NaN or infinity: a number that is not
finite is written as null and read as NaN.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

import msgspec
import numpy as np

from common import json_records
from common.errors import InputError, shown
from common.files import atomic_writer

__all__ = ["EVENTS", "METRICS", "Epochs", "History", "Metrics", "Steps", "read", "read_config", "truncate"]

METRICS = "metrics.jsonl"
EVENTS = "events"

_COUNTS = ("step", "epoch", "correct", "examples")
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _StepRecord(msgspec.Struct, tag_field="kind", tag="step", frozen=True, kw_only=True):
    """A line of metrics.jsonl about one step."""

    step: _Count
    epoch: _Count
    loss: float | None
    learning_rate: float | None
    correct: _Count
    examples: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    seconds: float | None


class _EpochRecord(msgspec.Struct, tag_field="kind", tag="epoch", frozen=True, kw_only=True):
    """A line of metrics.jsonl about one epoch."""

    epoch: _Count
    step: _Count
    training_loss: float | None
    training_accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    images_per_second: float | None
    seconds: float | None


_Record = _StepRecord | _EpochRecord


@dataclass(frozen=True)
class Steps:
    """Metrics of each step, one array per field: loss and accuracy (0 to 1) of the batch before the update."""

    step: np.ndarray
    epoch: np.ndarray
    loss: np.ndarray
    learning_rate: np.ndarray
    accuracy: np.ndarray
    seconds: np.ndarray


@dataclass(frozen=True)
class Epochs:
    """Metrics at the end of each epoch, after `step` steps, one array per field; accuracies from 0 to 1."""

    epoch: np.ndarray
    step: np.ndarray
    training_loss: np.ndarray
    training_accuracy: np.ndarray
    validation_loss: np.ndarray
    validation_accuracy: np.ndarray
    images_per_second: np.ndarray
    seconds: np.ndarray


@dataclass(frozen=True)
class History:
    """A run's folder, configuration and metrics."""

    run: Path
    config: dict[str, Any]
    steps: Steps
    epochs: Epochs


def _failure(action: str, path: Path, error: OSError) -> InputError:
    return InputError(f"cannot {action} {path}: {error.strerror or error}")


def read_config(run: Path) -> dict[str, Any]:
    """Return the contents of a run's config.json. Raises InputError where the folder is not a run."""
    path = run / "config.json"
    try:
        config = json_records.parse(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{run} is not a training run: it has no config.json; give the folder that a training run wrote"
        ) from None
    except OSError as error:
        raise _failure("read", path, error) from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); give the folder that a training run wrote") from error
    if not isinstance(config, dict) or config.get("format") != "rosetta-run":
        raise InputError(f'{path} has no "format": "rosetta-run"; give the folder that a training run wrote')
    if config.get("version") != 1:
        raise InputError(f"{path} is of version {shown(config.get('version'))}; this rosetta reads version 1")
    return config


def _lines(path: Path) -> Iterator[tuple[bytes, _Record]]:
    """Yield each complete line of a metrics file and its record.

    Raises InputError, with the line's number, for a line that is not a record of metrics, or whose step or epoch is
    not after the previous one.
    """
    last: dict[type, int] = {_StepRecord: 0, _EpochRecord: 0}
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return  # a crash cut the last line short
            try:
                record: _StepRecord | _EpochRecord = json_records.build(
                    _StepRecord | _EpochRecord, json_records.parse(line)
                )
                kind, count = ("step", record.step) if isinstance(record, _StepRecord) else ("epoch", record.epoch)
                if count <= last[type(record)]:
                    raise ValueError(f"{kind} {count} follows {kind} {last[type(record)]}; did two runs write here?")
            except ValueError as error:
                raise InputError(f"{path}, line {number}: {error}") from error
            last[type(record)] = count
            yield line, record


def _columns(kind: type[msgspec.Struct], records: Sequence[object]) -> dict[str, np.ndarray]:
    """Return an array for each field of the records of one kind, with NaN for null and for infinity."""
    own = [record for record in records if isinstance(record, kind)]
    columns = {}
    for name in kind.__struct_fields__:
        values = [getattr(record, name) for record in own]
        if name in _COUNTS:
            columns[name] = np.array(values, np.int64)
        else:
            numbers = np.array(values, np.float64)
            columns[name] = np.where(np.isfinite(numbers), numbers, math.nan)
    return columns


def read(run: Path) -> History:
    """Read a run's configuration and metrics, without a last line that a crash cut short.

    Raises InputError for a folder that is not a run, and, with its number, for a line that is not a record of metrics.
    """
    config = read_config(run)
    path = run / METRICS
    try:
        records = [record for _, record in _lines(path)]
    except FileNotFoundError:
        raise InputError(f"{run} has no {METRICS}: training has not started; wait for the first step") from None
    except OSError as error:
        raise _failure("read", path, error) from error
    steps = _columns(_StepRecord, records)
    accuracy = steps.pop("correct") / steps.pop("examples")
    return History(run, config, Steps(accuracy=accuracy, **steps), Epochs(**_columns(_EpochRecord, records)))


def truncate(run: Path, step: int) -> None:
    """Keep the lines of a run's metrics up to and including step `step`, and drop later ones.

    Raises InputError as `read` does, and where the file cannot be written.
    """
    path = run / METRICS
    try:
        kept = [line for line, record in _lines(path) if record.step <= step]
    except OSError as error:
        raise _failure("read", path, error) from error
    with atomic_writer(path) as file:
        file.writelines(kept)


class _Events:
    """A TensorBoard event file; a resumed run writes a new one.

    tensorboardX's SummaryWriter is not used: on a full disk its thread dies and it waits forever, and its file names
    have a resolution of one second, so a run resumed within that second overwrites its own events.
    """

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter

        folder.mkdir(exist_ok=True)
        numbers = [int(match[1]) for path in folder.iterdir() if (match := re.search(r"tfevents\.(\d+)$", path.name))]
        # TensorBoard reads the files of a folder in the order of their names.
        self._file = RecordWriter(str(folder / f"events.out.tfevents.{max(numbers, default=0) + 1:06d}"))
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if purge_step is not None:
            # Makes TensorBoard discard the events of this step and later ones in earlier files.
            start = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=time.time(), step=purge_step, session_log=start))

    def _write(self, event: Any) -> None:
        self._file.write(event.SerializeToString())

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Metrics:
    """Writes a run's metrics, in a `with` statement; a line is in the file when the call that writes it returns.

    `after`: the run resumes after this step, and metrics of later steps are dropped; None: the run is new. Raises
    InputError where a new run's folder already has metrics, and where a file cannot be written.
    """

    def __init__(self, run: Path, after: int | None = None) -> None:
        self._metrics, self._folder = run / METRICS, run / EVENTS
        if not run.is_dir():
            raise InputError(f"cannot write {self._metrics}: there is no folder {run}; create it first")
        if after is not None and self._metrics.exists():
            truncate(run, after)
        try:
            # Unbuffered: otherwise closing would try again to write what could not be written.
            self._file = self._metrics.open("ab", buffering=0)
        except OSError as error:
            raise _failure("write", self._metrics, error) from error
        try:
            if after is None and self._file.tell():
                raise InputError(f"{run} already has metrics; resume that run, or give another folder")
            self._events = _Events(self._folder, None if after is None else after + 1)
        except OSError as error:
            self._file.close()
            raise _failure("write", self._folder, error) from error
        except InputError:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        try:
            self._events.close()
        except OSError as failure:
            if error is None:  # otherwise the first error is reported
                raise _failure("write", self._folder, failure) from failure

    def _write(self, record: _Record, scalars: Mapping[str, float], durable: bool) -> None:
        values = msgspec.to_builtins(record, enc_hook=lambda scalar: scalar.item())  # NumPy's scalars
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        line = (json.dumps(finite) + "\n").encode()
        path = self._metrics
        try:
            while line:
                line = line[self._file.write(line) :]
            if durable:
                os.fsync(self._file.fileno())
            path = self._folder
            self._events.scalars(record.step, {tag: float(value) for tag, value in scalars.items()})
            if durable:
                self._events.flush()
        except OSError as error:
            raise _failure("write", path, error) from error

    def step(
        self,
        *,
        step: int,
        epoch: int,
        loss: float,
        learning_rate: float,
        correct: int,
        examples: int,
        seconds: float,
    ) -> None:
        """Write the metrics of step `step`, counted from 1; `seconds` since the run started."""
        record = _StepRecord(
            step=step,
            epoch=epoch,
            loss=loss,
            learning_rate=learning_rate,
            correct=correct,
            examples=examples,
            seconds=seconds,
        )
        scalars = {"training/loss": loss, "training/accuracy": correct / examples, "learning_rate": learning_rate}
        self._write(record, scalars, durable=False)

    def epoch(
        self,
        *,
        epoch: int,
        step: int,
        training_loss: float,
        training_accuracy: float,
        validation_loss: float,
        validation_accuracy: float,
        images_per_second: float,
        seconds: float,
    ) -> None:
        """Write the metrics of epoch `epoch`, counted from 1; they are on disk when this returns.

        `step`: the last of the epoch; accuracies from 0 to 1; NaN for missing values; `seconds` since the run started.
        """
        record = _EpochRecord(
            epoch=epoch,
            step=step,
            training_loss=training_loss,
            training_accuracy=training_accuracy,
            validation_loss=validation_loss,
            validation_accuracy=validation_accuracy,
            images_per_second=images_per_second,
            seconds=seconds,
        )
        scalars = {"validation/loss": validation_loss, "validation/accuracy": validation_accuracy}
        self._write(record, scalars, durable=True)
