"""Measure the rounding error of every network, write `common/parity/budgets.json`, and print a table.

    python benchmarks/rounding.py --seeds 2 -o common/parity/budgets.json

For each seed, parity runs with all frameworks at several input sizes. With even seeds the frameworks run side by side,
one thread each; with odd seeds one after another on all threads; training always uses one thread. In addition, the
reference runs in float64 in the least accurate order: every sum term by term, with rounded inputs and weights. Parity
measures the errors that frameworks make in float64 and float32; the reference run measures how large they can be. A
budget is the larger of the reference's error and the frameworks' float64 error.

The frameworks' float64 errors alone would be too small a budget, since some frameworks sum in blocks in float64 and
term by term in float32. The second convolution of alexnet has an error of 12 roundings in float64 and 42 in float32;
the reference, term by term, has 36.
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
"""Input sizes of each check; None is the default size. Gradients and training have their own, smaller sizes."""

KINDS: Mapping[Check, tuple[str, ...]] = {"forward": ("taps",), "gradients": ("taps", "gradient"), "training": ("run",)}
"""Kinds of measurements in each check, for each dtype."""

ODD = {"num_classes": 7, "in_channels": 3}
OTHERS = (
    ("vgg", {"arch": [[1, 8], [3, 5]]}),
    ("resnet", {"arch": [[1, 8], [2, 16]]}),
    ("resnext", {"arch": [[1, 32, 8, 0.5], [2, 24, 4, 1]]}),
    ("densenet", {"arch": [2, 3, 1], "growth_rate": 7, "num_channels": 9}),
    ("anynet", {"arch": [[2, 24, 8, 1], [1, 32, 8, 0.5]], "stem_channels": 10}),
)
"""One small architecture of each family that is not in the catalog."""

Errors = dict[str, dict[str, float]]
"""Measurements of one network by kind and dtype, then by depth; "" for measurements without a depth."""


class SequentialSum(np.ndarray):
    """Weights whose matrix products add their terms sequentially, first to last."""

    backward = False
    _CACHED = 1 << 14
    """Number of sums computed at a time; they fit into the processor's cache."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        if ufunc is not np.matmul:
            raise TypeError(f"these weights support np.matmul only, not {ufunc.__name__}")
        left, right = (np.asarray(operand) for operand in inputs)
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


class ReversedSum(SequentialSum):
    """Weights whose matrix products add their terms sequentially, last to first."""

    backward = True


def worst_rounding(
    network: Network, tensors: Mapping[str, np.ndarray], x: np.ndarray, training: bool
) -> dict[str, float]:
    """Return the largest error of each tap in roundings, with sequential sums and with rounded inputs and weights."""
    model = reference.build(network)
    model.train(training)
    reference.load(model, tensors)
    truth = reference.trace(model, x)
    # A float32 run rounds inputs and weights first. In float64, the effect of that rounding is measured separately.
    reference.load(model, {name: array.astype(np.float32) for name, array in tensors.items()})
    rounded_input = reference.trace(model, x.astype(np.float32))
    errors: dict[str, float] = {}
    for order in (SequentialSum, ReversedSum):  # either may be worse, by up to a factor of three
        reference.load(model, tensors)
        for module in model.modules():
            if isinstance(module, WeightedLayer) and module.weight.ndim > 1:
                module.weight = module.weight.view(order)
        sequential = reference.trace(model, x)
        for tap, values in truth.items():
            error = (sequential[tap] - values) / ROUNDING["float64"] + (rounded_input[tap] - values) / ROUNDING[
                "float32"
            ]
            errors[tap] = max(errors.get(tap, 0.0), float(np.max(np.abs(error)) / np.max(np.abs(values))))
    return errors


def keep_largest(errors: Errors, kind: str, depth: int | str, value: float) -> None:
    """Store a value unless a larger one is stored already."""
    by_depth = errors.setdefault(kind, {})
    by_depth[str(depth)] = max(by_depth.get(str(depth), 0.0), value)


def reference_errors(check: Check, network: Network, seed: int) -> Errors:
    """Return the reference's largest rounding error by depth, on the inputs of parity, and the size of these inputs."""
    training = check == "gradients"
    network = reduced_for_training(network) if training else network
    tensors = weights.initialize(network, "probe", seed, "float64")
    by_tap = depths(reference.describe(network))
    errors: Errors = {}
    for batch_of in (images.noise_batch,) if training else (images.real_batch, images.noise_batch):
        x = batch_of(network, GradientCase.batch if training else 1, seed)
        keep_largest(errors, "numbers", "", x.size)
        keep_largest(errors, "images", "", len(x))
        for tap, value in worst_rounding(network, tensors, x, training).items():
            keep_largest(errors, "budget", by_tap[tap], value)
    return errors


def framework_errors(report: Report) -> dict[str, Errors]:
    """Return the frameworks' errors by network: of taps by depth, and of gradients, finite differences and training."""
    by_tap = {network.name: depths(reference.describe(network)) for network in report.settings.networks}
    errors: dict[str, Errors] = {name: {} for name in by_tap}
    for cell in report.cells:
        if not cell.errors:
            raise SystemExit(f"{cell.network} in {cell.backend}: {cell.status}: {cell.detail}")
        entry = errors[cell.network]
        for error in cell.errors:
            roundings = error.error / ROUNDING[cell.dtype]
            if cell.check == "training":
                keep_largest(entry, f"run {cell.dtype}", "", error.error / cell.rounding_spread)
            elif error.input == "derivative":
                keep_largest(entry, "derivative", "", error.error)
            elif error.input == "gradient":
                keep_largest(entry, f"gradient {cell.dtype}", "", roundings)
            else:
                keep_largest(entry, f"taps {cell.dtype}", depth_of(error.tap, by_tap[cell.network]), roundings)
    return errors


