"""Tests of mutants: parity finds a mistake in a port and names the tap that has it.

First with an edited copy of the project on disk, then with mutants in memory.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from support import ROOT

from common import reference
from common.backends import registry
from common.errors import RosettaError
from common.mutants import generic, pitfalls, run
from common.mutants.generic import MODULES, Mutant
from common.mutants.report import exit_status
from common.parity.patched_import import Edit, source

RESNET = ("resnet", {"arch": [[1, 8], [1, 16]], "input_size": [33, 41]})
ALEXNET = ("alexnet", {"input_size": [96, 76]})
"""A size at which AlexNet's first convolution gives the same shape with a padding of 1 and of 0."""

WHERE = {
    4: (*ALEXNET, "conv1", "behaves as with padding (0, 0); expected (1, 1)"),
    5: (*RESNET, "stem.bn", "behaves as with an epsilon of 0.001; expected 1e-05 (also stage1.block1.bn1,"),
    11: (*RESNET, "stem.conv", "behaves as with its kernel's height and width exchanged (also "),
}
"""Pitfall -> a network that shows it, its configuration, the first tap that differs, and the finding.

None of them changes a shape.
"""


def parity_of_a_copy(
    folder: Path, backend_name: str, network: str, config: dict, edits: Sequence[Edit] = ()
) -> tuple[int, dict]:
    """Copy the project, change the port, and run its parity in both dtypes."""
    package = registry.get(backend_name).package
    for name in ("common", package):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for edit in edits:
        path = folder.joinpath(*edit.module.split(".")).with_suffix(".py")
        path.write_text(edit.apply(path.read_text()))
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


@pytest.mark.port
def test_the_unchanged_copy_agrees(tmp_path: Path, backend_name: str) -> None:
    for i, (network, config) in enumerate((RESNET, ALEXNET)):
        folder = tmp_path / str(i)
        folder.mkdir()
        status, report = parity_of_a_copy(folder, backend_name, network, config)
        assert status == 0, report
        assert [result["status"] for result in report["results"]] == ["agree", "agree"]


@pytest.mark.port
@pytest.mark.parametrize("number", WHERE)
def test_a_mistake_is_found_where_it_is(tmp_path: Path, backend_name: str, number: int) -> None:
    network, config, tap, finding = WHERE[number]
    (mutant,) = [m for m in pitfalls.pitfall_mutants(backend_name) if m.name.split()[0] == str(number)]
    status, report = parity_of_a_copy(tmp_path, backend_name, network, config, mutant.edits)
    assert status == 1, report
    for result in report["results"]:
        assert (result["dtype"], result["status"]) in {("float64", "disagree"), ("float32", "disagree")}
        assert result["first_divergence"] == tap
        assert result["detail"] == ""  # the numbers differ, not the shapes
        assert result["findings"][0].startswith(f"{tap} {finding}")


# In memory.


PORTS = ("torch", "jax", "tf", "mxnet")


@pytest.mark.parametrize("backend", PORTS)
def test_every_edit_fits_the_source_and_leaves_one_that_can_be_read(backend: str) -> None:
    mutants = [*pitfalls.pitfall_mutants(backend), *generic.source_mutants(backend)]
    assert {mutant.kind for mutant in mutants} == {"pitfall", "constant", "keyword", "activation"}
    for mutant in mutants:
        for module in {edit.module for edit in mutant.edits}:
            text = source(module)
            changed = text
            for edit in mutant.edits:
                if edit.module == module:
                    changed = edit.apply(changed)
            assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text)), mutant.name


def test_all_possible_changes_of_a_file_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    text = '''"""Of 5 layers."""

WIDTH: int = 7

class Block(nn.Module):
    """3 by 3."""

    def __init__(self, channels: int, kernel: int = 3, rate: float = 0.5) -> None:
        self.conv = nn.Conv2d(channels, 64, kernel_size=kernel, bias=True)
        self.act = nn.ReLU()
        if channels > 9:
            raise ValueError("over 9")

    def forward(self, x):
        return relu(self.conv(x)) + x.mean(dim=1)
'''
    monkeypatch.setattr(generic, "MODULES", {"lenet": MODULES["lenet"]})
    monkeypatch.setattr(generic, "source", lambda _: text)
    found = {
        (mutant.kind, mutant.edits[0].old, mutant.edits[0].new, mutant.owner, mutant.attribute, bool(mutant.reason))
        for mutant in generic.source_mutants("torch")
    }
    assert found == {
        ("constant", "7", "8", "", "", False),
        ("constant", "3", "4", "Block", "", True),
        ("constant", "0.5", "0.625", "Block", "", True),
        ("constant", "64", "65", "Block", "conv", False),
        ("constant", "9", "10", "Block", "", False),
        ("constant", "1", "2", "Block", "", False),
        ("keyword", "kernel_size=kernel,", "", "Block", "conv", False),
        ("keyword", "bias=True", "", "Block", "conv", False),
        ("keyword", "dim=1", "", "Block", "", False),
        ("activation", "nn.ReLU()", "nn.Identity()", "Block", "act", False),
        ("activation", "relu(self.conv(x))", "(self.conv(x))", "Block", "", False),
    }


