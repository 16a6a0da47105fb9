"""Regenerate docs/pitfalls.md: run each example in its framework, and parity on each mistake in each port.

    python benchmarks/pitfalls.py -o docs/pitfalls.md

Without `-o`, print the page.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from common.backends import environments, registry
from common.mutants import page, pitfalls, run

PORTS = [name for name in registry.BACKENDS if name != "numpy"]


def interpreter_path(backend: str) -> Path:
    """Return a backend's interpreter; exit if the backend is missing, since the page needs the results of all."""
    interpreter = registry.find_interpreter(backend)
    if interpreter is None:
        sys.exit(f"backend {backend} is not installed; install it {environments.install_hint(backend)}")
    return interpreter.path


def main() -> None:
    """Run everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, help="where to write the page")
    options = parser.parse_args()
    text = page.PAGE.read_text(encoding="utf-8")
    printed: dict[page.Example, str] = {}
    for backend in registry.BACKENDS:
        own = [example for example in page.examples(text) if example.backend == backend]
        printed |= zip(own, page.outputs([example.code for example in own], interpreter_path(backend)), strict=True)
    mutants = [mutant for backend in PORTS for mutant in pitfalls.pitfall_mutants(backend)]
    text = page.updated(text, printed, page.rows(run.run(mutants, PORTS)))
    if options.output is None:
        print(text, end="")
    else:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
