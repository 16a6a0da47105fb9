"""Artifacts: made in the port's environment, run again by whoever would serve them, and written only if they agree."""

from __future__ import annotations

import datetime
import functools
import importlib.resources
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import __version__, reference, weights
from common.backends import launch
from common.catalog import Network
from common.deploy import tolerance
from common.deploy.execution_paths import PATHS
from common.deploy.export import formats
from common.deploy.export.formats import Format, check_any_size
from common.deploy.relative_error import relative_error
from common.errors import BackendError, ConfigError, DisagreementError, InputError, unknown
from common.files import check_writable, sha256_of
from common.images import noise_batch, real_batch

__all__ = ["ExportRequest", "Preprocessing", "artifact", "check", "export", "manifest_path"]

SCHEMA = 1
_LIMIT = 900.0
"""Seconds that making an artifact, or running it once, may take."""
_THREADS = 2

_CALIBRATION_IMAGES = 64
_SEED, _CALIBRATION_SEED = 0, 1
"""What a range was calibrated on must not be what it is judged by."""


@dataclass(frozen=True)
class Preprocessing:
    """How images become the network's input: to [0, 1], less `mean`, by `std`, for each channel of the data."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return images (N, C, H, W) in [0, 1] as the network was trained to have them."""
        if not self.mean:
            return images
        mean, std = (np.asarray(values).reshape(1, -1, 1, 1) for values in (self.mean, self.std))
        return (images - mean) / std


@dataclass(frozen=True)
class ExportRequest:
    """What is to be exported, and how.

    `weights`: a canonical file, which carries its network. `backend`: whose port makes it; None for the format's first.
    `batch`: None for any; `any_size`: whether images of any size are to do. `calibration`: real images (N, C, H, W) in
    [0, 1] that ranges of whole numbers are found on; digits where there are none.
    """

    weights: Path
    format: str
    dtype: str = "float32"
    backend: str | None = None
    batch: int | None = 1
    any_size: bool = False
    preprocessing: Preprocessing = Preprocessing()
    calibration: np.ndarray | None = None

    def check(self, network: Network) -> Format:
        """Return the format. Raises ConfigError for what it cannot express."""
        kind = formats.get(self.format)
        if self.backend is not None and self.backend not in kind.makers:
            raise ConfigError(f"--backend {self.backend}: {kind.name} is made by {_either(kind.makers)}")
        if self.dtype not in kind.dtypes:
            able = [each.name for each in formats.FORMATS.values() if self.dtype in each.dtypes]
            if not able:
                raise unknown("dtype", self.dtype, tolerance.ROUNDINGS)
            raise ConfigError(
                f"--dtype {self.dtype}: {kind.name} holds {_either(kind.dtypes)}; {_either(able)} can hold {self.dtype}"
            )
        if self.any_size:
            check_any_size(network)
        return kind


def _either(names: Sequence[str] | Any) -> str:
    return " or ".join(names)


def _other_size(network: Network) -> Network:
    """Return the network for images that are larger, by unlike and odd numbers of pixels."""
    height, width = network.config.input_size
    return network.configured(input_size=(height + 31, width + 17))


def manifest_path(artifact: Path) -> Path:
    """Return where an artifact's manifest is: beside it."""
    return artifact.with_name(f"{artifact.name}.manifest.json")


