"""Tests of training across frameworks: equal loss curves, and runs that continue in another framework."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import ROOT

from common.backends import registry
from common.training import checkpoints, metrics

pytestmark = pytest.mark.across

FRAMEWORKS = ("torch", "jax", "tf", "mxnet")
RECIPE = (
    *("bn_lenet", "--dtype", "float64", "--lr", "0.01", "--schedule", "cosine", "--warmup", "0.5", "--seed", "3"),
    *("--batch-size", "128", "--flip", "--crop", "1", "--clip-norm", "2"),
    *("--keep", "4"),
)
OPTIMIZERS = {
    "momentum": ("--optimizer", "momentum", "--weight-decay", "0.001"),
    "adamw": ("--optimizer", "adamw", "--weight-decay", "0.01", "--epsilon", "1e-4"),
}
EPOCHS = 4
STEPS = 11


def rosetta(*arguments: object) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, "-m", "common", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode in (0, 1), result.stderr
    return result


def relative(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Return the largest relative difference of any tensor; the layer's weight scales a bias if it is larger."""
    assert list(found) == list(expected)
    errors = []
    for name, values in expected.items():
        weight = expected.get(name.replace(".bias", ".weight"), values)
        scale = max(np.max(np.abs(values)), np.max(np.abs(weight)))
        errors.append(np.max(np.abs(found[name] - values)) / scale)
    return float(max(errors))


@pytest.fixture(scope="module", params=OPTIMIZERS)
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of the same run in each framework."""
    folder = tmp_path_factory.mktemp(request.param)
    found = {}
    for backend in FRAMEWORKS:
        found[backend] = folder / backend
        options = ("--backend", backend, "--epochs", EPOCHS, "-o", found[backend])
        rosetta("train", *RECIPE, *OPTIMIZERS[request.param], *options)
    return found


def test_the_losses_are_the_same_at_every_step(runs: dict[str, Path]) -> None:
    losses = {backend: metrics.read(run).steps.loss for backend, run in runs.items()}
    assert len(losses["torch"]) == EPOCHS * STEPS
    assert losses["torch"][-1] < losses["torch"][0]
    for backend, values in losses.items():
        # One rounding of the initial weights changes this run by some 1e-12 at most.
        np.testing.assert_allclose(values, losses["torch"], rtol=1e-10, err_msg=backend)


def test_the_weights_and_the_optimizers_state_are_the_same_at_the_end(runs: dict[str, Path]) -> None:
    last = {backend: checkpoints.last(run)[0] for backend, run in runs.items()}
    for backend, checkpoint in last.items():
        assert checkpoint.position.step == EPOCHS * STEPS
        assert relative(checkpoint.weights, last["torch"].weights) < 1e-9, backend
        assert relative(checkpoint.slots, last["torch"].slots) < 1e-7, backend


def test_a_run_can_continue_in_each_other_framework(runs: dict[str, Path], tmp_path: Path) -> None:
    """One epoch in each framework ends with the same weights as a run in one framework."""
    run = tmp_path / "run"
    shutil.copytree(runs["torch"], run)
    truncate(run, epochs=1)
    for epochs, backend in ((2, "jax"), (3, "tf"), (4, "mxnet")):
        rosetta("train", "-o", run, "--resume", "--backend", backend)
        truncate(run, epochs)
    for backend, whole in runs.items():
        end, expected = checkpoints.last(run)[0], checkpoints.last(whole)[0]
        assert end.position.step == expected.position.step
        assert relative(end.weights, expected.weights) < 1e-9, backend
        assert relative(end.slots, expected.slots) < 1e-7, backend


def truncate(run: Path, epochs: int) -> None:
    """Remove the checkpoints after some epochs; the schedule remains that of the whole run."""
    for path in checkpoints.checkpoints(run):
        if checkpoints.read(path).position.step > epochs * STEPS:
            shutil.rmtree(path)


def test_compare_accepts_equal_runs(runs: dict[str, Path], tmp_path: Path) -> None:
    result = rosetta("compare", *runs.values(), "-o", tmp_path / "together.png")
    assert (tmp_path / "together.png").read_bytes().startswith(b"\x89PNG")
    assert "not the same experiment" not in result.stdout


@pytest.mark.parametrize("backend", FRAMEWORKS)
def test_evaluate_agrees_in_another_framework(runs: dict[str, Path], backend: str, tmp_path: Path) -> None:
    found = json.loads(
        rosetta("evaluate", runs["torch"], "--backend", backend, "--json", "-o", tmp_path / "c.png").stdout
    )
    own = metrics.read(runs["torch"]).epochs
    assert found["accuracy"] == pytest.approx(own.validation_accuracy[-1])
    assert found["loss"] == pytest.approx(own.validation_loss[-1], rel=1e-9)


MISTAKES = {
    "a smaller weight decay": (
        "torch",
        "training.py",
        "config.weight_decay",
        "0.99 * config.weight_decay",
        "adamw",
    ),
    "a learning rate that is too small at first": (
        *("jax", "training.py"),
        *("float(learning_rate)", "float(learning_rate) * (1 if self.steps else 0.9)", "sgd"),
    ),
    "a velocity with a scaled gradient": (
        *("tf", "training.py", "self.config.momentum * velocity + gradient"),
        *("self.config.momentum * velocity + 1.0000001 * gradient", "momentum"),
    ),
    "running statistics with a rounded momentum": (
        "mxnet",
        "layers.py",
        "statistic + correction *",
        "statistic + 0 * correction *",
        "sgd",
    ),
    "a loss summed over the batch": ("jax", "training.py", "(logits, labels).mean()", "(logits, labels).sum()", "sgd"),
}
"""Framework, file, original and wrong text, and an optimizer that shows the mistake."""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_training_shows_in_its_framework_only(mistake: str, tmp_path: Path) -> None:
    backend, file, old, new, optimizer = MISTAKES[mistake]
    packages = {name: info.package for name, info in registry.BACKENDS.items() if name in FRAMEWORKS}
    for name in ("common", *packages.values()):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / packages[backend] / file
    text = path.read_text()
    assert text.count(old) >= 1, f"{file} does not hold {old!r}; the mistake is out of date"
    path.write_text(text.replace(old, new))
    interpreters = {f"ROSETTA_PYTHON_{name.upper()}": str(registry.find_interpreter(name).path) for name in FRAMEWORKS}
    result = subprocess.run(
        [
            *(sys.executable, "-m", "common", "parity", "bn_lenet", "--checks", "training"),
            *("--optimizers", optimizer, "--dtype", "float64", "--json", "report.json"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), **interpreters},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 1, result.stdout + result.stderr
    results = json.loads((tmp_path / "report.json").read_text())["results"]
    statuses = {found["backend"]: found["status"] for found in results}
    assert statuses == {name: "disagree" if name == backend else "agree" for name in FRAMEWORKS}
