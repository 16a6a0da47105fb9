"""Starting processes that are measured: pinned threads, caches of their own, a limit, and what they died of."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from common import backends
from common.backends import Interpreter
from common.deploy.paths import ExecutionPath
from common.errors import BackendError
from common.parity.processes import MissingBackendError, cause_of_death, end

__all__ = ["environment", "interpreter", "launch"]

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH", "JAX_COMPILATION_CACHE_DIR")
"""Where runtimes keep what they compiled from one process to the next."""
_MODULES = {"tensorflow-cpu": "tensorflow"}
"""What a distribution is imported as, where that is not its name."""


def interpreter(path: ExecutionPath) -> Interpreter:
    """Return the interpreter that an execution path runs in. Raises MissingBackendError where there is none."""
    modules = [_MODULES.get(need, need.replace("-", "_")) for need in path.needs]
    found = backends.find_environment(path.environment, modules)
    if found is None:
        raise MissingBackendError(
            f"environment {path.environment} is not installed; install it {backends.install_hint(path.environment)}, "
            f"or name an interpreter that has it in ROSETTA_PYTHON_{path.environment.upper()}"
        )
    return found


def environment(threads: int, caches: Path | None = None) -> dict[str, str]:
    """Return the variables of a process with so many threads that keeps what it compiles in `caches`."""
    # Whatever the user has set for other work: here the number of threads is what is measured.
    found = dict(os.environ, TF_NUM_INTEROP_THREADS="1", **dict.fromkeys(_THREADS, str(threads)))
    found.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if caches is not None:
        found |= {variable: str(caches / variable.lower()) for variable in _CACHES}
    if (backends.PROJECT / "pyproject.toml").exists():
        found["PYTHONPATH"] = str(backends.PROJECT)
    return found


def launch(python: Path, arguments: Sequence[str], variables: dict[str, str], log: Path, limit: float) -> str:
    """Run `python -m ARGUMENTS` and return its standard output; its standard error goes to `log`.

    Raises BackendError where it cannot be started, dies, or is not done within `limit` seconds.
    """
    with log.open("wb") as errors:
        try:
            process = subprocess.Popen(
                [str(python), "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
                errors="replace",
                env=variables,
                start_new_session=True,
            )
        except OSError as error:
            raise BackendError(f"cannot start {python}: {error.strerror}") from None
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
