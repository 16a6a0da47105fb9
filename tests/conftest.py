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
    if not config.getoption("--across"):
        several = [item for item in items if item.get_closest_marker("across")]
        config.hook.pytest_deselected(items=several)
        items[:] = [item for item in items if item not in several]
    if not config.getoption("--thorough"):
        exhaustive = [i for i in items if i.get_closest_marker("thorough") or is_thorough(i.nodeid)]
        config.hook.pytest_deselected(items=exhaustive)
        items[:] = [item for item in items if item not in exhaustive]
    wanted = config.getoption("--in-browser")
    others = [item for item in items if bool(item.get_closest_marker("browser")) != wanted]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]
    # Without --backend, run only framework-free tests. With it, a missing framework is a failure.
    if config.getoption("--backend") == "numpy":
        ports = [item for item in items if item.get_closest_marker("port")]
        config.hook.pytest_deselected(items=ports)
        items[:] = [item for item in items if item not in ports]


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
