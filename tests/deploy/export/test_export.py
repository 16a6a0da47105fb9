"""`rosetta export`: what is refused, what is verified, and that the folder that serves artifacts runs by itself."""

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

import numpy as np
import pytest
from PIL import Image
from support import ROOT

from common import catalog, images, reference, weights
from common.backends import environments, launch
from common.deploy import tolerance
from common.deploy.export import export
from common.deploy.export.export import ExportRequest, Preprocessing, manifest_path
from common.deploy.export.formats import FORMATS
from common.errors import BackendError, DisagreementError

SERVING = ROOT / "common" / "deploy" / "serving"
NETWORK = catalog.get("lenet")
MIXED = catalog.get("resnet", arch=[[1, 8], [1, 16]], input_size=[33, 38], in_channels=2)

# A runtime that needs nothing but NumPy: an artifact is a matrix, and the answer its product with the images.
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
    """The serving folder copied to where nothing else is, with a server of its own, and an artifact."""
    folder = tmp_path / "elsewhere"
    shutil.copytree(SERVING, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "matrix.py").write_text(SERVER)
    matrix = np.arange(12.0).reshape(6, 2)
    np.save(tmp_path / "a.npy", matrix)
    digest = hashlib.sha256((tmp_path / "a.npy").read_bytes()).hexdigest()
    given = {"shape": [2, 3, 1, 2], "layout": "NCHW"}
    manifest = {"path": "a.npy", "files": {"a.npy": digest}, "server": "matrix", "input": given}
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


def test_the_folder_that_serves_runs_wherever_it_is_copied(served, tmp_path: Path) -> None:
    x = np.arange(24.0).reshape(4, 3, 1, 2)
    assert served(x).returncode == 0
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), x.reshape(4, 6) @ np.arange(12.0).reshape(6, 2))


def test_an_artifact_that_was_altered_is_refused(served, tmp_path: Path) -> None:
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
def test_what_are_no_images_for_it_is_refused(served, tmp_path: Path, x: np.ndarray, message: str) -> None:
    result = served(x)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert message in result.stderr
    assert not (tmp_path / "y.npy").exists()


def test_a_server_that_is_none_or_lacks_its_runtime_is_named(served, tmp_path: Path) -> None:
    x = np.zeros((2, 3, 1, 2))
    assert served(x, "--server", "nothing").stderr.startswith(
        "there is no server nothing; there are exported_program, "
    )
    (tmp_path / "elsewhere" / "lacking.py").write_text("import no_such_runtime.api\n")
    result = served(x, "--server", "lacking")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("lacking needs no-such-runtime, which this Python does not have: ")
    assert result.stderr.endswith("-m pip install no-such-runtime\n")
    (tmp_path / "elsewhere" / "refusing.py").write_text("def load(*_): raise RuntimeError('it is of elsewhere')\n")
    result = served(x, "--server", "refusing")
    assert (result.returncode, result.stderr) == (1, f"refusing cannot load {tmp_path / 'a.npy'}: it is of elsewhere\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--to", "onxx"), "there is no format 'onxx'; did you mean onnx?"),
        (("--backend", "torch", "--to", "litert"), "made by tf or jax"),
        (("--to", "onnx", "--dtype", "float64"), "onnx holds float32; torch-export or torch-aot or "),
        (("--dtype", "float12"), "there is no dtype 'float12'"),
        (("--batch", "0"), "--batch 0: expected a number from 1 to 4096, or any"),
        (("--size", "any"), "lenet flattens images into features"),
        (("--size", "3"), "there is no size '3'; choose from fixed, any"),
        (("--calibration", "."), "--calibration is for --dtype int8"),
        (("--to", "litert", "--dtype", "int8", "--calibration", "none"), "no such folder"),
        (("--to", "litert", "--dtype", "int8", "--calibration", "."), "no PNG or JPEG image in it"),
        (("--weights", "none.safetensors"), "no such file"),
        (("-o", "none/a.onnx"), "there is no folder none"),
        (("-o", "there.onnx"), "there.onnx exists; give another name, or --force"),
        (("-o", "told.onnx"), "told.onnx.manifest.json exists"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_is_one_line_and_writes_nothing(rosetta, w: Path, tmp_path: Path, change, message: str) -> None:
    (tmp_path / "there.onnx").write_text("mine")
    (tmp_path / "told.onnx.manifest.json").write_text("mine")
    before = sorted(tmp_path.iterdir())
    result = rosetta("export", "lenet", "--weights", w, "--to", "onnx", "-o", "a.onnx", *change)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "there.onnx").read_text() == "mine"


