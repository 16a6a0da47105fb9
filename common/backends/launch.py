"""Starting processes that are measured: pinned threads, caches of their own, a limit, and what they died of."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.backends import environments
from common.backends.environments import Interpreter
from common.backends.processes import THREAD_VARIABLES, MissingBackendError, cause_of_death, end
from common.backends.registry import BACKENDS
from common.errors import BackendError

__all__ = ["MODULES", "environment", "interpreter", "launch"]

_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH", "JAX_COMPILATION_CACHE_DIR")
"""Where runtimes keep what they compiled from one process to the next."""

MODULES: Mapping[str, tuple[str, ...]] = {
    **{name: info.modules for name, info in BACKENDS.items()},
    "runtimes": ("onnxruntime", "openvino", "ai_edge_litert"),
    "jax_tf": ("jax", "flax", "tensorflow"),
}
"""What each environment holds: by this it is recognized where it is the one that runs already."""


def interpreter(environment: str) -> Interpreter:
    """Return an environment's interpreter. Raises MissingBackendError, with the line that installs it."""
    # An environment of one library has its name.
    modules = MODULES.get(environment, (environment,))
    found = environments.find_environment(environment, modules)
    if found is None:
        raise MissingBackendError(
            f"environment {environment} ({', '.join(modules)}) is not installed; install it "
            f"{environments.install_hint(environment)}, or name an interpreter that has it in "
            f"ROSETTA_PYTHON_{environment.upper()}"
        )
    return found


def environment(threads: int, caches: Path | None = None, ours: bool = True) -> dict[str, str]:
    """Return the variables of a process with so many threads that keeps what it compiles in `caches`.

    `ours`: it runs the code of this checkout, rather than nothing of this project.
    """
    # Whatever the user has set for other work: here the number of threads is what is measured.
    found = dict(os.environ, TF_NUM_INTEROP_THREADS="1", **dict.fromkeys(THREAD_VARIABLES, str(threads)))
    found.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if caches is not None:
        found |= {variable: str(caches / variable.lower()) for variable in _CACHES}
    found.pop("PYTHONPATH", None)
    if ours and (environments.PROJECT / "pyproject.toml").exists():
        found["PYTHONPATH"] = str(environments.PROJECT)
    return found


def launch(python: Path, arguments: Sequence[str], variables: dict[str, str], log: Path, limit: float) -> str:
    """Run `python ARGUMENTS` and return its standard output; its standard error goes to `log`.

    Raises BackendError where it cannot be started, dies, or is not done within `limit` seconds.
    """
    with log.open("wb") as errors:
        try:
            process = subprocess.Popen(
                [str(python), *arguments],
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
