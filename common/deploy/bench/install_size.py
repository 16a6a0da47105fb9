"""What must be installed for something to run, and how large that is: asked of the environment that holds it.

`python -m common.deploy.bench.install_size DISTRIBUTION...` prints JSON: `bytes` and `versions`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["closure", "size"]


def closure(needs: Iterable[str]) -> dict[str, metadata.Distribution]:
    """Return by name the distributions that requirements ask for, and all that these ask for in turn.

    Raises PackageNotFoundError where one of `needs` is not installed.
    """
    found: dict[str, metadata.Distribution] = {}
    asked = [Requirement(need) for need in needs]
    for requirement in asked:
        found[canonicalize_name(requirement.name)] = metadata.distribution(requirement.name)
    seen: set[tuple[str, str]] = set()
    while asked:
        requirement = asked.pop()
        name = canonicalize_name(requirement.name)
        for extra in requirement.extras | {""}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                found.setdefault(name, metadata.distribution(name))
            except metadata.PackageNotFoundError:
                continue  # installed without its dependencies: nothing of it takes room
            for text in found[name].requires or ():
                wanted = Requirement(text)
                if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                    asked.append(wanted)
    return dict(sorted(found.items()))


def size(distributions: Iterable[metadata.Distribution]) -> int:
    """Return how many bytes distributions take, as their records say: without what Python compiles later."""
    return sum(file.size or 0 for each in distributions for file in each.files or ())


def main(needs: Iterable[str]) -> int:
    """Print what `needs` take and their versions; status 3 where one is not installed."""
    try:
        found = closure(needs)
    except metadata.PackageNotFoundError as error:
        print(f"{error.name} is not installed in {sys.executable}", file=sys.stderr)  # noqa: T201
        return 3
    versions = {name: each.version for name, each in found.items()}
    print(json.dumps({"bytes": size(found.values()), "versions": versions}))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
