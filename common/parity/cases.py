"""A network prepared for one check: the request to each backend and the comparison of its answer."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from safetensors import SafetensorError, safe_open

from common import images, reference, weights
from common.backends.processes import WorkerClient
from common.catalog import Network
from common.errors import BackendError, RosettaError
from common.files import map_safetensors, write_safetensors
from common.parity.comparison import Limit, TapError, compare, first_divergence, spread, worst
from common.parity.diagnosis import LayerTrace, findings, merge_findings
from common.parity.results import Cell, Pair, Settings
from common.parity.tolerances import Check, Limits
from common.weights import DTypeName

__all__ = ["IMPORT_BYTES", "Case", "ForwardCase"]

IMPORT_BYTES = 500_000_000
"""Approximate memory of a process that has only imported a framework."""


class Case:
    """A network prepared for one check: weights and inputs in files, the reference's values in memory."""

    check: ClassVar[Check]
    batch: ClassVar[int]
    """Default number of images in an input."""
    copies: ClassVar[int]
    """Approximate number of copies of the weights that a worker holds at once."""

    def __init__(self, network: Network, settings: Settings, folder: Path, variant: str = "") -> None:
        self.network = network
        self.settings = settings
        self.folder = folder
        self.variant = variant
        self.description = reference.describe(network)
        self.images = settings.batch or self.batch
        self.lock = threading.Lock()
        self.pending = len(settings.backends) * len(self.dtypes)
        self.cells: list[Cell] = []
        self.outputs: dict[tuple[str, DTypeName], dict[str, Path]] = {}
        self.limits = Limits(self.check, network, self.images)

    @property
    def dtypes(self) -> Sequence[DTypeName]:
        """The dtypes in which each backend runs this check."""
        return self.settings.dtypes

    def memory(self, dtype: DTypeName) -> int:
        """Return an estimate of the bytes that a worker needs for weights and activations."""
        numbers = sum(math.prod(tensor.shape) for tensor in self.description.manifest.values())
        activations = self.images * sum(math.prod(shape) for shape in self.description.taps.values())
        return IMPORT_BYTES + (self.copies * numbers + 4 * activations) * np.dtype(dtype).itemsize

    def prepare(self) -> None:
        """Write weights and inputs, and compute the reference's values."""
        self.folder.mkdir()
        self.weights = self.folder / "weights.safetensors"

    def request(self, name: str, dtype: DTypeName) -> tuple[str, dict[str, Path], dict[str, Any]]:
        """Return the request to a backend: action, files to write, and further fields."""
        raise NotImplementedError

    def judge(
        self, name: str, dtype: DTypeName, outputs: Mapping[str, Path], answer: Mapping[str, Any]
    ) -> list[TapError]:
        """Return the errors of what one backend wrote."""
        raise NotImplementedError

    def verdict(self, cell: Cell) -> tuple[str, str]:
        """Return status and detail of a cell, given its errors."""
        if (divergence := cell.first_divergence) is not None:
            return "disagree", divergence.note
        return "agree", ""

    def cell(self, worker: WorkerClient, name: str, dtype: DTypeName) -> Cell:
        """Run the check in one backend and dtype, and return the result."""
        empty = self.empty_cell(name, dtype)
        action, outputs, details = self.request(name, dtype)
        try:
            answer = worker.ask(
                action,
                network=self.network.name,
                config=self.network.settings(),
                dtype=dtype,
                weights=str(self.weights),
                outputs={key: str(path) for key, path in outputs.items()},
                **details,
            )
            errors = self.judge(name, dtype, outputs, answer)
        except RosettaError as error:
            return dataclasses.replace(empty, status="error", detail=str(error))
        except (SafetensorError, OSError, ValueError) as error:
            reason = BackendError(f"backend {name} wrote files that cannot be compared: {error}")
            return dataclasses.replace(empty, status="error", detail=str(reason))
        with self.lock:
            self.outputs[name, dtype] = outputs
        measured = {"seconds": answer["seconds"], "peak_bytes": answer["peak_bytes"]}
        cell = self.judged(dataclasses.replace(empty, status="agree", **measured), errors)
        diagnose = self.settings.isolate or (self.settings.diagnose and cell.status == "disagree")
        return self.diagnosed(worker, cell) if diagnose else cell

    def layer_trace(self) -> LayerTrace | None:
        """Return the reference's layers on the input used for diagnosis, or None if there is no reference."""
        return None

    def diagnosed(self, worker: WorkerClient, cell: Cell) -> Cell:
        """Return a cell with the error of each layer in isolation and explanations of the wrong ones."""
        layer_trace = self.layer_trace()
        if layer_trace is None:
            return cell
        name, dtype = cell.backend, cell.dtype
        x, given, result = (self.folder / f"{name}-{dtype}-alone-{file}" for file in ("x.npy", "given", "taps"))
        np.save(x, layer_trace.x)
        write_safetensors(given, layer_trace.taps, durable=False)
        try:
            worker.ask(
                "trace",
                network=self.network.name,
                config=self.network.settings(),
                dtype=dtype,
                weights=str(self.weights),
                inputs={"alone": str(x)},
                given={"alone": str(given)},
                outputs={"alone": str(result)},
                training=layer_trace.training,
            )
            taps = map_safetensors(result)[1]
        except (RosettaError, SafetensorError, OSError, ValueError) as error:
            return dataclasses.replace(cell, findings=(f"the layers could not be run in isolation: {error}",))
        isolated = compare(layer_trace.taps, taps, dtype, self.tap_limit(dtype), "alone")
        by_layer = [(finding.tap, finding.description) for finding in findings(layer_trace, taps, isolated)]
        merged = merge_findings([*by_layer, *self.other_findings(layer_trace, cell)])
        if cell.status == "disagree" and not merged:
            merged.append("each layer is right in isolation: their connections differ, or running statistics moved")
        return dataclasses.replace(cell, isolated=tuple(isolated), findings=tuple(merged))

    def tap_limit(self, dtype: DTypeName) -> Callable[[str], Limit]:
        """Return a function from a tap to its limit in a dtype."""
        return lambda tap: self.limits.tap(tap, dtype)

    def other_findings(self, layer_trace: LayerTrace, cell: Cell) -> list[tuple[str, str]]:
        """Return (name, description) of what is wrong besides the layers' outputs."""
        return []

    def empty_cell(self, name: str, dtype: DTypeName) -> Cell:
        """Return the cell of one backend and dtype before the check."""
        basis = self.limits.basis
        return Cell(self.network.name, self.check, self.variant, dtype, name, "missing", basis=basis)

    def judged(self, cell: Cell, errors: Iterable[TapError]) -> Cell:
        """Return a cell with its errors, and status and detail according to `verdict`."""
        cell = dataclasses.replace(cell, errors=tuple(errors))
        status, detail = self.verdict(cell)
        return dataclasses.replace(cell, status=status, detail=detail)

    def add(self, cell: Cell) -> bool:
        """Add a cell, and return whether it was the last one."""
        with self.lock:
            self.cells.append(cell)
            self.pending -= 1
            return self.pending == 0

    def to_repeat(self) -> Iterable[tuple[str, DTypeName]]:
        """Iterate over backends and dtypes to run again because a measurement for all of them failed."""
        return ()

    def finish(self) -> list[Pair]:
        """Compare the backends with each other after the last cell; this may change the status of cells."""
        raise NotImplementedError

    def pair(self, dtype: DTypeName, names: tuple[str, str], errors: list[TapError]) -> Pair:
        """Return the result of comparing two backends."""
        status = "agree" if first_divergence(errors) is None else "disagree"
        return Pair(self.network.name, self.check, self.variant, dtype, names, status, worst(errors))

    def remove_files(self) -> None:
        """Remove the folder with its weights, inputs and outputs."""
        shutil.rmtree(self.folder, ignore_errors=True)


