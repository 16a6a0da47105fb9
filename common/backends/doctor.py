"""Check which backends are ready by starting the worker of each."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from common.backends import environments, registry
from common.backends.launch import MissingBackendError
from common.backends.processes import Worker
from common.errors import BackendError

__all__ = ["Examination", "examine"]


@dataclass(frozen=True)
class Examination:
    """State of one backend: `where` its interpreter is, and in `mend` how to make it ready if it is not."""

    backend: str
    status: str
    versions: str = ""
    where: str = ""
    mend: str = ""


def _examine(name: str, folder: Path) -> Examination:
    try:
        interpreter = registry.find_interpreter(name)
        where = f"{interpreter.path} ({interpreter.found})" if interpreter else ""
        with Worker(name, folder / name, limit=120) as worker:
            worker.start()
            versions = ", ".join(f"{package} {version}" for package, version in worker.versions.items())
            return Examination(name, "ready", versions, where)
    except MissingBackendError as error:
        return Examination(name, "missing", where=where, mend=str(error))
    except BackendError as error:
        return Examination(name, "broken", mend=f"{error}; reinstall it {environments.install_hint(name)}")


def examine(names: Sequence[str]) -> list[Examination]:
    """Start the workers of these backends side by side and return the state of each."""
    with tempfile.TemporaryDirectory(prefix="rosetta-") as folder, ThreadPoolExecutor(len(names)) as pool:
        return list(pool.map(lambda name: _examine(name, Path(folder)), names))