def networks(size: list[int] | None) -> list[Network]:
    """Return the networks of the catalog that accept an input size; None is the default size."""
    accepted = []
    for network in catalog.NETWORKS.values():
        candidate = network.configured(**ODD, input_size=size) if size else network
        try:
            reference.describe(candidate)
        except catalog.ConfigError:
            continue
        accepted.append(candidate)
    return accepted


def pieces(seeds: int) -> Iterator[tuple[str, Check, int, list[Network]]]:
    """Iterate over the pieces of work: name, check, seed and networks."""
    for seed in range(seeds):
        for check, sizes in SIZES.items():
            for size in sizes:
                shape = "x".join(map(str, size)) if size else "usual"
                yield f"{check}-{shape}-{seed}", check, seed, networks(size)
            if check != "training":
                others = [catalog.get(name, **ODD, input_size=[57, 83], **config) for name, config in OTHERS]
                yield f"{check}-others-{seed}", check, seed, others


def piece(check: Check, seed: int, chosen: list[Network], names: list[str]) -> dict[str, Any]:
    """Return the errors of one piece of work by network, and the versions of the frameworks."""
    jobs = 1 if seed % 2 and check != "training" else processors()
    report = harness.run(harness.Settings(chosen, names, (check,), seed=seed, jobs=jobs, diagnose=False))
    errors = framework_errors(report)
    if check != "training":
        for network in chosen:
            errors[network.name] |= reference_errors(check, network, seed)
    return {"versions": report.versions, "errors": errors}


def key_of(network: Network) -> str:
    """Return a key of a network: its name and the settings that differ from the catalog, without sizes."""
    usual = catalog.get(network.name).settings()
    settings = network.settings()
    config = {name: settings[name] for name in settings if name not in SIZE_SETTINGS and settings[name] != usual[name]}
    return json.dumps({"network": network.name, "config": config})


def rounded_up(value: float) -> float:
    """Round up to three significant digits."""
    if not value:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{math.ceil(value / unit * (1 - 1e-12)) * unit:.3g}")


def rising(by_depth: Mapping[str, float]) -> dict[str, float]:
    """Return the running maximum: the depths with a larger error than all before, and the last depth.

    Some layers reduce the measured error, and which ones do so depends on the seed.
    """
    largest, maxima = 0.0, {}
    ordered = sorted(by_depth, key=int)
    for depth in ordered:
        value = max(largest, rounded_up(by_depth[depth]))
        if value > largest or depth == ordered[-1]:
            largest = maxima[depth] = value
    return maxima


def entry_of(key: str, parts: list[Errors]) -> dict[str, Any]:
    """Return the file's entry for one network in one check, from its errors at each seed and size."""
    whole: Errors = {}
    for part in parts:
        for kind, by_depth in part.items():
            for depth, value in by_depth.items():
                keep_largest(whole, kind, depth, value)
                if kind == "taps float64":
                    keep_largest(whole, "budget", depth, value)
    sizes = [int(part["numbers"][""]) for part in parts if "numbers" in part]
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
    """Return the text of the file, with one line per network and check."""
    lines = []
    for key, value in document.items():
        if isinstance(value, list):
            rows = ",\n  ".join(json.dumps(row) for row in value)
            lines.append(f" {json.dumps(key)}: [\n  {rows}\n ]")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def print_tables(document: Mapping[str, Any]) -> None:
    """Print the largest error and the largest budget of each network, one table per check."""
    from rich.console import Console
    from rich.table import Table

    for check in SIZES:
        table = Table(check, *(f"{kind} {short}" for kind in KINDS[check] for short in ("f64", "f32")), box=None)
        if check != "training":
            table.add_column("budget")
        if check == "gradients":
            table.add_column("finite difference")
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
    """Measure, print the tables and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--backends", default="torch,jax,tf,mxnet")
    parser.add_argument("--keep", type=Path, help="folder for intermediate results, which are reused if present")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    versions: dict[str, dict[str, str]] = {}
    errors: dict[Check, dict[str, list[Errors]]] = {check: {} for check in SIZES}
    for name, check, seed, chosen in pieces(options.seeds):
        path, start = folder / f"{name}.json", time.perf_counter()
        if not path.exists():
            path.write_text(json.dumps(piece(check, seed, chosen, options.backends.split(","))), encoding="utf-8")
        result = json.loads(path.read_text(encoding="utf-8"))
        versions = result["versions"]
        for network in chosen:
            errors[check].setdefault(key_of(network), []).append(result["errors"][network.name])
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    document = {
        "command": f"python benchmarks/rounding.py --seeds {options.seeds} -o common/parity/budgets.json",
        "machine": f"{platform.machine()}, {processors()} processors",
        "versions": versions,
        **{check: [entry_of(key, parts) for key, parts in by_key.items()] for check, by_key in errors.items()},
    }
    print_tables(document)
    if options.output:
        options.output.write_text(as_text(document), encoding="utf-8")


if __name__ == "__main__":
    main()
