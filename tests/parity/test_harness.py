"""Tests of the parity harness with faulty workers: no fault passes, and none affects other cells.

A faulty worker is the real worker with the NumPy reference in place of a framework and one thing broken.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from support import ROOT, interruptible

from common import catalog, weights
from common.parity import harness
from common.parity.harness import Gate, Report, Settings

LENET = catalog.get("lenet")
WORKER = """#!{python}
import os, signal, sys, time
import numpy as np
from common.backends import registry
from common.parity import worker
from common.backends.numpy.backend import Backend

class Faulty(Backend):
    def trace(self, model, x, *others):
        taps = super().trace(model, x, *others)
        {fault}
        return taps

sys.argv[1:] = sys.argv[-1:]
registry.load = lambda name: Faulty()
worker.Server.versions = lambda self: {{}}
{setup}
sys.exit(worker.main())
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace a backend's worker by a faulty one."""

    def install(backend: str, fault: str = "pass", setup: str = "pass") -> None:
        path = tmp_path / f"{backend}.py"
        path.write_text(WORKER.format(python=sys.executable, fault=fault, setup=setup))
        path.chmod(0o755)
        monkeypatch.setenv(f"ROSETTA_PYTHON_{backend.upper()}", str(path))

    return install


@pytest.fixture
def parity(worker: Callable[..., None]) -> Callable[..., Report]:
    """Run parity of lenet with a faulty worker for torch and a working one for jax."""

    def run(fault: str = "pass", setup: str = "pass", **settings: object) -> Report:
        worker("torch", fault, setup)
        worker("jax")
        report = harness.run(Settings([LENET], ["torch", "jax"], dtypes=["float64"], **{"limit": 60, **settings}))
        torch, jax = report.cells
        assert (jax.backend, jax.status) == ("jax", "agree"), jax.detail
        assert (torch.backend, torch.network, torch.dtype) == ("torch", "lenet", "float64")
        return report

    return run


def test_a_working_worker_passes_with_no_error_at_all(parity) -> None:
    report = parity()
    torch, _ = report.cells
    assert torch.status == "agree"
    assert torch.worst.error == 0
    assert {error.input for error in torch.errors} == {"digits", "noise"}
    assert len(torch.errors) == 2 * 8
    assert [(pair.backends, pair.status) for pair in report.pairs] == [(("torch", "jax"), "agree")]
    assert report.exit_status() == 0


@pytest.mark.parametrize(
    ("fault", "tap", "note"),
    [
        ("taps['conv2'] = taps['conv2'] * (1 + 1e-10)", "conv2", ""),
        ("taps['pool1'][0, 0, 0, 0] = np.nan", "pool1", "not finite"),
        ("taps['fc1'] = taps['fc1'][:, :-1]", "fc1", "shape"),
        ("del taps['conv1']", "conv1", "missing"),
        ("taps['extra'] = taps['logits']", "extra", "not in the reference"),
        ("taps = {name: values.astype('f4') for name, values in taps.items()}", "conv1", "float32, expected float64"),
    ],
)
def test_a_wrong_answer_differs_at_its_tap(parity, fault: str, tap: str, note: str) -> None:
    report = parity(fault)
    cell = report.cells[0]
    assert cell.status == "disagree"
    assert cell.first_divergence.tap == tap
    assert note in cell.detail
    assert report.exit_status() == 1


@pytest.mark.parametrize(
    ("fault", "setup", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "", "was killed by SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "", "was killed by SIGKILL (out of memory?)"),
        ("print('the disk is on fire', file=sys.stderr); os._exit(7)", "", "ended with status 7: the disk is on fire"),
        ("raise MemoryError('no room')", "", "MemoryError: no room"),
        ("raise RuntimeError('two\\nlines')", "", "RuntimeError: two"),
        ("pass", "print('hello', flush=True)", "sent no JSON object but 'hello'"),
        ("pass", "print('[1, 2]', flush=True)", "sent no JSON object"),
        ("pass", "sys.exit('cannot import')", "ended with status 1: cannot import"),
        (
            "pass",
            "answer = worker.Server.answer\n"
            "worker.Server.answer = lambda self, request: answer(self, request) | {'id': 0}",
            "answered another request",
        ),
        ("pass", "worker.Server.trace = lambda self, request: {}", "No such file"),
        (
            "pass",
            "worker.Server.trace = lambda self, request: [open(p, 'w').close() for p in request['outputs'].values()]"
            " and {}",
            "",
        ),
    ],
)
def test_a_worker_that_fails_is_an_error_with_its_reason(parity, fault: str, setup: str, message: str) -> None:
    report = parity(fault, setup)
    cell = report.cells[0]
    assert cell.status == "error"
    assert message in cell.detail
    assert report.exit_status() == 3


def test_a_worker_that_hangs_is_ended(parity) -> None:
    report = parity("time.sleep(600)", limit=8)
    assert report.cells[0].status == "error"
    assert "no answer within 8 s" in report.cells[0].detail
    assert not [child for child in psutil.Process().children(recursive=True) if "torch" in " ".join(child.cmdline())]