def test_an_environment_that_is_missing_is_named_with_the_line_that_installs_it(monkeypatch, w: Path, tmp_path) -> None:
    monkeypatch.setattr(environments, "find_environment", lambda name, modules: None)
    with pytest.raises(BackendError, match=r"environment runtimes .*install it with `tox run --notest -e runtimes`"):
        export.export(ExportRequest(w, "onnx"), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == [w]


def test_the_tolerance_of_fewer_bits_is_as_many_roundings() -> None:
    by_dtype = [tolerance.tolerance(NETWORK, 2, dtype) for dtype in ("float64", "float32", "float16", "int8")]
    assert by_dtype == sorted(by_dtype)
    assert by_dtype[3] == pytest.approx(4 * by_dtype[2])  # 9 bits and 11
    assert by_dtype[3] < 0.5  # an answer of zeros is off by 1


@pytest.mark.parametrize("found", [np.full((2, 3), np.nan), np.zeros((2, 2)), np.full((2, 3), np.inf)])
def test_what_is_no_answer_is_infinitely_wrong(found: np.ndarray) -> None:
    assert tolerance.error(found, np.ones((2, 3))) == float("inf")


# With every framework and runtime.


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    weights.write(path, MIXED, weights.initialize(MIXED, "probe", 0, "float32"))
    return path


@pytest.mark.across
@pytest.mark.parametrize(("kind", "backend"), [(name, next(iter(kind.makers))) for name, kind in FORMATS.items()])
def test_an_export_is_verified_and_described(
    monkeypatch, kind: str, backend: str, mixed: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    scratch = tmp_path_factory.mktemp("scratch")
    for variable in ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(variable, str(scratch))
    output = tmp_path / f"a{FORMATS[kind].suffix}"
    preprocessing = Preprocessing((0.5,), (0.25,))
    manifest = export.export(ExportRequest(mixed, kind, backend=backend, batch=2, preprocessing=preprocessing), output)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([output.name, f"{output.name}.manifest.json"])
    assert json.loads(manifest_path(output).read_text()) == manifest
    assert manifest["weights"] == hashlib.sha256(mixed.read_bytes()).hexdigest()
    assert manifest["config"] == json.loads(MIXED.config_json())
    assert manifest["preprocessing"] == {"range": [0, 1], "mean": [0.5], "std": [0.25]}
    assert set(manifest["verified"]) == set(FORMATS[kind].servers)
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    for found in manifest["verified"].values():
        assert 0 < found["error"] <= found["tolerance"] < 1e-3
    # Nothing that holds the weights stays behind.
    bias = weights.read(mixed).tensors["head.fc.bias"].tobytes()
    assert [path for path in scratch.rglob("*") if path.is_file() and bias in path.read_bytes()] == []
    if kind.startswith("torch-aot"):
        assert bias in output.read_bytes()
    # By hand, as the README has it.
    x = images.real_batch(MIXED, 4, 9).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    python = launch.interpreter(FORMATS[kind].environment).path
    command = [python, "-I", SERVING, manifest_path(output), tmp_path / "x.npy", tmp_path / "y.npy"]
    subprocess.run(command, check=True, capture_output=True)
    truth = reference.build(MIXED)
    reference.load(truth, weights.read(mixed).tensors)
    assert tolerance.error(np.load(tmp_path / "y.npy"), truth(x)) < 1e-4


FEWER_BITS = {
    "padded-pool": catalog.get("densenet", arch=[1, 1], growth_rate=8, num_channels=8, input_size=[36, 41]),
    "groups": catalog.get("anynet", arch=[[1, 16, 4, 1.0]], stem_channels=8, input_size=[33, 38]),
}


@pytest.mark.across
@pytest.mark.parametrize(
    ("backend", "case", "dtype"),
    [
        *itertools.product(["tf"], FEWER_BITS, ["float16", "int8"]),
        ("jax", "groups", "float16"),
        ("jax", "groups", "int8"),
        ("jax", "padded-pool", "int8"),
    ],
)
def test_fewer_bits_are_verified_too(backend: str, case: str, dtype: str, tmp_path: Path) -> None:
    network, output = FEWER_BITS[case], tmp_path / "a.tflite"
    weights.write(tmp_path / "w", network, weights.initialize(network, "probe", 0, "float32"))
    manifest = export.export(ExportRequest(tmp_path / "w", "litert", dtype, backend, batch=2), output)
    (found,) = manifest["verified"].values()
    # A float32 in disguise would be nearer than that.
    assert 1e-5 < found["error"] <= found["tolerance"]


@pytest.mark.across
def test_what_disagrees_is_not_written(monkeypatch, mixed: Path, tmp_path: Path) -> None:
    read = weights.read

    def other(path: Path) -> weights.WeightsFile:
        found = read(path)
        return dataclasses.replace(found, tensors={name: tensor * 1.001 for name, tensor in found.tensors.items()})

    monkeypatch.setattr(weights, "read", other)  # in this process, which holds the artifact to them
    with pytest.raises(DisagreementError, match=r"not written: .* run by onnx_runtime on digits, is off by .* at most"):
        export.export(ExportRequest(mixed, "onnx"), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.across
def test_a_compiler_that_is_missing_is_named(monkeypatch, mixed: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BackendError, match=r"^torch cannot make torch-aot: torch finds no C\+\+ compiler; install g"):
        export.export(ExportRequest(mixed, "torch-aot"), tmp_path / "a.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.across
def test_ranges_that_are_too_narrow_are_not_written(rosetta, mixed: Path, tmp_path: Path) -> None:
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
