"""Find the Python interpreter of each framework."""

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
"""The folder that contains the package `common`: a checkout or site-packages."""


@dataclass(frozen=True)
class Interpreter:
    """A Python interpreter and how it was found."""

    path: Path
    found: str


def _tox_folders() -> list[Path]:
    folders = [Path(os.environ["TOX_WORK_DIR"])] if "TOX_WORK_DIR" in os.environ else []
    return [*folders, PROJECT / ".tox", Path.cwd() / ".tox"]


def find_environment(name: str, modules: Iterable[str]) -> Interpreter | None:
    """Return the interpreter of environment `name`, or None if it is not installed.

    In this order: the one that the variable `ROSETTA_PYTHON_<NAME>` names, that of the tox environment of that name,
    the running one if it has all `modules`. Raises BackendError if the variable names no program.
    """
    variable = f"ROSETTA_PYTHON_{name.upper()}"
    given = os.environ.get(variable)
    if given:
        if not os.access(given, os.X_OK) or os.path.isdir(given):
            raise BackendError(f"{variable} (={given!r}) is not executable; give the path of a Python interpreter")
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
    """Return how to install environment `name`, in words that follow "install it"."""
    if (PROJECT / "tox.ini").exists():
        return f"with `tox run --notest -e {name}`"
    return f"as the extra [{name}] of rosetta, in an environment of its own"
