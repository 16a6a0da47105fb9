"""Heavy modules are imported only when needed, and a port imports no other framework."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support import ROOT

from common.backends import registry

pytestmark = pytest.mark.environment

FRAMEWORKS = {"torch", "jax", "flax", "tensorflow", "keras", "mxnet"}
OWN = {"torch": {"torch"}, "jax": {"jax", "flax"}, "tf": {"tensorflow", "keras"}, "mxnet": {"mxnet"}}


def modules_after(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after `statement`."""
    code = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(result.stdout.splitlines()[-1].split())


def test_the_command_starts_without_heavy_imports() -> None:
    heavy = {"numpy", "safetensors", "rich", "jinja2", "pygments", "markdown_it", "psutil", "junitparser"} | FRAMEWORKS
    assert not modules_after("import common.cli.main") & heavy


@pytest.mark.parametrize(
    "module",
    [
        *("common.weights", "common.images", "common.backends.numpy.backend", "common.parity.harness"),
        *("common.parity.worker", "common.view.side_by_side.render", "common.view.site.build"),
    ],
)
def test_common_imports_no_framework(module: str) -> None:
    assert not modules_after(f"import {module}") & FRAMEWORKS


@pytest.mark.port
def test_a_port_imports_its_own_framework_alone(backend_name: str) -> None:
    found = modules_after(f"import {registry.get(backend_name).package}.backend") & FRAMEWORKS
    assert found == OWN[backend_name]
