"""`rosetta export`: refused requests, verification, manifests, and the standalone serving folder."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image
from support import ROOT

from common import catalog, images, reference, weights
from common.backends import environments, launch
from common.deploy import tolerance
from common.deploy.export import export
from common.deploy.export.export import ExportRequest
from common.deploy.export.formats import FORMATS
from common.deploy.export.manifest import Input, Manifest, Output, Preprocessing, Verification, manifest_path
from common.deploy.relative_error import relative_error
from common.errors import BackendError, DisagreementError

SERVING = ROOT / "common" / "deploy" / "serving"
NETWORK = catalog.get("lenet")
MIXED = catalog.get("resnet", arch=[[1, 8], [1, 16]], input_size=[33, 38], in_channels=2)

# A runtime that needs only NumPy: the artifact is a matrix, and the output its product with the images.
SERVER = """
import numpy as np


class Session:
    def __init__(self, matrix):
        self.matrix = matrix

    def prepare(self, x):
        return x.reshape(len(x), -1)

    def run(self, x):
        assert len(x) == 2, len(x)
        return x @ self.matrix

    def logits(self, y):
        return y


def load(path, manifest, threads):
    return Session(np.load(path))
"""


@pytest.fixture
def w(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    weights.write(path, NETWORK, weights.initialize(NETWORK, "probe", 0, "float32"))
    return path


@pytest.fixture
def served(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A copy of the serving folder with a server of its own, and an artifact: run it on images."""
    folder = tmp_path / "elsewhere"
    shutil.copytree(SERVING, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "matrix.py").write_text(SERVER)
    matrix = np.arange(12.0).reshape(6, 2)
    np.save(tmp_path / "a.npy", matrix)
    digest = hashlib.sha256((tmp_path / "a.npy").read_bytes()).hexdigest()
    images = {"shape": [2, 3, 1, 2], "layout": "NCHW"}
    manifest = {"path": "a.npy", "files": {"a.npy": digest}, "server": "matrix", "input": images}
    (tmp_path / "a.manifest.json").write_text(json.dumps(manifest))

    def run(x: np.ndarray, *options: str) -> subprocess.CompletedProcess[str]:
        np.save(tmp_path / "x.npy", x)
        command = [
            sys.executable,
            "-I",
            str(folder),
            tmp_path / "a.manifest.json",
            tmp_path / "x.npy",
            tmp_path / "y.npy",
            *options,
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


def test_the_serving_folder_runs_after_being_copied_elsewhere(served, tmp_path: Path) -> None:
    x = np.arange(24.0).reshape(4, 3, 1, 2)
    assert served(x).returncode == 0
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), x.reshape(4, 6) @ np.arange(12.0).reshape(6, 2))


def test_an_altered_or_missing_artifact_is_refused(served, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((6, 2)))
    result = served(np.zeros((2, 3, 1, 2)))
    assert result.returncode == 1
    assert "a.npy was altered after it was exported" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    (tmp_path / "a.npy").unlink()
    assert "a.npy is missing" in served(np.zeros((2, 3, 1, 2))).stderr
    assert not (tmp_path / "y.npy").exists()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((3, 3, 1, 2)), "holds 3 images; the artifact takes 2 at a time"),
        (np.zeros((2, 3, 2, 1)), "holds float64 of shape (2, 3, 2, 1); the artifact takes numbers of (N, 3, 1, 2)"),
        (np.zeros((2, 6)), "holds float64 of shape (2, 6); the artifact takes numbers of (N, 3, 1, 2)"),
        (np.zeros((0, 3, 1, 2)), "holds float64 of shape (0, 3, 1, 2); the artifact takes numbers of (N, 3, 1, 2)"),
        (np.full((2, 3, 1, 2), "a"), "holds <U1 of shape (2, 3, 1, 2); the artifact takes numbers of (N, 3, 1, 2)"),
    ],
)
def test_images_of_another_shape_or_dtype_are_refused(served, tmp_path: Path, x: np.ndarray, message: str) -> None:
    result = served(x)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert message in result.stderr
    assert not (tmp_path / "y.npy").exists()


