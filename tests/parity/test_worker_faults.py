"""Tests of `rosetta parity` with a faulty worker beside working ones.

tests/faulty_worker.py is the real worker with NumPy in place of a framework; it defines the faults.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from junitparser import Error, Failure, JUnitXml
from support import ROOT

from common.backends import registry

FRAMEWORKS = ("torch", "jax", "tf", "mxnet")
WHOLE = "none"
MARK = "ROSETTA_TEST_RUN"


@dataclass
class Run:
    """Result of a finished run of the command."""

    status: int
    out: str
    error: str
    report: dict[str, Any]
    junit: dict[str, tuple[str, str]]
    """Kind of result ("" for a pass) and message of each JUnit case."""

    def cells(self, backend: str, check: str | None = None) -> list[dict[str, Any]]:
        return [
            cell
            for cell in self.report["results"]
            if cell["backend"] == backend and (check is None or cell["check"] == check)
        ]


def _heed_signals() -> None:
    """Restore the signals that a shell ignores for background processes or under nohup."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Parity:
    """Runs `rosetta parity` in a new folder, and checks that it leaves nothing behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.mark = uuid.uuid4().hex
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "TOX_WORK_DIR"},
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(self.temporary),
            MARK: self.mark,
        }

    def have(self, backend: str, fault: str = WHOLE) -> None:
        """Replace a backend's interpreter by one with a fault."""
        path = self.folder / f"{backend}-{fault}"
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT / "tests/faulty_worker.py"}" {fault} "$@"\n')
        path.chmod(0o755)
        self.environment[f"ROSETTA_PYTHON_{backend.upper()}"] = str(path)

    def start(self, *arguments: str, reports: str = "report") -> subprocess.Popen[str]:
        outputs = ("--json", f"{reports}.json", "--junit", f"{reports}.xml")
        return subprocess.Popen(
            [sys.executable, "-m", "common", "parity", "lenet", *arguments, *outputs],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_heed_signals,  # noqa: PLW1509 (there are no threads)
        )

    def end(self, process: subprocess.Popen[str], reports: str = "report") -> Run:
        """Wait for the command, check that there is no traceback, and read its reports."""
        try:
            out, error = process.communicate(timeout=60)
        finally:
            process.kill()
        assert "Traceback" not in out + error
        assert "Warning" not in error
        text = (self.folder / f"{reports}.json").read_text()
        report = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in the JSON"))
        junit = {}
        for suite in JUnitXml.fromfile(str(self.folder / f"{reports}.xml")):
            for case in suite:
                kind = {Error: "error", Failure: "failure"}[type(case.result[0])] if case.result else ""
                junit[f"{suite.name} {case.name}"] = (kind, case.result[0].message if case.result else "")
        return Run(process.returncode, out, error, report, junit)

    def run(self, *arguments: str) -> Run:
        found = self.end(self.start(*arguments))
        self.check_nothing_is_left()
        return found

    def processes(self) -> list[psutil.Process]:
        """Return all processes that a run has started, also those whose parent has gone."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def wait_until(self, condition: Callable[[], object], why: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, why
            time.sleep(0.05)

    def check_nothing_is_left(self) -> None:
        self.wait_until(lambda: not self.processes(), "processes are still running", 5)
        assert list(self.temporary.iterdir()) == []

    def requests(self, backend: str) -> list[Path]:
        """Return the request files of a backend."""
        return list(self.temporary.glob(f"rosetta-*/{backend}/request*.json"))


@pytest.fixture
def parity(tmp_path: Path) -> Iterator[Parity]:
    runs = Parity(tmp_path)
    yield runs
    for process in runs.processes():
        process.kill()


def check_consistent(run: Run, backend: str) -> None:
    """Check that the terminal, the JSON and the JUnit file have the same one-line detail for a backend's cells."""
    for cell in run.cells(backend):
        name = " ".join(filter(None, [cell["network"], cell["variant"], cell["check"], cell["dtype"]]))
        kind, message = run.junit[f"{backend} {name}"]
        expected = {"agree": "", "disagree": "failure", "vacuous": "failure", "error": "error", "missing": "error"}
        assert kind == expected[cell["status"]]
        detail = cell["detail"]
        assert detail.isprintable(), detail
        assert len(detail) < 2100
        assert detail in message
        assert detail in run.out
        if cell["status"] in ("error", "missing"):
            assert f"backend {backend}" in detail


