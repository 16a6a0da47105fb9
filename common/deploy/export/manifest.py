"""The manifest of an artifact: what `rosetta export` writes as JSON beside it and `common.deploy.serving` reads."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

__all__ = ["Input", "Manifest", "Output", "Preprocessing", "Verification", "manifest_path"]


@dataclass(frozen=True)
class Preprocessing:
    """How images in [0, 1] become the network's input: subtract `mean` and divide by `std`, per channel.

    With empty tuples, images stay as they are.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    range: tuple[int, int] = (0, 1)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return preprocessed images, (N, C, H, W) -> (N, C, H, W)."""
        if not self.mean:
            return images
        mean, std = (np.asarray(values).reshape(1, -1, 1, 1) for values in (self.mean, self.std))
        return (images - mean) / std


@dataclass(frozen=True)
class Input:
    """The artifact's input. An axis of `shape` is None where it takes any size."""

    name: str
    shape: tuple[int | None, ...]
    layout: Literal["NCHW", "NHWC"]
    dtype: str


@dataclass(frozen=True)
class Output:
    """The artifact's output: logits (N, num_classes)."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Verification:
    """The largest error of a runtime, as a share of the tolerance, on `images` images of the named input.

    `error` and `tolerance` are relative to the reference's largest logit.
    """

    error: float
    tolerance: float
    input: str
    images: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Describes an artifact.

    `path`: the artifact, relative to the manifest's folder. `files`: the SHA-256 of each of its files. `weights`: the
    SHA-256 of the weights file. `server`: the module of `common.deploy.serving` that loads it. `processor`: the
    `machine` and `vectors` that it was compiled for; None if it is portable. `made_by`: versions of what wrote it.
    `made`: UTC, ISO 8601. `verified`: by server. `runtime`: versions of what served it.
    """

    schema: int = 1
    format: str
    dtype: str
    path: str
    files: dict[str, str]
    network: str
    config: dict[str, Any]
    weights: str
    input: Input
    output: Output
    preprocessing: Preprocessing
    server: str
    processor: dict[str, str] | None = None
    backend: str
    made_by: dict[str, str]
    made: str
    verified: dict[str, Verification] | None = None
    runtime: dict[str, str] | None = None

    def record(self) -> dict[str, Any]:
        """Return the manifest as JSON has it: without the fields that are None."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def write(self, path: Path) -> None:
        """Write the manifest as JSON. Raises OSError."""
        path.write_text(json.dumps(self.record(), indent=1) + "\n", encoding="utf-8")


def manifest_path(artifact: Path) -> Path:
    """Return where an artifact's manifest is: beside it."""
    return artifact.with_name(f"{artifact.name}.manifest.json")
