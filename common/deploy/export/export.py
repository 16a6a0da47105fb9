"""Export a network: write the artifact, run it in the runtime that will serve it, and save it only if it is correct.

Two processes do the work. The port's environment writes the artifact; a fresh process of each runtime, without this
project, runs it, and its logits are compared with the reference.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import importlib.resources
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common import __version__, json_records, reference
from common.backends import launch
from common.catalog import Network
from common.deploy import tolerance
from common.deploy.bench import install_size
from common.deploy.execution_paths import PATHS
from common.deploy.export import formats, worker
from common.deploy.export.formats import Format, Signature, check_any_size
from common.deploy.export.manifest import Input, Manifest, Output, Preprocessing, Verification, manifest_path
from common.deploy.relative_error import relative_error
from common.errors import BackendError, ConfigError, DisagreementError, InputError, unknown
from common.files import check_writable, sha256_of
from common.images import noise_batch, real_batch
from common.weights import WeightsFile

__all__ = ["ExportRequest", "check", "export", "unverified"]

_TIMEOUT = 900.0
"""Seconds to write an artifact, or to run it once."""
_THREADS = 2
_MIN_IMAGES = 3
"""Images that an artifact is verified on, at least."""
_CALIBRATION_IMAGES = 64
_SEED, _CALIBRATION_SEED = 0, 1
"""Different, so that an int8 artifact is not verified on the images that it was calibrated on."""
_ALTERNATIVE = {
    "int8": "; calibrate on images like those that it will see (--calibration), or export float16",
    "float16": "; export float32",
}
"""Advice in the error for an artifact of this dtype that is not accurate enough."""


@dataclass(frozen=True)
class ExportRequest:
    """Request for one export.

    `backend`: the port that writes the artifact; None for the format's default. `batch`: None for any. `any_size`:
    take images of any size. `calibration`: real images (N, C, H, W) in [0, 1] for the ranges of int8; digits if None.
    """

    weights: WeightsFile
    format: str
    dtype: str = "float32"
    backend: str | None = None
    batch: int | None = 1
    any_size: bool = False
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    calibration: np.ndarray | None = None

    @property
    def network(self) -> Network:
        """The network, with the configuration of the weights."""
        return self.weights.network

    @property
    def float_dtype(self) -> str:
        """The dtype of the artifact's input and output."""
        return "float64" if self.dtype == "float64" else "float32"

    def check(self) -> Format:
        """Return the format. Raises ConfigError if the format does not support the request."""
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
            check_any_size(self.network)
        return kind


def _either(names: Iterable[str]) -> str:
    return " or ".join(names)


def _other_size(network: Network) -> Network:
    """Return the network for larger images; height and width grow by different, odd numbers of pixels."""
    height, width = network.config.input_size
    return network.configured(input_size=(height + 31, width + 17))