class ForwardCase(Case):
    """The forward check: every tap in evaluation mode, on digits and on noise."""

    check = "forward"
    batch = 2
    copies = 3

    def __init__(self, network: Network, settings: Settings, folder: Path, variant: str = "") -> None:
        super().__init__(network, settings, folder, variant)
        self.inputs: dict[str, Path] = {}
        self.reference: dict[str, dict[str, np.ndarray]] = {}
        self.vacuous: dict[str, float] = {}

    def prepare(self) -> None:
        super().prepare()
        seed = self.settings.seed
        weights.write_initial(self.weights, self.network, "probe", seed, "float64", durable=False)
        batches = {
            "digits": images.real_batch(self.network, self.images, seed),
            "noise": images.noise_batch(self.network, self.images, seed),
        }
        model = reference.build(self.network)
        reference.load(model, weights.read(self.weights).tensors)
        for name, batch in batches.items():
            self.inputs[name] = self.folder / f"{name}.npy"
            np.save(self.inputs[name], batch)
            self.reference[name] = reference.trace(model, batch)
            for tap, values in self.reference[name].items():
                self.vacuous[tap] = min(self.vacuous.get(tap, math.inf), spread(values))

    def request(self, name: str, dtype: DTypeName) -> tuple[str, dict[str, Path], dict[str, Any]]:
        outputs = {key: self.folder / f"{name}-{dtype}-{key}.safetensors" for key in self.inputs}
        return "trace", outputs, {"inputs": {key: str(path) for key, path in self.inputs.items()}}

    def layer_trace(self) -> LayerTrace | None:
        # Noise has no flat regions, in which different mistakes give the same output.
        return LayerTrace(self.network, weights.read(self.weights).tensors, np.load(self.inputs["noise"]))

    def judge(
        self, name: str, dtype: DTypeName, outputs: Mapping[str, Path], answer: Mapping[str, Any]
    ) -> list[TapError]:
        by_input = [
            compare(self.reference[key], map_safetensors(path)[1], dtype, self.tap_limit(dtype), key)
            for key, path in outputs.items()
        ]
        return [error for tap in itertools.zip_longest(*by_input) for error in tap if error is not None]

    def verdict(self, cell: Cell) -> tuple[str, str]:
        status, detail = super().verdict(cell)
        limit = self.tap_limit(cell.dtype)
        vacuous = [tap for tap, varies in self.vacuous.items() if varies <= limit(tap).tolerance]
        if status == "agree" and vacuous:
            return "vacuous", f"taps that do not depend on the input: {', '.join(vacuous)}"
        return status, detail

    def finish(self) -> list[Pair]:
        """Compare the traces of every two backends, relative to the reference's largest values."""
        errors_by_pair: dict[tuple[str, str, DTypeName], list[TapError]] = {}
        for dtype in self.dtypes:
            names = [name for name in self.settings.backends if (name, dtype) in self.outputs]
            limit = self.tap_limit(dtype)
            for key, truth in self.reference.items():
                with contextlib.ExitStack() as stack:
                    files = {
                        name: stack.enter_context(safe_open(self.outputs[name, dtype][key], "numpy")) for name in names
                    }
                    for tap, values in truth.items():
                        scale = float(np.max(np.abs(values))) or 1.0
                        arrays = {
                            name: file.get_tensor(tap) for name, file in files.items() if tap in file.offset_keys()
                        }
                        for first, second in itertools.combinations(arrays, 2):
                            if arrays[first].shape != arrays[second].shape:
                                error = math.inf
                            else:
                                error = float(np.max(np.abs(arrays[first] - arrays[second]))) / scale
                            # Each may be one tolerance away from the reference, on opposite sides.
                            tap_error = TapError(key, tap, error, limit(tap) * 2)
                            errors_by_pair.setdefault((first, second, dtype), []).append(tap_error)
        self.reference.clear()
        return [self.pair(dtype, (first, second), errors) for (first, second, dtype), errors in errors_by_pair.items()]
