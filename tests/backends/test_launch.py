"""Tests of commands that continue in another interpreter: signals, exit status, leftover processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support import ROOT

PARENT = """
import os, signal, sys
from pathlib import Path
from common.backends.launch import run_command
signal.signal(signal.SIGINT, signal.SIG_IGN if sys.argv[1] == "ignore" else signal.default_int_handler)
sys.exit(run_command(Path(sys.executable), ["-c", sys.argv[2], sys.argv[3]], dict(os.environ)))
"""
# Writes a line for its start and one for each signal; SIGTERM ends it, after a while so that a second one would count.
CHILD = """
import os, signal, sys, time
from common.backends.launch import end_with_parent
end_with_parent()
log = open(sys.argv[1], "a", buffering=1)
def note(number, frame):
    print(signal.Signals(number).name, file=log)
    if number == signal.SIGTERM:
        time.sleep(0.3)
        sys.exit(7)
for number in (signal.SIGTERM, *([signal.SIGINT] if signal.getsignal(signal.SIGINT) != signal.SIG_IGN else [])):
    signal.signal(number, note)
print(os.getpid(), file=log)
while True:
    time.sleep(0.01)
"""


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Start a command that runs another one, with the log of the other."""

    def start(code: str = CHILD, interrupts: str = "heed") -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", PARENT, interrupts, code, str(tmp_path / "log")],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )

    return start


def lines(tmp_path: Path, count: int) -> list[str]:
    """Return the child's lines once there are `count` of them."""
    deadline = time.monotonic() + 60
    while True:
        path = tmp_path / "log"
        found = path.read_text().splitlines() if path.exists() else []
        if len(found) >= count:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.01)


def test_a_signal_to_the_whole_group_or_to_the_parent_reaches_the_child_once(command: Callable, tmp_path: Path) -> None:
    process = command()
    lines(tmp_path, 1)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does on Ctrl-C
    lines(tmp_path, 2)
    process.send_signal(signal.SIGINT)
    lines(tmp_path, 3)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) == 7
    assert lines(tmp_path, 4)[1:] == ["SIGINT", "SIGINT", "SIGTERM"]


def test_an_ignored_interruption_stays_ignored_in_the_child(command: Callable, tmp_path: Path) -> None:
    process = command(interrupts="ignore")
    lines(tmp_path, 1)
    os.killpg(process.pid, signal.SIGINT)
    process.terminate()
    assert process.wait(60) == 7
    assert lines(tmp_path, 2)[1:] == ["SIGTERM"]


@pytest.mark.parametrize(("code", "status"), [("raise SystemExit(5)", 5), ("import os; os.abort()", 128 + 6), ("", 0)])
def test_the_exit_status_is_the_childs(command: Callable, code: str, status: int) -> None:
    assert command(code).wait(60) == status


def test_the_child_does_not_outlive_a_killed_parent(command: Callable, tmp_path: Path) -> None:
    process = command()
    child = psutil.Process(int(lines(tmp_path, 1)[0]))
    process.kill()
    process.wait(60)
    deadline = time.monotonic() + 60
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ctrl_z_stops_both_and_both_continue(command: Callable, tmp_path: Path) -> None:
    process = command()
    both = [psutil.Process(process.pid), psutil.Process(int(lines(tmp_path, 1)[0]))]
    os.killpg(process.pid, signal.SIGTSTP)
    deadline = time.monotonic() + 60
    while any(each.status() != psutil.STATUS_STOPPED for each in both):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGCONT)
    process.terminate()
    assert process.wait(60) == 7