def test_every_bias_scale_and_statistic_is_zeroed_and_every_pair_of_a_shape_exchanged() -> None:
    mutants = [mutant for mutant in generic.weight_mutants("torch") if mutant.networks == MODULES["lenet"]]
    manifest = reference.describe(MODULES["lenet"][0]).manifest
    zeroed = {mutant.change.names[0] for mutant in mutants if mutant.kind == "zero"}
    assert zeroed == {name for name in manifest if name.endswith("bias")}  # lenet has no scales and no statistics
    assert [mutant.name for mutant in mutants if mutant.kind == "swap"] == []  # no two layers of lenet are alike
    alike = {mutant.change.names for mutant in generic.weight_mutants("torch") if mutant.kind == "swap"}
    assert ("stage2.block2.conv1.weight", "stage2.block2.conv2.weight") in alike
    assert ("stage2.block2.bn1.running_mean", "stage2.block2.bn1.running_var") not in alike


@pytest.mark.port
def test_a_sample_of_all_other_mutants_is_found(backend_name: str) -> None:
    every = [*generic.source_mutants(backend_name), *generic.weight_mutants(backend_name)]
    outcomes = run.run(run.sample(every, 1, seed=0), [backend_name])
    assert len(outcomes) == 5
    assert {outcome.status for outcome in outcomes} <= {"killed", "equivalent"}, outcomes
    assert all(outcome.mutant.reason for outcome in outcomes if outcome.status == "equivalent")
    assert not [outcome for outcome in outcomes if outcome.named is False]


@pytest.mark.port
def test_a_mistake_at_the_end_of_a_branch_is_located_at_its_block(backend_name: str) -> None:
    mutants = [m for m in generic.source_mutants(backend_name) if (m.kind, m.owner) == ("activation", "PoolBranch")]
    (outcome,) = run.run(mutants, [backend_name])
    assert (outcome.status, outcome.tap, outcome.named) == ("killed", "stage1.block1", True)


SPARE = {"torch": "nn.ReLU()", "jax": "nnx.Dropout(0.5)", "tf": "keras.layers.ReLU()", "mxnet": 'nn.Activation("relu")'}
"""A layer without weights, in each port's terms."""

ONE_BLOCK_MORE = (("range(2, blocks + 1)", "range(2, blocks + 2)"), ("range(num_blocks - 1)", "range(num_blocks)"))
"""Edits that build a residual block too many; a port has one of them."""


@pytest.mark.port
def test_a_layer_that_never_runs_is_found(backend_name: str) -> None:
    module = f"{registry.get(backend_name).package}.resnet"
    spare = Edit(module, "        self.conv1 = ", f"        self.spare = {SPARE[backend_name]}\n        self.conv1 = ")
    # In Keras, a block that is never called has no weights, so that loading them does not reveal it.
    block = next(Edit(module, old, new) for old, new in ONE_BLOCK_MORE if old in source(module))
    mutants = [
        Mutant(backend_name, "constant", edit.new, MODULES["resnet"], (edit,), owner="Residual")
        for edit in (spare, block)
    ]
    one, other = run.run(mutants, [backend_name])
    assert (one.status, one.check) == ("killed", "build")
    assert "layers that were built but did not run: stage1.block1.spare, stage2.block1.spare, " in one.detail
    assert other.status == "killed"


@pytest.mark.port
def test_a_change_without_effect_survives(backend_name: str) -> None:
    package = registry.get(backend_name).package
    edit = Edit(f"{package}.lenet", "__all__ = ", "NOTHING = 1\n\n__all__ = ")
    (outcome,) = run.run([Mutant(backend_name, "constant", "nothing", MODULES["lenet"], (edit,))], [backend_name])
    assert outcome.status == "survived"
    assert exit_status([outcome]) == 1


@pytest.mark.port
def test_a_check_that_the_unchanged_port_fails_kills_nothing(
    backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run._NetworkChecks, "_cell", lambda *_: RosettaError("the worker hung"))
    mutants = [mutant for mutant in generic.weight_mutants(backend_name) if mutant.networks == MODULES["lenet"]]
    outcomes = run.run(mutants, [backend_name])
    assert {(outcome.status, outcome.detail) for outcome in outcomes} == {("missing", "the worker hung")}
    assert exit_status(outcomes) == 3


def test_the_mutants_of_a_missing_backend_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("ROSETTA_PYTHON_TORCH", str(broken))
    outcomes = run.run(run.sample(generic.weight_mutants("torch"), 2, seed=0), ["torch"])
    assert {outcome.status for outcome in outcomes} == {"missing"}
    assert exit_status(outcomes) == 3