def _files(path: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of an artifact, by its path from the folder that the artifact is in."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {str(file.relative_to(path.parent)): sha256_of(file) for file in files if file.is_file()}


def _make(network: Network, wanted: ExportRequest, path: Path, folder: Path) -> dict[str, Any]:
    """Have the port write the artifact to `path`, and return its manifest but for what verifying tells."""
    kind = wanted.check(network)
    backend = wanted.backend or next(iter(kind.makers))
    calibration = None
    if wanted.dtype == "int8":
        images = wanted.calibration
        if images is None:
            images = real_batch(network, _CALIBRATION_IMAGES, _CALIBRATION_SEED)
        calibration = folder / "calibration.npy"
        np.save(calibration, wanted.preprocessing(images).astype(np.float32))
    answer = folder / "answer.json"
    request = {
        "backend": backend,
        "weights": str(wanted.weights.resolve()),
        "format": kind.name,
        "dtype": wanted.dtype,
        "path": str(path),
        "batch": wanted.batch,
        "size": None if wanted.any_size else list(network.config.input_size),
        "calibration": None if calibration is None else str(calibration),
        "answer": str(answer),
    }
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    python = launch.interpreter(kind.makers[backend]).path
    arguments = ["-m", "common.deploy.export.worker", str(folder / "request.json")]
    launch.launch(python, arguments, launch.environment(_THREADS), folder / "export.txt", _LIMIT)
    made = json.loads(answer.read_text(encoding="utf-8"))
    if made["status"] == "refused":
        raise ConfigError(f"{kind.name}: {made['message']}")
    if made["status"] == "failed":
        raise BackendError(f"{backend} cannot make {kind.name}: {made['message']}")
    channels, height, width = network.input_shape
    size = [None, None] if wanted.any_size else [height, width]
    shape = [wanted.batch, channels, *size] if made["layout"] == "NCHW" else [wanted.batch, *size, channels]
    plain = "float64" if wanted.dtype == "float64" else "float32"
    return {
        "schema": SCHEMA,
        "format": kind.name,
        "dtype": wanted.dtype,
        "path": path.name,
        "files": _files(path),
        "network": network.name,
        "config": json.loads(network.config_json()),
        "weights": sha256_of(wanted.weights),
        "input": {"name": made["input"], "shape": shape, "layout": made["layout"], "dtype": plain},
        "output": {"name": made["output"], "shape": [wanted.batch, network.config.num_classes], "dtype": plain},
        "preprocessing": {
            "range": [0, 1],
            "mean": list(wanted.preprocessing.mean),
            "std": list(wanted.preprocessing.std),
        },
        "server": kind.servers[0],
        **({"processor": made["processor"]} if made["processor"] else {}),
        "backend": backend,
        "made_by": {"rosetta": __version__, **made["versions"]},
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


@functools.cache
def _serving() -> Path:
    return Path(str(importlib.resources.files("common.deploy.serving")))


def _served(manifest: Path, kind: Format, server: str, x: np.ndarray, folder: Path) -> np.ndarray:
    """Return what an artifact answers in a fresh process of its runtime, which knows nothing of this project."""
    given, answer, log = folder / "x.npy", folder / "y.npy", folder / "serve.txt"
    np.save(given, x)
    arguments = ["-I", str(_serving()), str(manifest), str(given), str(answer), "--server", server]
    python = launch.interpreter(kind.environment).path
    try:
        launch.launch(python, arguments, launch.environment(_THREADS, ours=False), log, _LIMIT)
    except BackendError as error:
        raise BackendError(f"{server} cannot serve the {kind.name} artifact: {error}") from None
    logits: np.ndarray = np.load(answer)
    return logits


def _inputs(network: Network, wanted: ExportRequest) -> Iterator[tuple[Network, dict[str, np.ndarray]]]:
    """Yield what an artifact is judged by: the network for images of one size, and such images by name."""
    images = wanted.batch or 3
    images *= -(-3 // images)
    plain = np.float64 if wanted.dtype == "float64" else np.float32

    def digits(network: Network) -> np.ndarray:
        return wanted.preprocessing(real_batch(network, images, _SEED)).astype(plain)

    found = {"digits": digits(network)}
    if wanted.dtype != "int8":  # whose ranges are those of real images
        found["noise"] = noise_batch(network, images, _SEED).astype(plain)
    yield network, found
    if wanted.any_size:
        other = _other_size(network)
        yield other, {f"digits of {'x'.join(map(str, other.config.input_size))}": digits(other)}


def _verify(network: Network, wanted: ExportRequest, manifest: Path, folder: Path) -> dict[str, Any]:
    """Return what each runtime that serves the artifact was off by at most, as a share of its tolerance.

    Raises DisagreementError where one is farther off than that, BackendError where one cannot serve it.
    """
    kind = formats.get(wanted.format)
    tensors = weights.read(wanted.weights).tensors
    found: dict[str, dict[str, Any]] = {}
    for sized, inputs in _inputs(network, wanted):
        module = reference.build(sized)
        reference.load(module, tensors)
        truths = [module(x.astype(np.float64)) for x in inputs.values()]
        for server in kind.servers:
            # A process of the runtime takes longer to start than to answer.
            answers = _served(manifest, kind, server, np.concatenate(list(inputs.values())), folder)
            for name, answer, truth in zip(inputs, np.split(answers, len(inputs)), truths, strict=True):
                off: dict[str, Any] = {
                    "error": relative_error(answer, truth),
                    "tolerance": tolerance.tolerance(sized, len(truth), wanted.dtype),
                    "input": name,
                    "images": len(truth),
                }
                if off["error"] > off["tolerance"]:
                    raise DisagreementError(
                        f"not written: the {kind.name} artifact, run by {server} on {name}, is off by "
                        f"{off['error']:.1e} of its largest logit; expected at most {off['tolerance']:.1e} in "
                        f"{wanted.dtype}{_MEND.get(wanted.dtype, '')}"
                    )
                worst = found.get(server, off)
                if off["error"] / off["tolerance"] >= worst["error"] / worst["tolerance"]:
                    found[server] = off
    return found


_MEND = {
    "int8": "; calibrate on images like those that it will see (--calibration), or export float16",
    "float16": "; export float32",
}


def artifact(
    network: Network,
    weights_file: Path,
    format_name: str,
    dtype: str,
    batch: int | None,
    folder: Path,
    backend: str | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Make an artifact in a folder, to be measured: not yet verified. Return its path and its manifest's content.

    Raises ConfigError where the format cannot express it, BackendError where the port's environment is missing or
    fails.
    """
    wanted = ExportRequest(weights_file, format_name, dtype, backend, batch)
    path = folder / f"{network.name}-{dtype}-{batch}{formats.get(format_name).suffix}"
    with tempfile.TemporaryDirectory(prefix="rosetta-") as temporary:
        manifest = _make(network, wanted, path, Path(temporary))
    manifest_path(path).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return path, manifest


def check(output: Path, force: bool) -> None:
    """Raise InputError where an artifact and its manifest cannot be written at `output`, or something is there."""
    for path in (output, manifest_path(output)):
        if path.exists() and not force:
            raise InputError(f"{path} exists; give another name, or --force to replace it")
    if not output.is_dir():
        check_writable(output)
    check_writable(manifest_path(output))


@contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """Give a folder on the same disk as `output`, so that what is made in it can be moved there whole."""
    folder = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def export(wanted: ExportRequest, output: Path, force: bool = False) -> dict[str, Any]:
    """Make an artifact, run it again as it would be served, and write it with its manifest, or nothing at all.

    Return the manifest. Raises InputError, ConfigError, BackendError and DisagreementError, as `check`, `Wanted.check`
    and the runtimes have it.
    """
    check(output, force)
    network = weights.read(wanted.weights).network
    kind = wanted.check(network)
    launch.interpreter(kind.environment)  # before the work rather than after it
    with _beside(output) as folder, tempfile.TemporaryDirectory(prefix="rosetta-") as temporary:
        path = folder / output.name
        manifest = _make(network, wanted, path, Path(temporary))
        manifest_path(path).write_text(json.dumps(manifest), encoding="utf-8")
        manifest["verified"] = _verify(network, wanted, manifest_path(path), Path(temporary))
        served_by = {name for each in PATHS.values() if each.format == kind.name for name in each.needs}
        manifest["runtime"] = launch.versions(kind.environment, sorted(served_by), Path(temporary) / "versions.txt")
        manifest_path(path).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        if output.is_dir():
            output.rename(folder / "replaced")
        os.replace(path, output)
        os.replace(manifest_path(path), manifest_path(output))
    return manifest
