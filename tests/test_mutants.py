"""A port that is broken on purpose: parity exits 1 and names the tap where it happened.

Each mutant is a copy of the project with one line of the port changed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from common import backends

pytestmark = pytest.mark.port

RESNET = ("resnet", {"arch": [[1, 8], [1, 16]], "input_size": [33, 41]})
ALEXNET = ("alexnet", {"input_size": [96, 76]})
"""A size at which AlexNet's first convolution gives the same shape with a padding of 1 and of 0."""

MUTANTS = {
    "padding": {
        "torch": ("alexnet.py", "stride=4, padding=1", "stride=4, padding=0"),
        "jax": ("alexnet.py", "stride=4, padding=1", "stride=4, padding=0"),
        "tf": ("alexnet.py", "strides=4, padding=1", "strides=4, padding=0"),
        "mxnet": ("alexnet.py", "strides=4, padding=1", "strides=4, padding=0"),
    },
    "epsilon": dict.fromkeys(
        ("torch", "jax", "tf", "mxnet"), ("layers.py", "BATCH_NORM_EPSILON = 1e-5", "BATCH_NORM_EPSILON = 1e-3")
    ),
    "transposed kernel": {
        "torch": (
            "weights.py",
            "torch.from_numpy(tensors[name])",
            "torch.from_numpy(tensors[name]).mT if tensor.ndim == 4 else torch.from_numpy(tensors[name])",
        ),
        "jax": ("../common/layout.py", "array.transpose(2, 3, 1, 0)\n    if", "array.transpose(3, 2, 1, 0)\n    if"),
        "tf": ("../common/layout.py", "array.transpose(2, 3, 1, 0)\n    if", "array.transpose(3, 2, 1, 0)\n    if"),
        "mxnet": (
            "weights.py",
            "_shared(tensors[name], p.dtype)",
            "_shared(tensors[name].swapaxes(-1, -2) if tensors[name].ndim == 4 else tensors[name], p.dtype)",
        ),
    },
}
"""Mistake -> backend -> file of the port, the text to replace, and its replacement. None of them changes a shape."""

WHERE = {"padding": (*ALEXNET, "conv1"), "epsilon": (*RESNET, "stem.bn"), "transposed kernel": (*RESNET, "stem.conv")}
"""Mistake -> the network that shows it, its configuration, the first tap that must."""


def parity_of_a_copy(
    folder: Path, backend_name: str, network: str, config: dict, change: tuple[str, str, str] | None = None
) -> tuple[int, dict]:
    """Copy the project, change one line of the port, and run its parity in both dtypes."""
    package = backends.get(backend_name).package
    for name in ("common", package):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    if change is not None:
        file, old, new = change
        path = folder / package / file
        text = path.read_text()
        assert text.count(old) == 1, f"{file} holds {old!r} {text.count(old)} times; the mutant is out of date"
        path.write_text(text.replace(old, new))
    command = [sys.executable, "-m", "common", "parity", network, "--config", json.dumps(config)]
    result = subprocess.run(
        [*command, "--backends", backend_name, "--json", "report.json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), f"ROSETTA_PYTHON_{backend_name.upper()}": sys.executable},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (folder / "report.json").exists(), result.stderr
    return result.returncode, json.loads((folder / "report.json").read_text())


def test_the_unchanged_copy_agrees(tmp_path: Path, backend_name: str) -> None:
    for i, (network, config) in enumerate((RESNET, ALEXNET)):
        folder = tmp_path / str(i)
        folder.mkdir()
        status, report = parity_of_a_copy(folder, backend_name, network, config)
        assert status == 0, report
        assert [result["status"] for result in report["results"]] == ["agree", "agree"]


@pytest.mark.parametrize("mistake", MUTANTS)
def test_a_mistake_is_found_where_it_is(tmp_path: Path, backend_name: str, mistake: str) -> None:
    network, config, tap = WHERE[mistake]
    status, report = parity_of_a_copy(tmp_path, backend_name, network, config, MUTANTS[mistake][backend_name])
    assert status == 1, report
    for result in report["results"]:
        assert (result["dtype"], result["status"]) in {("float64", "disagree"), ("float32", "disagree")}
        assert result["first_divergence"] == tap
        assert result["detail"] == ""  # the numbers differ, not the shapes
