"""Options and fixtures: the backend that `--backend` names, and the command."""

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

from common.backends import registry
from common.backends.protocol import Backend


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", choices=list(registry.BACKENDS), default="numpy", help="whose port to test")
    parser.addoption("--in-browser", action="store_true", help="run what needs chromium, and nothing else")
    parser.addoption("--thorough", action="store_true", help="run the exhaustive tests too")
    parser.addoption("--across", action="store_true", help="run what needs all frameworks, each in its environment")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--across"):
        several = [item for item in items if item.get_closest_marker("across")]
        config.hook.pytest_deselected(items=several)
        items[:] = [item for item in items if item not in several]
    if not config.getoption("--thorough"):
        exhaustive = [item for item in items if item.get_closest_marker("thorough")]
        config.hook.pytest_deselected(items=exhaustive)
        items[:] = [item for item in items if item not in exhaustive]
    wanted = config.getoption("--in-browser")
    others = [item for item in items if bool(item.get_closest_marker("browser")) != wanted]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]
    # Without a framework only the framework-free tests are asked for; with one, its absence is a failure.
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
    """The package of the port; its Backend is made first, since that turns on what float64 needs in JAX."""
    return importlib.import_module(registry.get(backend_name).package)


@pytest.fixture
def rosetta(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command, run in a folder of its own."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "common", *map(str, arguments)],
            cwd=tmp_path,
            # A test runner may say how wide its own terminal is.
            env={**{k: v for k, v in os.environ.items() if k != "COLUMNS"}, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run