def check_others(run: Run, *faulty: str) -> None:
    others = [cell for cell in run.report["results"] if cell["backend"] not in (faulty or ("torch",))]
    assert others
    assert {(cell["backend"], cell["status"], cell["detail"]) for cell in others} == {
        (cell["backend"], "agree", "") for cell in others
    }


def test_working_workers_pass(parity: Parity) -> None:
    for name in ("torch", "jax", "tf"):
        parity.have(name)
    run = parity.run("--backends", "torch,jax,tf", "--checks", "forward,gradients,training", "--optimizers", "sgd")
    assert run.status == 0, run.out
    assert len(run.report["results"]) == 3 * 3 * 2
    check_others(run, "")
    assert all(value == ("", "") for value in run.junit.values())


DEAD = "was killed by SIGSEGV"
NO_ANSWER = "gave no answer within 4 s and was ended"
NO_JSON = "sent no JSON object"
OTHER = "answered another request than the one sent"

ENDS = {
    # The status of the cells in float64 and float32, and their detail.
    "segfault": ("error", "error", DEAD),
    "abort": ("error", "error", "was killed by SIGABRT"),
    "die_in_float32": ("agree", "error", DEAD),
    "die_at_the_start": ("error", "error", DEAD),
    "die_before_the_first_request": ("error", "error", DEAD),
    "out_of_memory": ("error", "error", "MemoryError"),
    "print_from_python": ("agree", "agree", ""),
    "print_from_c": ("agree", "agree", ""),
    "print_among_the_answers": ("error", "error", f"{NO_JSON} but 'Downloading the model...'"),
    "print_no_text": ("error", "error", NO_JSON),
    "half_an_answer": ("error", "error", NO_JSON),
    "answer_to_another_request": ("error", "error", OTHER),
    "answer_twice": ("agree", "error", OTHER),
    "answer_without_a_cost": ("error", "error", "answered without its seconds and peak_bytes"),
    "answer_of_no_status": ("error", "error", "failed without a reason"),
    "leave_a_child": ("error", "error", DEAD),
    "answer_and_leave_a_child": ("agree", "agree", ""),
    "complain_in_color": ("error", "error", r"ended with status 9: \x1b[31mERROR\x1b[0m \x00 the device is lost"),
    "raise_an_error": ("error", "error", r"RuntimeError: a line \x1b[1mand another\x1b[0m \ud800 of many words"),
    "no_result": ("error", "error", "No such file"),
    "truncated_result": ("error", "error", "wrote files that cannot be compared: Error while deserializing header"),
    "result_of_garbage": ("error", "error", "wrote files that cannot be compared: Error while deserializing header"),
    "too_few": ("disagree", "disagree", "this tap is missing"),
    "too_many": ("disagree", "disagree", "this tap is not in the reference"),
    "nothing_at_all": ("disagree", "disagree", "this tap is missing"),
    "nan": ("disagree", "disagree", "not finite"),
    "infinity": ("disagree", "disagree", "not finite"),
    "other_dtype": ("disagree", "disagree", "expected float"),
    "other_shape": ("disagree", "disagree", "shape"),
    "one_number_for_all": ("disagree", "disagree", "shape"),
    "off_by_a_thousandth": ("disagree", "disagree", ""),
}


def by_threes(faults: Iterable[str]) -> list[list[str]]:
    """Return groups of three faults: one for torch, one for tf and one for mxnet in the same run."""
    names = list(faults)
    return [names[i : i + 3] for i in range(0, len(names), 3)]


def have_faults(parity: Parity, faults: list[str]) -> dict[str, str]:
    """Install a working worker for jax and faulty ones for the others, and return the faulty ones."""
    faulty = dict(zip(("torch", "tf", "mxnet"), faults, strict=False))
    parity.have("jax")
    for backend, fault in faulty.items():
        parity.have(backend, fault)
    return faulty


@pytest.mark.parametrize("faults", by_threes(ENDS), ids=",".join)
def test_a_fault_fails_only_its_own_cells_and_gives_the_reason(parity: Parity, faults: list[str]) -> None:
    faulty = have_faults(parity, faults)
    run = parity.run("--backends", ",".join(["jax", *faulty]))
    for backend, fault in faulty.items():
        *statuses, detail = ENDS[fault]
        assert [cell["status"] for cell in run.cells(backend)] == statuses, run.out
        for cell in run.cells(backend):
            if cell["status"] != "agree":
                assert detail in cell["detail"]
        check_consistent(run, backend)
    check_others(run, *faulty)
    found = {status for fault in faults for status in ENDS[fault][:2]}
    assert run.status == (1 if "disagree" in found else 3 if "error" in found else 0)


