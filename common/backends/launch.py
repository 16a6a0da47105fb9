"""Start processes in the Python environments of the frameworks.

Persistent workers (`start`), runs that end with an answer (`launch`) and commands that continue in the interpreter of
a framework (`run_command`) all find their interpreter, their environment variables and their cause of death here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from common.backends import environments
from common.backends.environments import Interpreter
from common.backends.registry import BACKENDS
from common.errors import BackendError

__all__ = [
    "MODULES",
    "THREAD_VARIABLES",
    "MissingBackendError",
    "cause_of_death",
    "end",
    "end_with_parent",
    "environment",
    "interpreter",
    "launch",
    "project_environment",
    "run_command",
    "start",
]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
"""The variables from which numerical libraries read their number of threads."""

_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH", "JAX_COMPILATION_CACHE_DIR")
"""Variables that name the folders in which runtimes keep compiled code."""

MODULES: Mapping[str, tuple[str, ...]] = {
    **{name: info.modules for name, info in BACKENDS.items()},
    "runtimes": ("onnxruntime", "openvino", "ai_edge_litert"),
    "jax_tf": ("jax", "flax", "tensorflow"),
}
"""The modules of each environment. The running interpreter serves as the environment if it has them all."""

_CODE = {"PYTHONPATH": str(environments.PROJECT)} if (environments.PROJECT / "pyproject.toml").exists() else {}
"""Variables that make other environments import this checkout. An installed rosetta stays off their path, since its
folder holds other packages too; they have a rosetta of their own."""

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCONT, signal.SIGTSTP)


class MissingBackendError(BackendError):
    """A backend or another environment that is not installed."""


def interpreter(environment: str) -> Interpreter:
    """Return the interpreter of an environment. Raises MissingBackendError with the command that installs it."""
    modules = MODULES.get(environment, (environment,))  # an environment of one library has its name
    found = environments.find_environment(environment, modules)
    if found is None:
        known = environment in BACKENDS
        what = f"backend {environment}" if known else f"environment {environment} ({', '.join(modules)})"
        raise MissingBackendError(
            f"{what} is not installed; install it {environments.install_hint(environment)}, or name an interpreter "
            f"that has it in ROSETTA_PYTHON_{environment.upper()}"
        )
    return found


def project_environment(**variables: str) -> dict[str, str]:
    """Return this process's environment variables with changes, and with this checkout's code on the path."""
    return {**os.environ, **_CODE, **variables}


def environment(threads: int, caches: Path | None = None, ours: bool = True) -> dict[str, str]:
    """Return the variables of a measured process: this number of threads, and compiled code kept in `caches`.

    `ours`: it imports this project. Settings of the user that would change the measurement are overridden.
    """
    variables = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
    variables["TF_NUM_INTEROP_THREADS"] = "1"
    variables.pop("PYTHONPATH", None)
    if caches is not None:
        variables |= {variable: str(caches / variable.lower()) for variable in _CACHES}
    return variables | (_CODE if ours else {})


def _open(command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(command, encoding="utf-8", errors="replace", **options)
    except OSError as error:
        raise BackendError(f"cannot start {command[0]}: {error.strerror}") from None


def start(
    python: Path, arguments: Sequence[str], variables: Mapping[str, str], log: Path, stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[str]:
    """Start `python ARGUMENTS` as the leader of a session; its output is a pipe, its standard error goes to `log`.

    Raises BackendError if it cannot be started.
    """
    with log.open("wb") as errors:
        return _open(
            [str(python), *arguments],
            env=variables,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )


def launch(python: Path, arguments: Sequence[str], variables: Mapping[str, str], log: Path, limit: float) -> str:
    """Run `python ARGUMENTS` and return its standard output; its standard error goes to `log`.

    Raises BackendError if it cannot be started, fails, or takes more than `limit` seconds.
    """
    process = start(python, arguments, variables, log)
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        raise BackendError(f"it was not done within {limit:g} s and was ended; --timeout gives it longer") from None
    finally:
        end(process)
        if process.stdout is not None:
            process.stdout.close()
    if process.returncode:
        raise BackendError(f"its process {cause_of_death(process.returncode, log)}")
    return output


def run_command(python: Path, arguments: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run `python ARGUMENTS` with this process's standard streams and return its exit status, 128 + N for signal N.

    The child has a process group of its own and gets every signal from here: otherwise Ctrl-C, which the terminal
    sends to a whole group, would reach it twice. Raises BackendError if it cannot be started.
    """
    process: subprocess.Popen[str] | None = None
    early: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        if process is None:
            early.append(number)
        else:
            process.send_signal(number)
            if number == signal.SIGTSTP:
                os.kill(os.getpid(), signal.SIGSTOP)

    # Ignored signals (as under nohup) stay ignored, in the child too.
    numbers = [number for number in _FORWARDED if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        process = _open([str(python), *arguments], env=variables, process_group=0)
        for number in early:
            process.send_signal(number)
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status


def end(process: subprocess.Popen[Any]) -> None:
    """Kill a process that leads its own session, and all its descendants."""
    # Descendants that lead sessions of their own can be found only while their parent lives.
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def end_with_parent() -> None:
    """Watch this process's parent from a thread, and kill this process's group once the parent has gone.

    A parent that is killed cannot end its children.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def cause_of_death(status: int, log: Path) -> str:
    """Return why a process ended, from its exit status and the last line of its standard error."""
    if status < 0:
        cause = f"was killed by {signal.Signals(-status).name}"
        if -status == signal.SIGKILL:
            cause += " (out of memory?)"
    else:
        cause = f"ended with status {status}"
    last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
    return cause + (f": {last[0].strip()}" if last else "")
