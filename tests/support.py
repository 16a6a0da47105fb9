"""Helpers that several test modules share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# A shell that runs the tests in the background makes them ignore SIGINT, which the command inherits. A `preexec_fn`
# could restore it, but forking a process that has loaded JAX is unsafe.
INTERRUPTIBLE = (
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_module('common', run_name='__main__')"
)
"""Code for `python -c` that runs the command with Ctrl-C enabled."""

FACTS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "networks.json").read_text())
"""Expected values of each network: input, parameters, multiply-accumulates, summary, manifest (in PyTorch's terms)."""


def interruptible(folder: Path, temporary: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start an interruptible command in `folder`, with its temporary files in `temporary`."""
    temporary.mkdir()
    return subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
