"""Tests of comparing user models, in this process, with the framework of `--backend`."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from own import own_numpy
from support import ROOT

from common.errors import BackendError, ConfigError, InputError, RosettaError, WeightsError
from common.parity.results import Report
from common.testing import Port, Workers, assert_same, compare, table

OWN = ROOT / "tests" / "own"
IMAGES = np.random.default_rng(0).standard_normal((4, 3, 12, 16))
LABELS = np.array([3, 1, 4, 1])
FLATTENED = {"fc1": (8, 3, 4)}
FUNCTION = Port("numpy", own_numpy.network)


@pytest.fixture(scope="module")
def own(backend_name: str, port: ModuleType) -> ModuleType:
    return importlib.import_module(f"own.own_{backend_name}")


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as workers:
        yield workers


@pytest.fixture
def compared(own: ModuleType, backend_name: str, workers: Workers) -> Callable[..., Report]:
    """Return a function that compares the framework's network with itself under other settings."""

    def run(reference: Port | None = None, names: dict[str, str] | None = None, **settings: Any) -> Report:
        options = {
            name: settings.pop(name) for name in ("checks", "dtypes", "weights", "flattened") if name in settings
        }
        candidate = Port(backend_name, partial(own.make, **settings), names=names or own.NAMES)
        options = {"flattened": FLATTENED, "labels": LABELS, "dtypes": ["float64"], "workers": workers} | options
        return compare(reference or Port(backend_name, own.make, names=own.NAMES), candidate, IMAGES, **options)

    return run


def findings(report: Report) -> str:
    return "\n".join(finding for cell in report.cells for finding in cell.findings)


@pytest.mark.port
def test_a_network_agrees_with_its_definition(compared: Callable[..., Report]) -> None:
    report = compared(FUNCTION, checks=["forward", "gradients"])
    assert report.exit_status() == 0, table(report)
    assert report.summary()["agree"] == 2
    taps = {error.tap for error in report.cells[0].errors}
    assert taps >= {"conv1", "bn1", "conv2", "fc1", "logits"}
    assert {error.input for error in report.cells[1].errors} == {"training", "derivative"}


@pytest.mark.port
def test_a_network_agrees_with_itself_in_every_check_and_dtype(compared: Callable[..., Report]) -> None:
    report = compared(dtypes=["float64", "float32"])
    assert report.exit_status() == 0, table(report)
    assert [cell.check for cell in report.cells] == ["forward", "forward", "gradients", "gradients", "training"]
    assert "gradient of fc1.weight" in {error.tap for error in report.cells[2].errors}
    assert "bn1.running_var" in {error.tap for error in report.cells[4].errors}


@pytest.mark.port
def test_the_references_own_weights_can_be_used(compared: Callable[..., Report]) -> None:
    assert compared(weights="reference", checks=["forward"]).exit_status() == 0


MISTAKES = {
    "epsilon": ({"epsilon": 1e-5}, "forward", "bn1", "bn1 behaves as with an epsilon of 1e-05; expected 0.001"),
    "momentum": ({"keep": 0.9}, "gradients", "bn1.running_mean", "keeps 0.9 of the old value; expected 0.8"),
    "activation": ({"rectified": False}, "forward", "fc2", "fc2 behaves as without the ReLU before it"),
}


@pytest.mark.port
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(compared: Callable[..., Report], mistake: str, backend_name: str) -> None:
    settings, check, tap, message = MISTAKES[mistake]
    if backend_name == "torch" and mistake == "activation":  # ReLU is a layer there
        tap, message = "7", "7 returns its input unchanged; expected ReLU"
    report = compared(checks=[check], **settings)
    assert report.exit_status() == 1
    assert report.cells[0].first_divergence.tap == tap, table(report)
    assert message in findings(report)


@pytest.mark.port
def test_a_mistake_is_found_by_comparing_with_a_function(compared: Callable[..., Report]) -> None:
    report = compared(FUNCTION, checks=["forward"], epsilon=1e-5)
    assert report.exit_status() == 1
    assert report.cells[0].first_divergence.tap == "bn1"


@pytest.mark.port
def test_a_flattened_image_must_be_declared_for_channels_last_frameworks(
    compared: Callable[..., Report], backend_name: str
) -> None:
    report = compared(FUNCTION, checks=["forward"], flattened={})
    if backend_name in ("torch", "mxnet"):
        assert report.exit_status() == 0
    else:
        assert report.cells[0].first_divergence.tap == "fc1"


