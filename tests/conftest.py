"""Options and fixtures: the backend of `--backend`, and the command `rosetta`."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from support import ROOT
from thorough import is_thorough

from common.backends import registry
from common.backends.protocol import Backend


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", choices=list(registry.BACKENDS), default="numpy", help="the port to test")
    parser.addoption("--in-browser", action="store_true", help="run only the tests that need Chromium")
    parser.addoption("--thorough", action="store_true", help="also run the exhaustive tests")
    parser.addoption(
        "--across", action="store_true", help="also run the tests that need all frameworks, each in its environment"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    tested = config.getoption("--backend")

    def runs(item: pytest.Item) -> bool:
        if item.get_closest_marker("across") and not config.getoption("--across"):
            return False
        if bool(item.get_closest_marker("browser")) != config.getoption("--in-browser"):
            return False
        if is_thorough(item.nodeid) and not config.getoption("--thorough"):
            return False
        # Without --backend, run only framework-free tests. With it, a missing framework is a failure.
        return all(tested != "numpy" and tested in (mark.args or [tested]) for mark in item.iter_markers("port"))

    config.hook.pytest_deselected(items=[item for item in items if not runs(item)])
    items[:] = [item for item in items if runs(item)]


@pytest.fixture(scope="session")
def backend_name(request: pytest.FixtureRequest) -> str:
    return request.config.getoption("--backend")


@pytest.fixture(scope="session")
def backend(backend_name: str) -> Backend:
    return registry.load(backend_name)


@pytest.fixture(scope="session")
def port(backend_name: str, backend: Backend) -> ModuleType:
    """The package of the port. Its Backend is created first, which enables float64 in JAX."""
    return importlib.import_module(registry.get(backend_name).package)


@pytest.fixture
def rosetta(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command in a temporary folder."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "common", *map(str, arguments)],
            cwd=tmp_path,
            # The test runner may set COLUMNS for its own terminal.
            env={**{k: v for k, v in os.environ.items() if k != "COLUMNS"}, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run