def test_output_of_a_framework_is_not_taken_for_an_answer(parity) -> None:
    report = parity("print('{\"id\": 1}', flush=True); os.write(1, b'from C\\n')")
    assert report.cells[0].status == "agree"


def test_a_worker_that_died_is_restarted_for_the_next_cell(parity, tmp_path: Path) -> None:
    once = tmp_path / "died"
    fault = f"os.path.exists({str(once)!r}) or (open({str(once)!r}, 'w').close(), os._exit(1))"
    parity(fault)
    assert parity(fault).cells[0].status == "agree"


def test_taps_that_ignore_the_input_are_vacuous(worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_dead(path: Path, network: catalog.Network, *_: object, **__: object) -> None:
        tensors = weights.initialize(network, "probe", 0, "float64")
        tensors["conv2.weight"][:] = 0
        weights.write(path, network, tensors)

    monkeypatch.setattr(weights, "write_initial", write_dead)
    worker("torch")
    report = harness.run(Settings([LENET], ["torch"], dtypes=["float64"]))
    assert report.cells[0].status == "vacuous"
    assert report.cells[0].detail.endswith("do not depend on the input: conv2, pool2, fc1, fc2, fc3, logits")
    assert report.exit_status() == 1


def test_a_framework_that_is_not_installed_is_missing(worker) -> None:
    worker("torch", setup="def load(_): raise ModuleNotFoundError('No torch', name='torch')\nregistry.load = load")
    report = harness.run(Settings([LENET], ["torch"]))
    assert [cell.status for cell in report.cells] == ["missing", "missing"]
    assert report.exit_status() == 3


def test_an_interpreter_that_does_not_exist_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ROSETTA_PYTHON_TORCH", str(tmp_path / "absent"))
    report = harness.run(Settings([LENET], ["torch"], dtypes=["float64"]))
    assert report.cells[0].status == "error"
    assert "is not executable" in report.cells[0].detail


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_processes_and_no_files(worker, tmp_path: Path, sent: signal.Signals) -> None:
    worker("torch", "time.sleep(600)")
    temporary = tmp_path / "tmp"
    arguments = ("lenet", "--backends", "torch", "--json", "report.json")
    process = interruptible(tmp_path, temporary, "parity", *arguments)
    try:
        deadline = time.monotonic() + 60
        while not list(temporary.glob("*/torch/request1.json")):
            assert time.monotonic() < deadline, "the worker has received no request"
            time.sleep(0.05)
        workers = psutil.Process(process.pid).children(recursive=True)
        assert workers
        process.send_signal(sent)
        _, error = process.communicate(timeout=30)
    finally:
        process.terminate()
    assert process.returncode in (130, 143)
    assert "Traceback" not in error
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    assert not list(temporary.iterdir())
    assert not (tmp_path / "report.json").exists()


def test_two_runs_at_once_do_not_disturb_each_other(worker) -> None:
    worker("torch")
    worker("jax")
    command = [sys.executable, "-m", "common", "parity", "lenet", "--backends", "torch,jax", "--dtype", "float64"]
    runs = [
        subprocess.Popen(command, cwd=tempfile.gettempdir(), env={**os.environ, "PYTHONPATH": str(ROOT)})
        for _ in range(2)
    ]
    assert [run.wait(timeout=120) for run in runs] == [0, 0]


def enter(gate: Gate, need: int, turn: int, entered: list[int], leave: threading.Event) -> threading.Thread:
    """Start a thread that enters the gate, records its turn and stays until `leave` is set."""

    def work() -> None:
        with gate.entered(need, turn):
            entered.append(turn)
            leave.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def soon(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_the_lowest_turn_enters_next() -> None:
    gate, entered, leave, first = Gate(1, 100), [], threading.Event(), threading.Event()
    threads = [enter(gate, 10, 0, entered, first)]
    assert soon(lambda: entered == [0])
    for i, turn in enumerate((3, 1, 2), start=1):
        threads.append(enter(gate, 10, turn, entered, leave))
        assert soon(lambda: len(gate.waiting) == i)  # noqa: B023 (called at once)
    leave.set()
    first.set()
    for thread in threads:
        thread.join(10)
    assert entered == [0, 1, 2, 3]


def test_the_gate_limits_work_by_processors_and_memory() -> None:
    gate, entered, leave = Gate(2, 100), [], threading.Event()
    threads = [enter(gate, need, turn, entered, leave) for turn, need in enumerate((60, 50))]
    assert soon(lambda: len(entered) == 1 and len(gate.waiting) == 1)  # both together exceed the memory
    leave.set()
    for thread in threads:
        thread.join(10)
    assert sorted(entered) == [0, 1]
    leave.clear()
    threads = [enter(gate, 30, turn, entered, leave) for turn in (0, 1, 2)]
    assert soon(lambda: len(entered) == 4 and len(gate.waiting) == 1)
    leave.set()
    for thread in threads:
        thread.join(10)
    with gate.entered(1000):  # more than the memory, but alone
        assert gate.waiting == []