def test_an_unknown_server_or_a_missing_runtime_is_reported(served, tmp_path: Path) -> None:
    x = np.zeros((2, 3, 1, 2))
    assert served(x, "--server", "nothing").stderr.startswith(
        "there is no server nothing; there are exported_program, "
    )
    (tmp_path / "elsewhere" / "lacking.py").write_text("import no_such_runtime.api\n")
    result = served(x, "--server", "lacking")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("lacking needs no-such-runtime, which is not installed; install it with: ")
    assert result.stderr.endswith("-m pip install no-such-runtime\n")
    # MXNet's server imports its runtime only in `load`.
    (tmp_path / "elsewhere" / "lacking.py").write_text("def load(*_): import no_such_runtime\n")
    assert served(x, "--server", "lacking").stderr == result.stderr
    (tmp_path / "elsewhere" / "refusing.py").write_text("def load(*_): raise RuntimeError('wrong processor')\n")
    result = served(x, "--server", "refusing")
    assert (result.returncode, result.stderr) == (1, f"refusing cannot load {tmp_path / 'a.npy'}: wrong processor\n")


def test_files_that_cannot_be_read_or_written_are_one_line(served, tmp_path: Path) -> None:
    manifest = (tmp_path / "a.manifest.json").read_text()
    for content, message in (("{", "cannot read "), ("[]", "is not a manifest"), ('{"path": "a.npy"}', "is not a man")):
        (tmp_path / "a.manifest.json").write_text(content)
        result = served(np.zeros((2, 3, 1, 2)))
        assert (result.returncode, result.stderr.count("\n")) == (1, 1)
        assert message in result.stderr
    (tmp_path / "a.manifest.json").write_text(manifest)
    (tmp_path / "y.npy").mkdir()
    result = served(np.zeros((2, 3, 1, 2)))
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("cannot write ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--to", "onxx"), "there is no format 'onxx'; did you mean onnx?"),
        (("--backend", "torch", "--to", "litert"), "made by tf or jax"),
        (("--to", "onnx", "--dtype", "float64"), "onnx holds float32; torch-export or torch-aot or "),
        (("--dtype", "float12"), "there is no dtype 'float12'"),
        (("--batch", "0"), "--batch 0: expected a number from 1 to 4096, or any"),
        (("--size", "any"), "lenet flattens feature maps, so it takes one image size"),
        (("--size", "3"), "there is no size '3'; choose from fixed, any"),
        (("--calibration", "."), "--calibration is for --dtype int8"),
        (("--to", "litert", "--dtype", "int8", "--calibration", "none"), "no such folder"),
        (("--to", "litert", "--dtype", "int8", "--calibration", "."), "no PNG or JPEG image in it"),
        (("--weights", "none.safetensors"), "no such file"),
        (("-o", "none/a.onnx"), "there is no folder none"),
        (("-o", "there.onnx"), "there.onnx exists; give another name, or --force"),
        (("-o", "described.onnx"), "described.onnx.manifest.json exists"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_bad_request_is_one_line_and_writes_nothing(rosetta, w: Path, tmp_path: Path, change, message: str) -> None:
    (tmp_path / "there.onnx").write_text("mine")
    (tmp_path / "described.onnx.manifest.json").write_text("mine")
    before = sorted(tmp_path.iterdir())
    result = rosetta("export", "lenet", "--weights", w, "--to", "onnx", "-o", "a.onnx", *change)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "there.onnx").read_text() == "mine"


