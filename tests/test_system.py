"""That freed memory stays with the process where that is asked for, by the pages that the system has to map."""

from __future__ import annotations

import ctypes
import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

from common import system

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator has what is set")

FAULTS = """
import resource

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        b"x" * (1 << 26)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
"""
FEW, MANY = 8, 8 * 32
"""Pages, of 2 MB at most, that the system maps for eight blocks where the last one lay, and for eight new ones."""

KEEP = f"""
{FAULTS}
from common.system import keep_freed_memory
as_it_is = faults()
keep_freed_memory()
faults()  # the first block is new
print(as_it_is, faults())
"""

TORCH = f"""
{FAULTS}
import ctypes, json, sys
import numpy as np
import torch
from common import catalog, weights
from common.deploy.serving import exported_program
from common.optimizers import OptimizerConfig
from torch_impl import deploy
from torch_impl.backend import Backend

network = catalog.get("bn_lenet")
tensors = weights.initialize(network, "xavier", 0, "float32")
images, labels = np.zeros((2, *network.input_shape), np.float32), np.zeros(2, np.int64)
torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), sys.argv[1])
tried = {{"nothing": lambda: None}}
tried |= {{f"session {{path}}": lambda path=path: deploy.session(network, tensors, path, "cpu")
          for path in ("torch-eager", "torch-channels-last", "torch-compile", "torch-winograd")}}
tried |= {{f"step {{path}}": lambda path=path: deploy.training_step(network, tensors, path, "cpu", images, labels, 0.1)
          for path in ("torch-eager", "torch-channels-last", "torch-compile")}}
tried["trainer"] = lambda: Backend().trainer(Backend().build(network, "float32"), OptimizerConfig("sgd"))
tried["serving"] = lambda: exported_program.load(sys.argv[1], {{"input": {{"dtype": "float32"}}}}, 1)
found = {{}}
for name, make in tried.items():
    # As glibc begins: 128 KiB, from which blocks are given back.
    ctypes.CDLL(None).mallopt(-1, 1 << 17)
    ctypes.CDLL(None).mallopt(-3, 1 << 17)
    made = make()
    faults()
    found[name] = faults()
print(json.dumps(found))
"""


def run(code: str, *arguments: object) -> str:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=ROOT,
    ).stdout


@glibc
def test_what_was_freed_is_used_again_without_the_system() -> None:
    as_it_is, kept = map(int, run(KEEP).split())
    assert as_it_is > MANY
    assert kept < FEW


def test_other_systems_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("it looked for glibc"))
    system.keep_freed_memory()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not inherit it")
def test_peak_memory_is_this_processes_own_and_not_its_parents() -> None:
    parent = """
import subprocess, sys
large = bytearray(400_000_000)
code = "from common.system import peak_memory; block = bytearray(50_000_000); print(peak_memory())"
subprocess.run([sys.executable, "-c", code], check=True)
"""
    assert 50e6 < int(run(parent)) < 200e6


@glibc
@pytest.mark.port
def test_torchs_paths_and_its_training_keep_what_they_free(backend_name: str, tmp_path: Path) -> None:
    if backend_name != "torch":
        pytest.skip("only torch asks the C library for what each layer makes")
    found = json.loads(run(TORCH, tmp_path / "linear.pt2"))
    assert found.pop("nothing") > MANY
    assert {name: faults for name, faults in found.items() if faults >= FEW} == {}
    assert len(found) == 9
