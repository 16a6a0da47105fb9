"""Export a network to every format from every backend, verify each artifact, and print a table.

    python benchmarks/exports.py resnet18 --markdown

If an export fails, its row shows the reason.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from rich import box
from rich.console import Console
from rich.table import Table

from common import catalog, weights
from common.deploy.bench.inputs import size_on_disk
from common.deploy.execution_paths import PATHS
from common.deploy.export.export import ExportRequest, export
from common.deploy.export.formats import FORMATS
from common.errors import RosettaError


def rows(network: catalog.Network, folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield the table row of each format, backend and dtype."""
    files = {dtype: folder / f"{dtype}.safetensors" for dtype in ("float32", "float64")}
    for dtype, file in files.items():
        weights.write_initial(file, network, "probe", 0, dtype)
    for kind in FORMATS.values():
        for backend in kind.makers:
            for dtype in kind.dtypes:
                file = files["float64" if dtype == "float64" else "float32"]
                output = folder / f"{kind.name}-{backend}-{dtype}{kind.suffix}"
                try:
                    manifest = export(ExportRequest(weights.read(file), kind.name, dtype, backend), output)
                except RosettaError as error:
                    yield kind.about, backend, dtype, "", "", "", str(error)
                    continue
                size = f"{size_on_disk(output) / 1e6:,.1f} MB"
                for server, found in (manifest.verified or {}).items():
                    needed = next(path.needs[0] for path in PATHS.values() if path.server == server)
                    runtime = f"{needed} {(manifest.runtime or {})[needed]}"
                    yield (
                        kind.about,
                        backend,
                        dtype,
                        size,
                        runtime,
                        f"{found.error:.1e}",
                        f"{found.tolerance:.1e}",
                    )


def main() -> None:
    """Read the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=catalog.NETWORKS)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    table = Table(box=box.MARKDOWN if options.markdown else None, pad_edge=options.markdown)
    for column in ("format", "made by", "dtype", "size", "verified with", "error", "tolerance"):
        table.add_column(column, justify="right" if column in ("size", "error", "tolerance") else "left", no_wrap=True)
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(catalog.get(options.network), Path(folder)):
            table.add_row(*row)
    Console(width=1000 if options.markdown else None, highlight=False).print(table)


if __name__ == "__main__":
    main()
