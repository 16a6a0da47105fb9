"""Run what docs/pitfalls.md tells: each example in its framework, and parity over each mistake put into each port.

    python benchmarks/pitfalls.py -o docs/pitfalls.md

Without `-o` the page, with the figures of now, is printed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common.backends import environments

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from common.backends import registry
from common.mutants import page, pitfalls, run

PORTS = [name for name in registry.BACKENDS if name != "numpy"]


def interpreter(backend: str) -> Path:
    """Return a backend's interpreter; all must be there, or the page would lose their figures."""
    found = registry.find_interpreter(backend)
    if found is None:
        sys.exit(f"backend {backend} is not installed; install it {environments.install_hint(backend)}")
    return found.path


def main() -> None:
    """Run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, help="where to write the page")
    options = parser.parse_args()
    text = page.PAGE.read_text(encoding="utf-8")
    printed: dict[page.Example, str] = {}
    for backend in registry.BACKENDS:
        own = [example for example in page.examples(text) if example.backend == backend]
        printed |= zip(own, page.outputs([example.code for example in own], interpreter(backend)), strict=True)
    mutants = [mutant for backend in PORTS for mutant in pitfalls.pitfall_mutants(backend)]
    found = page.rows(run.run(mutants, PORTS))
    text = page.updated(text, printed, found)
    if options.output is None:
        print(text, end="")
    else:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