def test_a_missing_environment_is_reported_with_its_install_command(monkeypatch, w: Path, tmp_path) -> None:
    monkeypatch.setattr(environments, "find_environment", lambda name, modules: None)
    with pytest.raises(BackendError, match=r"environment runtimes .*install it with `tox run --notest -e runtimes`"):
        export.export(ExportRequest(weights.read(w), "onnx"), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == [w]


def test_tolerances_follow_the_rounding_error_of_the_dtype() -> None:
    by_dtype = [tolerance.tolerance(NETWORK, 2, dtype) for dtype in ("float64", "float32", "float16", "int8")]
    assert by_dtype == sorted(by_dtype)
    assert by_dtype[3] == pytest.approx(4 * by_dtype[2])  # 9 bits and 11
    assert by_dtype[3] < 0.5  # the error of an all-zero output is 1


@pytest.mark.parametrize("output", [np.full((2, 3), np.nan), np.zeros((2, 2)), np.full((2, 3), np.inf)])
def test_a_wrong_shape_or_a_non_finite_output_has_an_infinite_error(output: np.ndarray) -> None:
    assert relative_error(output, np.ones((2, 3))) == float("inf")


def test_a_manifest_is_json_with_these_fields_and_reads_back() -> None:
    manifest = Manifest(
        format="torch-aot",
        dtype="float32",
        path="a.pt2",
        files={"a.pt2": "00"},
        network="lenet",
        config={"num_classes": 10},
        weights="11",
        input=Input("x", (None, 1, 28, 28), "NCHW", "float32"),
        output=Output("y", (None, 10), "float32"),
        preprocessing=Preprocessing((0.5,), (0.25,)),
        server="exported_program",
        processor={"machine": "x86_64", "vectors": "AVX2"},
        backend="torch",
        made_by={"torch": "2.13.0"},
        made="2026-01-01T00:00:00+00:00",
        verified={"exported_program": Verification(1e-7, 1e-5, "digits", 3)},
        runtime={"torch": "2.13.0"},
    )
    record = json.loads(json.dumps(manifest.record()))
    assert msgspec.convert(record, Manifest) == manifest
    fields = "schema format dtype path files network config weights input output preprocessing server processor "
    assert list(record) == (fields + "backend made_by made verified runtime").split()
    assert record["input"] == {"name": "x", "shape": [None, 1, 28, 28], "layout": "NCHW", "dtype": "float32"}
    assert record["output"] == {"name": "y", "shape": [None, 10], "dtype": "float32"}
    assert record["preprocessing"] == {"range": [0, 1], "mean": [0.5], "std": [0.25]}
    portable = dataclasses.replace(manifest, processor=None, verified=None, runtime=None).record()
    assert set(record) - set(portable) == {"processor", "verified", "runtime"}


# With all frameworks and runtimes


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    weights.write(path, MIXED, weights.initialize(MIXED, "probe", 0, "float32"))
    return path


@pytest.mark.across
@pytest.mark.parametrize(("kind", "backend"), [(name, next(iter(kind.makers))) for name, kind in FORMATS.items()])
def test_an_export_is_verified_and_its_manifest_is_complete(
    monkeypatch, kind: str, backend: str, mixed: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    scratch = tmp_path_factory.mktemp("scratch")
    for variable in ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(variable, str(scratch))
    output = tmp_path / f"a{FORMATS[kind].suffix}"
    preprocessing = Preprocessing((0.5,), (0.25,))
    request = ExportRequest(weights.read(mixed), kind, backend=backend, batch=2, preprocessing=preprocessing)
    returned = export.export(request, output)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([output.name, f"{output.name}.manifest.json"])
    manifest = json.loads(manifest_path(output).read_text())
    assert json.loads(json.dumps(returned.record())) == manifest
    assert manifest["weights"] == hashlib.sha256(mixed.read_bytes()).hexdigest()
    assert manifest["config"] == json.loads(MIXED.config_json())
    assert manifest["preprocessing"] == {"range": [0, 1], "mean": [0.5], "std": [0.25]}
    assert set(manifest["verified"]) == set(FORMATS[kind].servers)
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    for result in manifest["verified"].values():
        assert 0 < result["error"] <= result["tolerance"] < 1e-3
    # No temporary file with the weights is left.
    bias = weights.read(mixed).tensors["head.fc.bias"].tobytes()
    assert [path for path in scratch.rglob("*") if path.is_file() and bias in path.read_bytes()] == []
    if kind.startswith("torch-aot"):
        assert bias in output.read_bytes()
    # Serve it with the command that the documentation gives.
    x = images.real_batch(MIXED, 4, 9).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    python = launch.interpreter(FORMATS[kind].environment).path
    command = [python, "-I", SERVING, manifest_path(output), tmp_path / "x.npy", tmp_path / "y.npy"]
    subprocess.run(command, check=True, capture_output=True)
    truth = reference.build(MIXED)
    reference.load(truth, weights.read(mixed).tensors)
    assert relative_error(np.load(tmp_path / "y.npy"), truth(x)) < 1e-4


QUANTIZED = {
    "padded-pool": catalog.get("densenet", arch=[1, 1], growth_rate=8, num_channels=8, input_size=[36, 41]),
    "groups": catalog.get("anynet", arch=[[1, 16, 4, 1.0]], stem_channels=8, input_size=[33, 38]),
}


@pytest.mark.across
@pytest.mark.parametrize(
    ("backend", "case", "dtype"),
    [
        *itertools.product(["tf"], QUANTIZED, ["float16", "int8"]),
        ("jax", "groups", "float16"),
        ("jax", "groups", "int8"),
        ("jax", "padded-pool", "int8"),
    ],
)
def test_float16_and_int8_exports_are_verified(backend: str, case: str, dtype: str, tmp_path: Path) -> None:
    network, output = QUANTIZED[case], tmp_path / "a.tflite"
    weights.write(tmp_path / "w", network, weights.initialize(network, "probe", 0, "float32"))
    request = ExportRequest(weights.read(tmp_path / "w"), "litert", dtype, backend, batch=2)
    (result,) = export.export(request, output).verified.values()
    # float32 would be more accurate than that.
    assert 1e-5 < result.error <= result.tolerance


@pytest.mark.across
def test_an_inaccurate_artifact_is_not_written(mixed: Path, tmp_path: Path) -> None:
    file = weights.read(mixed)
    # The artifact is made from the file, and compared with the reference on these tensors.
    other = dataclasses.replace(file, tensors={name: tensor * 1.001 for name, tensor in file.tensors.items()})
    with pytest.raises(DisagreementError, match=r"not written: .* run by onnx_runtime on digits, is off by .* at most"):
        export.export(ExportRequest(other, "onnx"), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.across
def test_a_missing_compiler_is_reported(monkeypatch, mixed: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BackendError, match=r"^torch cannot make torch-aot: torch finds no C\+\+ compiler; install g"):
        export.export(ExportRequest(weights.read(mixed), "torch-aot"), tmp_path / "a.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.across
def test_an_int8_export_with_too_narrow_ranges_is_not_written(rosetta, mixed: Path, tmp_path: Path) -> None:
    (tmp_path / "black").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "black" / "black.png")
    network = catalog.get("resnet", arch=[[1, 8], [1, 16]], input_size=[33, 38], in_channels=3)
    weights.write(tmp_path / "w.safetensors", network, weights.initialize(network, "probe", 0, "float32"))
    arguments = (
        "export",
        "resnet",
        "--weights",
        "w.safetensors",
        "--to",
        "litert",
        "--dtype",
        "int8",
        "-o",
        "a.tflite",
    )
    result = rosetta(*arguments, "--calibration", "black")
    assert result.returncode == 1
    assert "calibrate on images like those that it will see (--calibration), or export float16" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "a.tflite").exists()
    assert rosetta(*arguments).returncode == 0
    assert "exists" in rosetta(*arguments).stderr
    assert rosetta(*arguments, "--force").returncode == 0
