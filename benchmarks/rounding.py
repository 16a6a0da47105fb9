"""Measure what rounding does: the evidence behind `common/parity/tolerances.py`.

`python benchmarks/rounding.py --seeds 3` runs parity over seeds and input sizes and prints, for each dtype, the worst
error of each network in units of the dtype's rounding (2^-24 or 2^-53), and the worst over all networks by depth.
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Iterator

from common import catalog, reference
from common.catalog import Network
from common.parity import harness
from common.parity.tolerances import depths

ROUNDING = {"float32": 2.0**-24, "float64": 2.0**-53}
"""Half the distance from 1 to the next number: the largest relative error of one rounding."""


def networks(sizes: list[list[int] | None]) -> Iterator[Network]:
    """Iterate over the catalogue at its default sizes and at `sizes`, where a network is large enough for one."""
    for network in catalog.NETWORKS.values():
        for size in sizes:
            if size is None:
                yield network
                continue
            candidate = network.configured(input_size=size, in_channels=3, num_classes=7)
            try:
                reference.describe(candidate)
            except catalog.ConfigError:
                continue
            yield candidate


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--backends", default="torch,jax,tf,mxnet")
    options = parser.parse_args()
    worst: dict[tuple[str, str], dict[str, tuple[float, str]]] = collections.defaultdict(dict)
    by_depth: dict[str, dict[int, float]] = collections.defaultdict(dict)
    for seed in range(options.seeds):
        for size in (None, [57, 83], [131, 97]):
            chosen = list(networks([size]))
            report = harness.run(harness.Settings(chosen, options.backends.split(","), batch=2, seed=seed))
            by_name = {network.name: depths(reference.describe(network)) for network in chosen}
            for cell in report.cells:
                if not cell.errors:
                    raise SystemExit(f"{cell.network} in {cell.backend}: {cell.status}: {cell.detail}")
                for error in cell.errors:
                    units = error.error / ROUNDING[cell.dtype]
                    best = worst[cell.dtype, cell.network].get(cell.backend, (0.0, ""))
                    worst[cell.dtype, cell.network][cell.backend] = max(best, (units, error.tap))
                    depth = by_name[cell.network][error.tap]
                    by_depth[cell.dtype][depth] = max(by_depth[cell.dtype].get(depth, 0.0), units)
            print(f"seed {seed}, size {size or 'default'}: {report.seconds:.0f} s", flush=True)
    for (dtype, network), found in sorted(worst.items()):
        cells = "  ".join(f"{backend} {units:5.1f} {tap}" for backend, (units, tap) in found.items())
        print(f"{dtype} {network:17} {cells}")
    for dtype, found in by_depth.items():
        print(dtype, "by depth:", "  ".join(f"{depth}: {units:.0f}" for depth, units in sorted(found.items())))


if __name__ == "__main__":
    main()
