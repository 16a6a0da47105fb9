"""Measure what rounding does to every network: the numbers in `common/parity/budgets.json`, and a table of them.

    python benchmarks/rounding.py --seeds 2 -o common/parity/budgets.json

For each seed, parity runs over all frameworks and over several input sizes, each framework on one thread or, with every
other seed, one after another on all threads; training on one always. Beside it the reference runs in float64 as badly
as a network may be computed: every sum added term by term, and everything that goes in rounded. The first says what
frameworks lose in float64 and in float32; the second, what there is to lose. A budget is the larger of the two, in
float64.

Frameworks in float64 alone would set too small a budget, since some add in blocks there and term by term in float32:
alexnet's second convolution loses 12 roundings in float64 and 42 in float32. Term by term, the reference loses 36.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

import numpy as np

from common import catalog, images, reference, weights
from common.catalog import Network
from common.parity import harness
from common.parity.gradients import GradientCase
from common.parity.results import Report
from common.parity.tolerances import ROUNDING, SIZE_SETTINGS, Check, depth_of, depths
from common.parity.training_mode import reduced_for_training
from common.reference.layers import WeightedLayer
from common.system import processors

SIZES: Mapping[Check, tuple[list[int] | None, ...]] = {
    "forward": (None, [57, 83]),
    "gradients": (None,),
    "training": (None,),
}
"""Input sizes of each check, None for the usual one. Learning has sizes of its own, at which minutes are enough."""

KINDS: Mapping[Check, tuple[str, ...]] = {"forward": ("taps",), "gradients": ("taps", "gradient"), "training": ("run",)}
"""What is measured in each dtype."""

ODD = {"num_classes": 7, "in_channels": 3}
OTHERS = (
    ("vgg", {"arch": [[1, 8], [3, 5]]}),
    ("resnet", {"arch": [[1, 8], [2, 16]]}),
    ("resnext", {"arch": [[1, 32, 8, 0.5], [2, 24, 4, 1]]}),
    ("densenet", {"arch": [2, 3, 1], "growth_rate": 7, "num_channels": 9}),
    ("anynet", {"arch": [[2, 24, 8, 1], [1, 32, 8, 0.5]], "stem_channels": 10}),
)
"""Of each family, one architecture that is not in the catalog: what is known of it is known of a small network."""

Found = dict[str, dict[str, float]]
"""What is measured of one network, by kind and dtype, then by depth; of what has no depth, under ""."""


class InTurn(np.ndarray):
    """Weights whose matrix products add their terms one after another, first to last."""

    backward = False
    _CACHED = 1 << 14
    """How many sums grow at a time: what they take stays in the processor's cache."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        if ufunc is not np.matmul:
            raise TypeError(f"these weights are for matrix products, not for {ufunc.__name__}")
        left, right = (np.asarray(given) for given in inputs)
        result = np.zeros((*left.shape[:-1], right.shape[-1])) if out is None else out[0]
        for i in np.ndindex(left.shape[:-2]):
            self._multiply(left[i], right[i], result[i])
        return result

    def _multiply(self, left: np.ndarray, right: np.ndarray, result: np.ndarray) -> None:
        width = max(self._CACHED // len(left), 64)
        if self.backward:
            left, right = left[:, ::-1], right[::-1]
        rows = np.ascontiguousarray(left.T)[:, :, None]
        for start in range(0, right.shape[1], width):
            columns = np.ascontiguousarray(right[:, None, start : start + width])
            total = np.zeros((len(left), columns.shape[2]))
            term = np.empty_like(total)
            for row, column in zip(rows, columns, strict=True):
                np.multiply(row, column, out=term)
                total += term
            result[:, start : start + width] = total


class FromLast(InTurn):
    """The same, last to first."""

    backward = True


def losses(network: Network, tensors: Mapping[str, np.ndarray], x: np.ndarray, training: bool) -> dict[str, float]:
    """Return how many roundings each tap loses at worst: sums added term by term, and all that goes in rounded."""
    model = reference.build(network)
    model.train(training)
    reference.load(model, tensors)
    truth = reference.trace(model, x)
    # What goes into a float64 run is exact; a float32 run rounds it first. In float64 that can be done by itself.
    reference.load(model, {name: array.astype(np.float32) for name, array in tensors.items()})
    by_input = reference.trace(model, x.astype(np.float32))
    found: dict[str, float] = {}
    for order in (InTurn, FromLast):  # which of them loses more is luck, and by as much as a factor of three
        reference.load(model, tensors)
        for module in model.modules():
            if isinstance(module, WeightedLayer) and module.weight.ndim > 1:
                module.weight = module.weight.view(order)
        by_sums = reference.trace(model, x)
        for tap, values in truth.items():
            lost = (by_sums[tap] - values) / ROUNDING["float64"] + (by_input[tap] - values) / ROUNDING["float32"]
            found[tap] = max(found.get(tap, 0.0), float(np.max(np.abs(lost)) / np.max(np.abs(values))))
    return found


def note(found: Found, kind: str, depth: int | str, value: float) -> None:
    """Keep the worst."""
    by_depth = found.setdefault(kind, {})
    by_depth[str(depth)] = max(by_depth.get(str(depth), 0.0), value)


def of_reference(check: Check, network: Network, seed: int) -> Found:
    """Return by depth what there is to lose, on what parity gives the network, and how large that is."""
    training = check == "gradients"
    network = reduced_for_training(network) if training else network
    tensors = weights.initialize(network, "probe", seed, "float64")
    by_tap = depths(reference.describe(network))
    found: Found = {}
    for batch_of in (images.noise_batch,) if training else (images.real_batch, images.noise_batch):
        x = batch_of(network, GradientCase.batch if training else 1, seed)
        note(found, "numbers", "", x.size)
        note(found, "images", "", len(x))
        for tap, value in losses(network, tensors, x, training).items():
            note(found, "budget", by_tap[tap], value)
    return found


def of_frameworks(report: Report) -> dict[str, Found]:
    """Return by network what the frameworks lost: at taps by depth, of gradients, quotients and runs altogether."""
    by_tap = {network.name: depths(reference.describe(network)) for network in report.settings.networks}
    found: dict[str, Found] = {name: {} for name in by_tap}
    for cell in report.cells:
        if not cell.errors:
            raise SystemExit(f"{cell.network} in {cell.backend}: {cell.status}: {cell.detail}")
        entry = found[cell.network]
        for error in cell.errors:
            roundings = error.error / ROUNDING[cell.dtype]
            if cell.check == "training":
                note(entry, f"run {cell.dtype}", "", error.error / cell.rounding_spread)
            elif error.input == "derivative":
                note(entry, "derivative", "", error.error)
            elif error.input == "gradient":
                note(entry, f"gradient {cell.dtype}", "", roundings)
            else:
                note(entry, f"taps {cell.dtype}", depth_of(error.tap, by_tap[cell.network]), roundings)
    return found


def networks(size: list[int] | None) -> list[Network]:
    """Return the catalog at a size, where a network is large enough for it."""
    found = []
    for network in catalog.NETWORKS.values():
        candidate = network.configured(**ODD, input_size=size) if size else network
        try:
            reference.describe(candidate)
        except catalog.ConfigError:
            continue
        found.append(candidate)
    return found


def pieces(seeds: int) -> Iterator[tuple[str, Check, int, list[Network]]]:
    """Iterate over what is to be measured: a name for it, the check, the seed and the networks."""
    for seed in range(seeds):
        for check, sizes in SIZES.items():
            for size in sizes:
                shape = "x".join(map(str, size)) if size else "usual"
                yield f"{check}-{shape}-{seed}", check, seed, networks(size)
            if check != "training":
                others = [catalog.get(name, **ODD, input_size=[57, 83], **config) for name, config in OTHERS]
                yield f"{check}-others-{seed}", check, seed, others


def piece(check: Check, seed: int, chosen: list[Network], names: list[str]) -> dict[str, Any]:
    """Return what one piece finds, by network, and the versions that it was found with."""
    jobs = 1 if seed % 2 and check != "training" else processors()
    report = harness.run(harness.Settings(chosen, names, (check,), seed=seed, jobs=jobs, diagnose=False))
    found = of_frameworks(report)
    if check != "training":
        for network in chosen:
            found[network.name] |= of_reference(check, network, seed)
    return {"versions": report.versions, "found": found}


def key_of(network: Network) -> str:
    """Return what tells a network from others: its name and what is not as in the catalog, but for sizes."""
    usual = catalog.get(network.name).settings()
    settings = network.settings()
    config = {name: settings[name] for name in settings if name not in SIZE_SETTINGS and settings[name] != usual[name]}
    return json.dumps({"network": network.name, "config": config})


def rounded_up(value: float) -> float:
    """Return a number of three digits that is no smaller."""
    if not value:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{math.ceil(value / unit * (1 - 1e-12)) * unit:.3g}")


def rising(by_depth: Mapping[str, float]) -> dict[str, float]:
    """Return the depths at which more is lost than at any before, and the last.

    Less is measured behind some layers than before them, and behind which is up to the seed.
    """
    most, found = 0.0, {}
    places = sorted(by_depth, key=int)
    for depth in places:
        value = max(most, rounded_up(by_depth[depth]))
        if value > most or depth == places[-1]:
            most = found[depth] = value
    return found


def entry_of(key: str, found: list[Found]) -> dict[str, Any]:
    """Return what the file says of one network in one check, from what was found of it at each seed and size."""
    whole: Found = {}
    for part in found:
        for kind, by_depth in part.items():
            for depth, value in by_depth.items():
                note(whole, kind, depth, value)
                if kind == "taps float64":
                    note(whole, "budget", depth, value)
    sizes = [int(part["numbers"][""]) for part in found if "numbers" in part]
    entry: dict[str, Any] = json.loads(key)
    if sizes:
        entry |= {"numbers": [min(sizes), max(sizes)], "images": int(whole["images"][""])}
        entry["budget"] = rising(whole["budget"])
    for kind in ("taps", "gradient", "run"):
        by_dtype = {dtype: whole[f"{kind} {dtype}"] for dtype in ROUNDING if f"{kind} {dtype}" in whole}
        if by_dtype:
            entry[kind] = {
                dtype: rising(one) if kind == "taps" else rounded_up(one[""]) for dtype, one in by_dtype.items()
            }
    if "derivative" in whole:
        entry["derivative"] = rounded_up(whole["derivative"][""])
    return entry


def as_text(document: Mapping[str, Any]) -> str:
    """Return the file: one network in one check is a line."""
    lines = []
    for key, value in document.items():
        if isinstance(value, list):
            rows = ",\n  ".join(json.dumps(row) for row in value)
            lines.append(f" {json.dumps(key)}: [\n  {rows}\n ]")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def print_tables(document: Mapping[str, Any]) -> None:
    """Print for each check what each network lost at worst, and its budget where that is largest."""
    from rich.console import Console
    from rich.table import Table

    for check in SIZES:
        table = Table(check, *(f"{kind} {short}" for kind in KINDS[check] for short in ("f64", "f32")), box=None)
        if check != "training":
            table.add_column("budget")
        if check == "gradients":
            table.add_column("quotient")
        for entry in document[check]:
            worst: list[float] = []
            for kind in KINDS[check]:
                for dtype in ROUNDING:
                    value = entry[kind].get(dtype, 0.0)
                    worst.append(max(value.values()) if isinstance(value, dict) else value)
            worst += [max(entry["budget"].values())] if "budget" in entry else []
            worst += [entry["derivative"]] if "derivative" in entry else []
            table.add_row(entry["network"] + "*" * bool(entry["config"]), *(f"{value:g}" for value in worst))
        Console().print(table)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--backends", default="torch,jax,tf,mxnet")
    parser.add_argument("--keep", type=Path, help="a folder for what each piece finds; what is there is not done again")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    versions: dict[str, dict[str, str]] = {}
    found: dict[Check, dict[str, list[Found]]] = {check: {} for check in SIZES}
    for name, check, seed, chosen in pieces(options.seeds):
        path, start = folder / f"{name}.json", time.perf_counter()
        if not path.exists():
            path.write_text(json.dumps(piece(check, seed, chosen, options.backends.split(","))), encoding="utf-8")
        result = json.loads(path.read_text(encoding="utf-8"))
        versions = result["versions"]
        for network in chosen:
            found[check].setdefault(key_of(network), []).append(result["found"][network.name])
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    document = {
        "command": f"python benchmarks/rounding.py --seeds {options.seeds} -o common/parity/budgets.json",
        "machine": f"{platform.machine()}, {processors()} processors",
        "versions": versions,
        **{check: [entry_of(key, parts) for key, parts in by_key.items()] for check, by_key in found.items()},
    }
    print_tables(document)
    if options.output:
        options.output.write_text(as_text(document), encoding="utf-8")


if __name__ == "__main__":
    main()
