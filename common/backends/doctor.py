"""Which backends are ready: each is started, as parity would start it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from common.backends import environments, registry
from common.backends.processes import MissingBackendError, Worker
from common.errors import BackendError

__all__ = ["Examination", "examine"]


@dataclass(frozen=True)
class Examination:
    """What is known of one backend; `mend` says how to get it ready, and is empty where it is."""

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
        return Examination(name, "broken", mend=f"{error}; install it anew {environments.install_hint(name)}")


def examine(names: Sequence[str]) -> list[Examination]:
    """Start each backend's worker and say how that went."""
    with tempfile.TemporaryDirectory(prefix="rosetta-") as folder, ThreadPoolExecutor(len(names)) as pool:
        return list(pool.map(lambda name: _examine(name, Path(folder)), names))