SILENT = {
    "hang": NO_ANSWER,
    "hang_at_the_start": NO_ANSWER,
    "hang_with_a_daemon": NO_ANSWER,
    "stop": NO_ANSWER,
    "hang_in_c": NO_ANSWER,
    "close_the_answers": "closed its output and was ended",
}


@pytest.mark.parametrize("faults", by_threes(SILENT), ids=",".join)
def test_a_silent_worker_is_ended(parity: Parity, faults: list[str]) -> None:
    faulty = have_faults(parity, faults)
    # All compute at the same time, so that none waits for a silent one.
    run = parity.run("--backends", ",".join(["jax", *faulty]), "--dtype", "float64", "--timeout", "4", "--jobs", "4")
    for backend, fault in faulty.items():
        (cell,) = run.cells(backend)
        assert cell["status"] == "error"
        assert SILENT[fault] in cell["detail"]
        check_consistent(run, backend)
    check_others(run, *faulty)
    assert run.status == 3


WRONG = ("disagree",) * 4
LEARNING = {
    # Status of gradients in float64 and float32, of training in float64 and float32, and the detail.
    "segfault": ("error", "error", "error", "error", DEAD),
    "die_in_float32": ("agree", "error", "agree", "error", DEAD),
    "answer_without_a_rounding_spread": ("agree", "agree", "agree", "agree", ""),
    "nan_in_the_backend": (*WRONG, ""),
    "infinity": (*WRONG, ""),
    "too_few": (*WRONG, "fc3.weight is missing"),
    "too_many": (*WRONG, "fc3.weights is unexpected"),
    "other_shape": (*WRONG, "fc3.weight has shape (10, 83), expected (10, 84)"),
    "other_dtype": (*WRONG, "expected float"),
    "off_by_a_thousandth": (*WRONG, ""),
}


@pytest.mark.parametrize("fault", LEARNING)
def test_a_fault_in_training_fails_only_its_own_cells(parity: Parity, fault: str) -> None:
    parity.have("torch", fault)
    parity.have("jax")
    parity.have("tf")
    # torch runs first, so that it measures the rounding spread for all.
    run = parity.run(
        "--backends", "torch,jax,tf", "--checks", "gradients,training", "--optimizers", "sgd", "--jobs", "1"
    )
    *statuses, detail = LEARNING[fault]
    assert [cell["status"] for cell in run.cells("torch")] == statuses, run.out
    for cell in run.cells("torch"):
        if cell["status"] != "agree":
            assert detail in cell["detail"]
    check_others(run)
    check_consistent(run, "torch")
    assert run.status == (1 if "disagree" in statuses else 3 if "error" in statuses else 0)


def test_another_backend_measures_the_rounding_spread_if_the_first_one_died(parity: Parity) -> None:
    parity.have("torch", "segfault_late")  # gets the first request and ends last
    parity.have("jax", "late")
    parity.have("tf", "late")
    arguments = ("--checks", "training", "--optimizers", "sgd", "--dtype", "float64", "--jobs", "3")
    run = parity.run("--backends", "torch,jax,tf", *arguments)
    assert [cell["status"] for cell in run.cells("torch")] == ["error"]
    check_others(run)
    assert all(0 < cell["envelope"] < 1e-13 for cell in run.cells("jax"))
    assert run.status == 3


def test_two_runs_at_once_do_not_disturb_each_other(parity: Parity) -> None:
    for name in ("torch", "jax"):
        parity.have(name)
    arguments = ("--backends", "torch,jax", "--checks", "forward,training", "--optimizers", "sgd")
    whole = parity.start(*arguments, reports="whole")
    parity.have("torch", "segfault")
    faulty = parity.start(*arguments, reports="faulty")
    runs = {"whole": parity.end(whole, "whole"), "faulty": parity.end(faulty, "faulty")}
    parity.check_nothing_is_left()
    assert {cell["status"] for cell in runs["whole"].report["results"]} == {"agree"}
    assert runs["whole"].status == 0
    assert {cell["status"] for cell in runs["faulty"].cells("torch")} == {"error"}
    assert {cell["status"] for cell in runs["faulty"].cells("jax", "forward")} == {"agree"}
    assert {cell["status"] for cell in runs["faulty"].cells("jax", "training")} == {"vacuous"}


