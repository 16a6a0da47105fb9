"""Tests of the documented example of comparing own ports, each framework in its own environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

pytestmark = pytest.mark.across

EXAMPLE = ROOT / "examples" / "squeezenet"


def run(*arguments: object, folder: Path) -> str:
    # Not from the project's folder: what the example imports is installed.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, *map(str, arguments)]
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert not ended.stderr, ended.stderr
    return ended.stdout


def test_the_example_prints_the_output_in_the_docs(tmp_path: Path) -> None:
    printed = [line.rstrip() for line in run(EXAMPLE / "first_try.py", folder=tmp_path).rstrip().splitlines()]
    page = (ROOT / "docs" / "own_port.md").read_text()
    shown = page.partition("```text\n")[2].partition("\n```")[0].splitlines()
    # The last line ends with how long it took.
    assert printed[:-1] == shown[:-1]
    assert printed[-1].startswith("5 disagree in")


def test_all_ports_of_the_example_pass(tmp_path: Path) -> None:
    html = tmp_path / "report.html"
    printed = run("-m", "pytest", EXAMPLE, "-p", "no:cacheprovider", "--parity-html", html, folder=tmp_path)
    assert "4 passed" in printed, printed
    assert "18 pass" in printed
    page = html.read_text()
    assert "only tf make has" in page
    assert "test_port_is_torchs_network[gluon]" in page
