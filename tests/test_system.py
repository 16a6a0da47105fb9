"""`keep_freed_memory`: the process keeps what it frees, seen in the number of pages that the system has to map."""

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

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator has these settings")

FAULTS = """
import resource

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        b"x" * (1 << 26)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
"""
FEW, MANY = 8, 8 * 32
"""Page faults of eight allocations of 64 MB: in memory that was kept, and in new memory with pages of at most 2 MB."""

KEEP = f"""
{FAULTS}
from common.system import keep_freed_memory
before = faults()
keep_freed_memory()
faults()  # the first block is still new
print(before, faults())
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
calls = {{"nothing": lambda: None}}
calls |= {{f"session {{path}}": lambda path=path: deploy.session(network, tensors, path, "cpu")
          for path in ("torch-eager", "torch-channels-last", "torch-compile", "torch-winograd")}}
calls |= {{f"step {{path}}": lambda path=path: deploy.training_step(network, tensors, path, "cpu", images, labels, 0.1)
          for path in ("torch-eager", "torch-channels-last", "torch-compile")}}
calls["trainer"] = lambda: Backend().trainer(Backend().build(network, "float32"), OptimizerConfig("sgd"))
calls["serving"] = lambda: exported_program.load(sys.argv[1], {{"input": {{"dtype": "float32"}}}}, 1)
page_faults = {{}}
for name, make in calls.items():
    # glibc's default: it returns blocks of 128 KiB and more to the system.
    ctypes.CDLL(None).mallopt(-1, 1 << 17)
    ctypes.CDLL(None).mallopt(-3, 1 << 17)
    kept = make()
    faults()
    page_faults[name] = faults()
print(json.dumps(page_faults))
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
def test_freed_memory_is_used_again_without_new_pages() -> None:
    before, after = map(int, run(KEEP).split())
    assert before > MANY
    assert after < FEW


def test_nothing_is_set_on_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("it loaded the C library"))
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
def test_torchs_execution_paths_and_training_keep_what_they_free(backend_name: str, tmp_path: Path) -> None:
    if backend_name != "torch":
        pytest.skip("only torch allocates with the C library for each layer")
    page_faults = json.loads(run(TORCH, tmp_path / "linear.pt2"))
    assert page_faults.pop("nothing") > MANY
    assert {name: count for name, count in page_faults.items() if count >= FEW} == {}
    assert len(page_faults) == 9