@pytest.mark.parametrize(
    "signals",
    [
        [signal.SIGINT],
        [signal.SIGTERM],
        [signal.SIGHUP],
        [signal.SIGINT, signal.SIGINT],
        [signal.SIGINT, signal.SIGTERM],
    ],
    ids=lambda sent: ",".join(number.name for number in sent),
)
def test_an_interrupted_run_leaves_nothing(parity: Parity, signals: list[signal.Signals]) -> None:
    parity.have("torch", "hang")
    parity.have("jax", "hang_with_a_daemon")
    process = parity.start("--backends", "torch,jax")
    try:
        parity.wait_until(lambda: parity.requests("torch") and parity.requests("jax"), "the workers got no request")
        for number in signals:
            process.send_signal(number)
            time.sleep(0.02)  # the second arrives while the first is being handled
        out, error = process.communicate(timeout=20)
    finally:
        process.kill()
    # A late second signal may end Python itself.
    assert process.returncode in {128 + signals[0], 128 + signals[-1], *(-number for number in signals[1:])}
    assert "Traceback" not in out + error
    assert "Exception" not in out + error
    parity.check_nothing_is_left()
    assert {path.name for path in parity.folder.iterdir()} == {"tmp", "torch-hang", "jax-hang_with_a_daemon"}


def test_the_workers_of_a_killed_run_end_by_themselves(parity: Parity) -> None:
    parity.have("torch", "hang")
    parity.have("jax", "hang_with_a_child")
    process = parity.start("--backends", "torch,jax")
    try:
        parity.wait_until(lambda: parity.requests("torch") and parity.requests("jax"), "the workers got no request")
    finally:
        process.kill()
        process.communicate()
    parity.wait_until(lambda: not parity.processes(), "processes are still running", 10)


def test_a_worker_killed_from_outside_fails_only_its_cell(parity: Parity) -> None:
    parity.have("torch", "hang")
    parity.have("jax")
    process = parity.start("--backends", "torch,jax", "--dtype", "float64")
    parity.wait_until(lambda: parity.requests("torch"), "the worker got no request")
    for child in psutil.Process(process.pid).children():
        if child.cmdline()[-1] == "torch":
            child.kill()
    run = parity.end(process)
    parity.check_nothing_is_left()
    (cell,) = run.cells("torch")
    assert (cell["status"], cell["detail"]) == ("error", "backend torch was killed by SIGKILL (out of memory?)")
    check_others(run)
    assert run.status == 3


@pytest.fixture
def absent() -> str:
    """A framework that this interpreter does not have; none has all four."""
    return next(name for name in FRAMEWORKS if not all(importlib.util.find_spec(m) for m in registry.get(name).modules))


def check_missing(run: Run, backend: str) -> None:
    assert run.report["backends"][backend]["status"] == "missing"
    assert {cell["status"] for cell in run.cells(backend)} == {"missing"}
    assert f"backend {backend} is not installed" in run.out
    check_consistent(run, backend)
    check_others(run, backend)
    assert run.status == 3


def test_an_interpreter_without_the_framework_is_missing(parity: Parity) -> None:
    parity.have("torch", "no_framework")
    parity.have("jax")
    check_missing(parity.run("--backends", "torch,jax"), "torch")


def test_a_framework_that_is_not_installed_is_missing_by_default_too(parity: Parity, absent: str) -> None:
    for name in FRAMEWORKS:
        if name != absent:
            parity.have(name)
    # A copy has no tox environments.
    shutil.copytree(ROOT / "common", parity.folder / "common", ignore=shutil.ignore_patterns("__pycache__"))
    parity.environment["PYTHONPATH"] = str(parity.folder)
    run = parity.run()
    assert [cell["backend"] for cell in run.report["results"]] == [*FRAMEWORKS, *FRAMEWORKS]  # in both dtypes
    check_missing(run, absent)


def test_the_tests_of_a_port_fail_where_its_framework_is_missing(absent: str) -> None:
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "tests/ports/test_backend.py",
            "--backend",
            absent,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == pytest.ExitCode.TESTS_FAILED, result.stdout
    assert " passed" not in result.stdout
    assert "No module named" in result.stdout
