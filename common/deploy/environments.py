"""The environments that paths and formats name: which interpreter is whose, and one process in one of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from common import backends
from common.backends import BACKENDS, Interpreter
from common.errors import BackendError

__all__ = ["MODULES", "MissingEnvironmentError", "environment_variables", "interpreter", "run", "versions"]

MODULES: Mapping[str, tuple[str, ...]] = {
    **{name: info.modules for name, info in BACKENDS.items()},
    "runtimes": ("onnxruntime", "openvino", "ai_edge_litert"),
    "jax_tf": ("jax", "flax", "tensorflow"),
}
"""What each environment holds: by this it is recognised where it is the one that runs already."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")


class MissingEnvironmentError(BackendError):
    """An environment that is not installed."""


def interpreter(environment: str) -> Interpreter:
    """Return an environment's interpreter. Raises MissingEnvironmentError, with the line that installs it."""
    found = backends.find_environment(environment, MODULES[environment])
    if found is None:
        raise MissingEnvironmentError(
            f"environment {environment} ({', '.join(MODULES[environment])}) is not installed; install it "
            f"{backends.install_hint(environment)}, or name an interpreter that has it in "
            f"ROSETTA_PYTHON_{environment.upper()}"
        )
    return found


def environment_variables(threads: int) -> dict[str, str]:
    """Return the variables of a process that is to compute with so many threads, and to say little of itself."""
    return {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads)), "TF_CPP_MIN_LOG_LEVEL": "3"}


def run(environment: str, arguments: Sequence[str], log: Path, limit: float, threads: int, ours: bool = True) -> int:
    """Run an environment's Python with these arguments and return its exit status; what it prints goes to `log`.

    `ours`: it runs the code of this checkout, rather than nothing of this project. A process that takes longer than
    `limit` seconds is ended, with all that it started. Raises BackendError then, MissingEnvironmentError where the
    environment is not installed.
    """
    python = interpreter(environment)
    variables = environment_variables(threads)
    if ours and (backends.PROJECT / "pyproject.toml").exists():
        variables["PYTHONPATH"] = str(backends.PROJECT)
    elif not ours:
        variables.pop("PYTHONPATH", None)
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(python.path), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=variables,
                start_new_session=True,
            )
    except OSError as error:
        raise BackendError(f"environment {environment}: cannot start {python.path}: {error.strerror}") from None
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        raise BackendError(f"environment {environment}: no answer within {limit:.0f} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def versions(environment: str, distributions: Sequence[str]) -> dict[str, str]:
    """Return the versions of distributions that an environment has; those that it has not are left out."""
    code = (
        "import importlib.metadata as m, json, sys\n"
        "installed = {d.name.lower(): d.version for d in m.distributions()}\n"
        "print(json.dumps({name: installed[name] for name in sys.argv[1:] if name in installed}))"
    )
    command = [str(interpreter(environment).path), "-c", code, *distributions]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    found: dict[str, str] = json.loads(result.stdout) if result.returncode == 0 else {}
    return found
