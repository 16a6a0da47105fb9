"""Helpers that several test modules share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# Where the tests run in the background of a shell, SIGINT is ignored, and would be in the command too. A function that
# is run between fork and exec could put that right, but forking a process that has loaded JAX is asking for trouble.
INTERRUPTIBLE = (
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_module('common', run_name='__main__')"
)
"""The command, as code for `python -c`, which heeds Ctrl-C."""

FACTS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "networks.json").read_text())
"""What each network must reproduce: input, parameters, multiply-accumulates, summary, manifest (torch's terms)."""


def interruptible(folder: Path, temporary: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the command in a folder, its temporary files in another, so that it can be interrupted."""
    temporary.mkdir()
    return subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
