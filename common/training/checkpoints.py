"""Checkpoints of a training run: weights, optimizer state and position, from which it resumes exactly.

A checkpoint is a folder `checkpoints/step-00000120` of

    weights.safetensors     the weights, in the format of every weights file
    optimizer.safetensors   the optimizer's slots, `<slot>.<parameter>`, in canonical layouts (none for plain SGD)
    state.json              the position, and the SHA-256 of both files and of itself

Checkpoints work in every framework. A checkpoint gets its final name when it is complete and on disk; one with a wrong
checksum is not read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from safetensors import SafetensorError

from common import json_records, weights
from common.catalog import Network
from common.errors import InputError, RosettaError, shown
from common.files import map_safetensors, sha256_of, write_safetensors

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FOLDER", "Checkpoint", "Position", "checkpoints", "last", "read", "write"]

FOLDER = "checkpoints"
_PREFIX = "step-"
_FORMAT, _VERSION = "rosetta-checkpoint", 1
_WEIGHTS, _SLOTS = "weights.safetensors", "optimizer.safetensors"


_Count = Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True)
class Position:
    """Position of a run: steps taken, the current epoch, and the batches of that epoch that are done.

    `loss`, `correct` and `examples` are sums over the current epoch; `seconds` is the time since the run began.
    """

    step: _Count = 0
    epoch: _Count = 1
    batch: _Count = 0
    loss: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    correct: _Count = 0
    examples: _Count = 0
    seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0


@dataclass(frozen=True)
class _State:
    """The contents of state.json. `files`: the SHA-256 of each file; `sha256`: of all other fields."""

    format: str
    version: int
    position: Position
    files: dict[str, str]
    sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read from disk, with all checksums verified. `slots`: the optimizer state."""

    path: Path
    network: Network
    position: Position
    weights: Mapping[str, np.ndarray]
    slots: Mapping[str, np.ndarray]


def _own_sha256(state: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all fields of a state but `sha256` itself."""
    rest = {name: value for name, value in state.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(path: Path) -> None:
    """Remove a checkpoint. Renaming it first makes sure that no partial one keeps its name."""
    trash = path.with_name(f".{path.name}.removed")
    with contextlib.suppress(OSError):
        shutil.rmtree(trash, ignore_errors=True)
        path.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def write(
    run: Path,
    network: Network,
    position: Position,
    tensors: Mapping[str, np.ndarray],
    slots: Mapping[str, np.ndarray],
    keep: int,
) -> Path:
    """Write a checkpoint of a run, remove all but the last `keep`, and return the new one's folder.

    Raises WeightsError where a weight is not finite, InputError where the checkpoint cannot be written; the other
    checkpoints are then unchanged.
    """
    folder = run / FOLDER
    path = folder / f"{_PREFIX}{position.step:08d}"
    new = folder / f".{path.name}.new"
    try:
        folder.mkdir(exist_ok=True)
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        weights.write(new / _WEIGHTS, network, tensors)
        if slots:
            write_safetensors(new / _SLOTS, slots)
        state: dict[str, Any] = {
            "format": _FORMAT,
            "version": _VERSION,
            "position": dataclasses.asdict(position),
            "files": {file.name: sha256_of(file) for file in sorted(new.iterdir())},
        }
        state["sha256"] = _own_sha256(state)
        with (new / "state.json").open("w", encoding="utf-8") as file:
            json.dump(state, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        _sync(new)
        if path.exists():  # it is damaged; otherwise the run would have resumed from it
            _discard(path)
        new.rename(path)
        _sync(folder)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    for old in checkpoints(run)[keep:]:
        _discard(old)
    return path


def checkpoints(run: Path) -> list[Path]:
    """Return the folders of a run's checkpoints, the latest first."""
    return sorted((run / FOLDER).glob(f"{_PREFIX}*"), reverse=True)


def _check_slots(slots: Mapping[str, np.ndarray], tensors: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless every trained parameter has each kind of slot, in its shape."""
    trained = [name for name in tensors if not name.rpartition(".")[2].startswith("running_")]
    kinds = dict.fromkeys(slot.partition(".")[0] for slot in slots)
    shapes = {f"{kind}.{name}": tensors[name].shape for kind in kinds for name in trained}
    for name in [*shapes, *slots]:
        shape, expected = slots[name].shape if name in slots else None, shapes.get(name)
        if shape != expected:
            raise ValueError(f"slot {name} has shape {shape}; expected {expected}")


def read(path: Path) -> Checkpoint:
    """Read and verify a checkpoint. Raises InputError or WeightsError for any damage."""
    try:
        record = json_records.parse((path / "state.json").read_bytes())
        if not isinstance(record, dict) or record.get("format") != _FORMAT:
            raise InputError(f'{path}/state.json has no "format": "{_FORMAT}"; give a checkpoint of a training run')
        if record.get("version") != _VERSION:
            raise InputError(f"{path} is of version {shown(record.get('version'))}; this rosetta reads {_VERSION}")
        if record.get("sha256") != _own_sha256(record):
            raise InputError(f"{path}/state.json was altered: its checksum does not match")
        state = json_records.build(_State, record)
        if not {_WEIGHTS} <= state.files.keys() <= {_WEIGHTS, _SLOTS}:
            raise ValueError(f"its files are {shown(list(state.files))}; expected {_WEIGHTS}, {_SLOTS}")
        for name, expected in state.files.items():
            if sha256_of(path / name) != expected:
                raise InputError(f"{path}/{name} was altered: its checksum does not match")
        file = weights.read(path / _WEIGHTS)
        slots = map_safetensors(path / _SLOTS)[1] if _SLOTS in state.files else {}
        _check_slots(slots, file.tensors)
        return Checkpoint(path, file.network, state.position, file.tensors, slots)
    except OSError as error:
        raise InputError(f"{path} is not whole: {error.filename}: {error.strerror or error}") from None
    except RosettaError:
        raise
    except (ValueError, SafetensorError) as error:
        raise InputError(f"{path} is no checkpoint: {error}") from None


def last(run: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the last undamaged checkpoint, or None, and an error message for each damaged one after it."""
    damage: list[str] = []
    for path in checkpoints(run):
        try:
            return read(path), damage
        except RosettaError as error:
            damage.append(str(error))
    return None, damage