@pytest.mark.port
def test_a_misnamed_layer_is_listed_in_the_error(
    compared: Callable[..., Report], own: ModuleType, backend_name: str
) -> None:
    wrong = {path: {"fc1": "dense1"}.get(name, name) for path, name in own.NAMES.items()}
    with pytest.raises(WeightsError, match=r"- fc1\.weight, - fc1\.bias, \+ dense1\.weight, \+ dense1\.bias; map own"):
        compared(names=wrong)


@pytest.mark.port
def test_two_layers_with_one_name_are_refused(compared: Callable[..., Report], own: ModuleType) -> None:
    wrong = {path: {"fc1": "fc2"}.get(name, name) for path, name in own.NAMES.items()}
    with pytest.raises(BackendError, match=r"makes fc2\.\w+ of both"):
        compared(names=wrong)


@pytest.mark.port
def test_a_name_for_an_unknown_layer_is_refused(compared: Callable[..., Report], own: ModuleType) -> None:
    with pytest.raises(BackendError, match="there is no layer of the model 'nowhere'"):
        compared(names={**own.NAMES, "nowhere": "conv9"})


@pytest.mark.port
@pytest.mark.parametrize(
    ("flattened", "message"),
    [
        ({"fc9": (8, 3, 4)}, "no dense layer"),
        ({"conv1": (8, 3, 4)}, "no dense layer"),
        ({"fc1": (8, 3)}, "of 96 numbers"),
    ],
)
def test_a_wrong_flattened_image_is_refused(compared: Callable[..., Report], flattened: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compared(flattened=flattened)


@pytest.mark.port
def test_weights_by_name_are_checked(compared: Callable[..., Report], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"- conv1\.weight"):
        compared(weights={"fc2.bias": np.zeros(5)})
    with pytest.raises(WeightsError, match="neither random, reference nor a file"):
        compared(weights=tmp_path / "none.safetensors")


@pytest.mark.port
def test_an_exception_of_a_model_becomes_one_line(backend_name: str, port: ModuleType) -> None:
    def broken() -> None:
        raise RuntimeError("no such\nthing")

    with pytest.raises(BackendError, match=f"backend {backend_name}: RuntimeError: no such thing"):
        compare(FUNCTION, Port(backend_name, broken), IMAGES)


@pytest.mark.port
def test_assert_same_fails_if_the_models_differ(own: ModuleType, backend_name: str, workers: Workers) -> None:
    right, wrong = (Port(backend_name, make, names=own.NAMES) for make in (own.make, partial(own.make, epsilon=1e-5)))
    options = {"flattened": FLATTENED, "dtypes": ["float64"], "workers": workers}
    assert_same(right, right, IMAGES, **options)
    with pytest.raises(AssertionError, match="first at bn1"):
        assert_same(right, wrong, IMAGES, **options)


def refused(**changes: Any) -> dict[str, Any]:
    return {
        "reference": FUNCTION,
        "candidate": FUNCTION,
        "x": IMAGES,
        "labels": LABELS,
        "checks": ["forward"],
        **changes,
    }


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (refused(x=IMAGES[0, 0, 0]), r"`x` has shape \(16,\)"),
        (refused(x=np.full((2, 3), np.nan)), "finite"),
        (refused(x=IMAGES.astype(int)), "dtype int64"),
        (refused(labels=LABELS[:2]), r"`labels` has shape \(2,\)"),
        (refused(labels=LABELS / 2), "of integers"),
        (refused(checks=["backward"]), "no check 'backward'"),
        (refused(checks=["gradients"], labels=None), "need `labels`"),
        (refused(checks=[]), "one or more"),
        (refused(dtypes=["float16"]), "no dtype 'float16'; did you mean"),
        (refused(checks=["gradients"]), "has no gradients"),
        (refused(), "two functions of arrays have no layers"),
    ],
)
def test_a_wrong_request_is_refused(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(RosettaError, match=message) as refusal:
        compare(**request_)
    assert isinstance(refusal.value, (ConfigError, InputError))


def test_a_wrong_port_is_refused() -> None:
    with pytest.raises(ConfigError, match="no backend 'pytorch'; did you mean torch"):
        Port("pytorch", "a:b")
    with pytest.raises(ConfigError, match="'module:attribute'"):
        Port("torch", 3)
    with pytest.raises(ConfigError, match="must map"):
        Port("torch", "a:b", names={"features.0": 1})


def test_a_framework_that_is_not_installed_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    absent = "torch" if importlib.util.find_spec("mxnet") else "mxnet"
    monkeypatch.setenv(f"ROSETTA_PYTHON_{absent.upper()}", sys.executable)
    port = Port(absent, f"own_{absent}:make", folder=OWN)
    report = compare(FUNCTION, port, IMAGES, dtypes=["float64"])
    assert report.exit_status() == 3
    assert [cell.status for cell in report.cells] == ["missing"]
    with pytest.raises(AssertionError, match="not installed"):
        assert_same(FUNCTION, port, IMAGES)


FACTORIES = {
    "own_numpy": "must be 'module:attribute'",
    "own_numpy:netwrk": "no attribute of own_numpy 'netwrk'; did you mean network",
    "own_numpy:np": "must name a function or class",
    "own_nowhere:make": "No module named 'own_nowhere'",
}


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_wrong_factory_is_refused(factory: str) -> None:
    with pytest.raises(BackendError, match=FACTORIES[factory]):
        compare(Port("numpy", factory, folder=OWN), FUNCTION, IMAGES)


PLUGIN = """
import sys
from functools import partial

import numpy as np
from common.testing import Port
from own import own_numpy, own_{backend} as own

RIGHT = Port("{backend}", own.make, names=own.NAMES)
WRONG = Port("{backend}", partial(own.make, epsilon=1e-5), names=own.NAMES)
IMAGES = np.random.default_rng(0).standard_normal((2, 3, 12, 16))
OPTIONS = dict(x=IMAGES, flattened={{"fc1": (8, 3, 4)}}, dtypes=["float64"])

def test_right(parity):
    assert parity(Port("numpy", own_numpy.network), RIGHT, **OPTIONS).exit_status() == 0

def test_wrong(parity):
    parity(RIGHT, WRONG, **OPTIONS)

def test_refused(parity):
    parity(RIGHT, WRONG, **OPTIONS, labels=np.zeros(9, int))

def test_missing(parity, monkeypatch):
    monkeypatch.setenv("ROSETTA_PYTHON_{other}", sys.executable)
    parity(RIGHT, Port("{other}".lower(), "nowhere:make"), **OPTIONS)
"""


@pytest.mark.port
def test_the_pytest_plugin(backend_name: str, tmp_path: Path) -> None:
    other = "torch" if backend_name == "mxnet" else "mxnet"
    (tmp_path / "test_own.py").write_text(PLUGIN.format(backend=backend_name, other=other.upper()))
    command = [sys.executable, "-m", "pytest", tmp_path, "-p", "no:cacheprovider", "-c", os.devnull]
    command += ["--parity-html", tmp_path / "all.html", "--parity-json", tmp_path / "all.json"]
    environment = {**os.environ, "PYTHONPATH": f"{OWN.parent}{os.pathsep}{ROOT}", "COLUMNS": "160"}
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    message = ended.stdout
    assert ended.returncode == 1, message + ended.stderr
    assert "3 failed, 1 passed" in message
    assert "bn1 behaves as with an epsilon of 1e-05; expected 0.001 (forward f64)" in message
    assert "`labels` has shape (9,) and dtype int64; expected (2,) of integers" in message
    assert f"backend {other} is not installed" in message
    assert "Traceback" not in message
    assert "1 pass, 1 disagree, 1 missing" in message.rpartition("= parity =")[2]
    results = json.loads((tmp_path / "all.json").read_text())["results"]
    assert [(cell["network"], cell["status"]) for cell in results] == [
        ("test_right", "agree"),
        ("test_wrong", "disagree"),
        ("test_missing", "missing"),
    ]
    page = (tmp_path / "all.html").read_text()
    assert "test_wrong" in page
    assert "expected 0.001" in page


def test_the_plugin_refuses_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        tmp_path,
        "-c",
        os.devnull,
        "--parity-html",
        tmp_path / "none" / "a.html",
    ]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 4
    assert "there is no folder" in ended.stderr
    assert "Traceback" not in ended.stderr
