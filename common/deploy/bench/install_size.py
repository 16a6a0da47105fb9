"""Installed size and versions of distributions with all their dependencies.

`python -m common.deploy.bench.install_size DISTRIBUTION...` prints JSON with `bytes` and `versions`, for the
environment that runs it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["closure", "installed", "size"]


def installed(environment: str, needs: Iterable[str], log: Path) -> tuple[int, dict[str, str]]:
    """Return the bytes and the versions of `needs` and their dependencies in an environment, measured in a process.

    Its standard error goes to `log`. Raises BackendError if the environment or a distribution is missing.
    """
    from common.backends import launch  # not in the process, whose environment may lack its imports

    python = launch.interpreter(environment).path
    arguments = ["-m", "common.deploy.bench.install_size", *needs]
    answer = json.loads(launch.launch(python, arguments, launch.environment(1), log, limit=120))
    return answer["bytes"], answer["versions"]


def closure(needs: Iterable[str]) -> dict[str, metadata.Distribution]:
    """Return the required distributions and all their dependencies, by name.

    Raises PackageNotFoundError if one of `needs` is not installed.
    """
    distributions: dict[str, metadata.Distribution] = {}
    pending = [Requirement(need) for need in needs]
    for requirement in pending:
        distributions[canonicalize_name(requirement.name)] = metadata.distribution(requirement.name)
    seen: set[tuple[str, str]] = set()
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        for extra in requirement.extras | {""}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                distributions.setdefault(name, metadata.distribution(name))
            except metadata.PackageNotFoundError:
                continue  # not installed, so it takes no space
            for text in distributions[name].requires or ():
                dependency = Requirement(text)
                if dependency.marker is None or dependency.marker.evaluate({"extra": extra}):
                    pending.append(dependency)
    return dict(sorted(distributions.items()))


def size(distributions: Iterable[metadata.Distribution]) -> int:
    """Return the bytes of distributions, as their RECORD files list them: without compiled bytecode."""
    return sum(file.size or 0 for each in distributions for file in each.files or ())


def main(needs: Iterable[str]) -> int:
    """Print the size and the versions; exit status 3 if a distribution is not installed."""
    try:
        distributions = closure(needs)
    except metadata.PackageNotFoundError as error:
        print(f"{error.name} is not installed in {sys.executable}", file=sys.stderr)  # noqa: T201
        return 3
    versions = {name: each.version for name, each in distributions.items()}
    print(json.dumps({"bytes": size(distributions.values()), "versions": versions}))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