def _hashes(artifact: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of an artifact, by its path relative to the artifact's folder."""
    files = sorted(artifact.rglob("*")) if artifact.is_dir() else [artifact]
    return {str(file.relative_to(artifact.parent)): sha256_of(file) for file in files if file.is_file()}


def _write_artifact(request: ExportRequest, path: Path, folder: Path) -> Manifest:
    """Write the artifact to `path` in the port's environment. Return its manifest, not yet verified."""
    kind, network = request.check(), request.network
    backend = request.backend or next(iter(kind.makers))
    calibration = folder / "calibration.npy"
    if request.dtype == "int8":
        images = request.calibration
        if images is None:
            images = real_batch(network, _CALIBRATION_IMAGES, _CALIBRATION_SEED)
        np.save(calibration, request.preprocessing(images).astype(np.float32))
    order = worker.Request(
        backend=backend,
        network=network.name,
        config=network.settings(),
        weights=str(request.weights.path.resolve()),
        format=kind.name,
        dtype=request.dtype,
        path=str(path),
        batch=request.batch,
        size=None if request.any_size else network.config.input_size,
        calibration=str(calibration) if calibration.exists() else None,
        answer=str(folder / "answer.json"),
    )
    (folder / "request.json").write_text(json.dumps(dataclasses.asdict(order)), encoding="utf-8")
    python = launch.interpreter(kind.makers[backend]).path
    arguments = ["-m", "common.deploy.export.worker", str(folder / "request.json")]
    launch.launch(python, arguments, launch.environment(_THREADS), folder / "export.txt", _TIMEOUT)
    answer: worker.Answer = json_records.build(worker.Answer, json_records.parse(Path(order.answer).read_bytes()))
    if answer.status == "refused":
        raise ConfigError(f"{kind.name}: {answer.message}")
    if answer.signature is None:
        raise BackendError(f"{backend} cannot make {kind.name}: {answer.message}")
    return _manifest(request, kind, backend, path, answer.signature)


def _manifest(request: ExportRequest, kind: Format, backend: str, path: Path, signature: Signature) -> Manifest:
    network, batch = request.network, request.batch
    channels, height, width = network.input_shape
    size = (None, None) if request.any_size else (height, width)
    shape = (batch, channels, *size) if signature.layout == "NCHW" else (batch, *size, channels)
    return Manifest(
        format=kind.name,
        dtype=request.dtype,
        path=path.name,
        files=_hashes(path),
        network=network.name,
        config=json.loads(network.config_json()),
        weights=sha256_of(request.weights.path),
        input=Input(signature.input, shape, signature.layout, request.float_dtype),
        output=Output(signature.output, (batch, network.config.num_classes), request.float_dtype),
        preprocessing=request.preprocessing,
        server=kind.servers[0],
        processor=signature.processor or None,
        backend=backend,
        made_by={"rosetta": __version__, **signature.versions},
        made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


@functools.cache
def _serving() -> Path:
    return Path(str(importlib.resources.files("common.deploy.serving")))


def _serve(manifest: Path, kind: Format, server: str, x: np.ndarray, folder: Path) -> np.ndarray:
    """Run an artifact in a fresh process of its runtime, without this project, and return the logits."""
    images, logits, log = folder / "x.npy", folder / "y.npy", folder / "serve.txt"
    np.save(images, x)
    arguments = ["-I", str(_serving()), str(manifest), str(images), str(logits), "--server", server]
    python = launch.interpreter(kind.environment).path
    try:
        launch.launch(python, arguments, launch.environment(_THREADS, ours=False), log, _TIMEOUT)
    except BackendError as error:
        raise BackendError(f"{server} cannot serve the {kind.name} artifact: {error}") from None
    result: np.ndarray = np.load(logits)
    return result


def _verification_inputs(request: ExportRequest) -> Iterator[tuple[Network, dict[str, np.ndarray]]]:
    """Yield for each image size the network and the named batches of images to verify an artifact on."""
    batch = request.batch or _MIN_IMAGES
    images = batch * -(-_MIN_IMAGES // batch)

    def digits(network: Network) -> np.ndarray:
        return request.preprocessing(real_batch(network, images, _SEED)).astype(request.float_dtype)

    inputs = {"digits": digits(request.network)}
    if request.dtype != "int8":  # its ranges are those of real images
        inputs["noise"] = noise_batch(request.network, images, _SEED).astype(request.float_dtype)
    yield request.network, inputs
    if request.any_size:
        other = _other_size(request.network)
        yield other, {f"digits of {'x'.join(map(str, other.config.input_size))}": digits(other)}


def _verify(request: ExportRequest, manifest: Path, folder: Path) -> dict[str, Verification]:
    """Run the artifact with each of its runtimes and return the largest error of each.

    Raises DisagreementError if an error exceeds its tolerance, BackendError if a runtime cannot serve the artifact.
    """
    kind = formats.get(request.format)
    verified: dict[str, Verification] = {}
    for network, inputs in _verification_inputs(request):
        module = reference.build(network)
        reference.load(module, request.weights.tensors)
        expected = [module(x.astype(np.float64)) for x in inputs.values()]
        for server in kind.servers:
            # One process for all inputs: starting it takes longer than running the artifact.
            outputs = _serve(manifest, kind, server, np.concatenate(list(inputs.values())), folder)
            for name, output, logits in zip(inputs, np.split(outputs, len(inputs)), expected, strict=True):
                limit = tolerance.tolerance(network, len(logits), request.dtype)
                result = Verification(relative_error(output, logits), limit, name, len(logits))
                if result.error > limit:
                    raise DisagreementError(
                        f"not written: the {kind.name} artifact, run by {server} on {name}, is off by "
                        f"{result.error:.1e} of its largest logit; expected at most {limit:.1e} in "
                        f"{request.dtype}{_ALTERNATIVE.get(request.dtype, '')}"
                    )
                worst = verified.get(server, result)
                if result.error / result.tolerance >= worst.error / worst.tolerance:
                    verified[server] = result
    return verified


def unverified(request: ExportRequest, folder: Path) -> tuple[Path, Manifest]:
    """Export to a folder without verifying, for benchmarks. Return the artifact's path and its manifest.

    Raises ConfigError if the format does not support the request, BackendError if the port's environment is missing
    or fails.
    """
    suffix = formats.get(request.format).suffix
    path = folder / f"{request.network.name}-{request.dtype}-{request.batch}{suffix}"
    with tempfile.TemporaryDirectory(prefix="rosetta-") as temporary:
        manifest = _write_artifact(request, path, Path(temporary))
    manifest.write(manifest_path(path))
    return path, manifest


def check(output: Path, force: bool) -> None:
    """Raise InputError if an artifact and its manifest cannot be written, or exist and `force` is not set."""
    for path in (output, manifest_path(output)):
        if path.exists() and not force:
            raise InputError(f"{path} exists; give another name, or --force to replace it")
    if not output.is_dir():
        check_writable(output)
    check_writable(manifest_path(output))


@contextmanager
def _temporary_folder_beside(output: Path) -> Iterator[Path]:
    """Give a folder on the same disk as `output`, from where a finished artifact can be renamed to it."""
    folder = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def export(request: ExportRequest, output: Path, force: bool = False) -> Manifest:
    """Write a verified artifact and its manifest; on any error nothing is written. Return the manifest.

    Raises InputError as `check` does, ConfigError if the format does not support the request, BackendError if an
    environment is missing or fails, DisagreementError if the artifact is not accurate enough.
    """
    check(output, force)
    kind = request.check()
    launch.interpreter(kind.environment)  # fail now if the runtime is missing, not after the export
    with (
        _temporary_folder_beside(output) as folder,
        tempfile.TemporaryDirectory(prefix="rosetta-") as temporary,
    ):
        path = folder / output.name
        manifest = _write_artifact(request, path, Path(temporary))
        manifest.write(manifest_path(path))
        verified = _verify(request, manifest_path(path), Path(temporary))
        served_by = {name for each in PATHS.values() if each.format == kind.name for name in each.needs}
        _, versions = install_size.installed(kind.environment, served_by, Path(temporary) / "versions.txt")
        runtime = {name: versions[name] for name in sorted(served_by)}
        manifest = dataclasses.replace(manifest, verified=verified, runtime=runtime)
        manifest.write(manifest_path(path))
        if output.is_dir():
            output.rename(folder / "replaced")
        os.replace(path, output)
        os.replace(manifest_path(path), manifest_path(output))
    return manifest
