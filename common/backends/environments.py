"""The Python interpreter of each framework: found by a variable, in a tox environment, or the running one."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from common.errors import BackendError

__all__ = ["PROJECT", "Interpreter", "find_environment", "install_hint"]

PROJECT = Path(__file__).resolve().parent.parent.parent
"""The folder that holds the packages: the checkout, or where they are installed."""


@dataclass(frozen=True)
class Interpreter:
    """The Python that runs a backend, and how it was found."""

    path: Path
    found: str


def _tox_folders() -> list[Path]:
    folders = [Path(os.environ["TOX_WORK_DIR"])] if "TOX_WORK_DIR" in os.environ else []
    return [*folders, PROJECT / ".tox", Path.cwd() / ".tox"]


def find_environment(name: str, modules: Iterable[str]) -> Interpreter | None:
    """Return the interpreter of environment `name`, which holds `modules`, or None where it is not installed.

    It is the one that `ROSETTA_PYTHON_<NAME>` names, else that of the tox environment of that name, else this one
    if it holds the modules. Raises BackendError where the variable names no program.
    """
    variable = f"ROSETTA_PYTHON_{name.upper()}"
    given = os.environ.get(variable)
    if given:
        if not os.access(given, os.X_OK) or os.path.isdir(given):
            raise BackendError(f"{variable} (={given!r}) is no program; give the path of a Python interpreter")
        return Interpreter(Path(given), variable)
    if name == "numpy":
        return Interpreter(Path(sys.executable), "this interpreter")
    for folder in _tox_folders():
        for python in (folder / name / "bin" / "python", folder / name / "Scripts" / "python.exe"):
            if python.exists():
                return Interpreter(python, f"tox environment {name}")
    if all(importlib.util.find_spec(module) for module in modules):
        return Interpreter(Path(sys.executable), "this interpreter")
    return None


def install_hint(name: str) -> str:
    """Return how to install environment `name`, a backend's or another, to stand behind "install it"."""
    if (PROJECT / "tox.ini").exists():
        return f"with `tox run --notest -e {name}`"
    return f"as the extra [{name}] of rosetta, in an environment of its own"
