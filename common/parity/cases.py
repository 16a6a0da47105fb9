"""One network made ready for one check: what each backend is asked, and how its answer is judged."""

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
"""About what a process takes that has imported a framework and done nothing yet."""


class Case:
    """One network made ready for one check: weights and inputs in files, the truth in memory."""

    check: ClassVar[Check]
    batch: ClassVar[int]
    """Images in an input, where nothing else is asked for."""
    copies: ClassVar[int]
    """About how many times the weights, and the activations, are in a worker's memory at once."""

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
        """In which dtypes each backend does its part."""
        return self.settings.dtypes

    def memory(self, dtype: DTypeName) -> int:
        """Return about how many bytes a worker needs: weights and activations, each with their copies."""
        numbers = sum(math.prod(tensor.shape) for tensor in self.description.manifest.values())
        activations = self.images * sum(math.prod(shape) for shape in self.description.taps.values())
        return IMPORT_BYTES + (self.copies * numbers + 4 * activations) * np.dtype(dtype).itemsize

    def prepare(self) -> None:
        """Write weights and inputs, and compute the truth."""
        self.folder.mkdir()
        self.weights = self.folder / "weights.safetensors"

    def request(self, name: str, dtype: DTypeName) -> tuple[str, dict[str, Path], dict[str, Any]]:
        """Return what to ask a backend: the action, the files that it is to write, and the details."""
        raise NotImplementedError

    def judge(
        self, name: str, dtype: DTypeName, outputs: Mapping[str, Path], answer: Mapping[str, Any]
    ) -> list[TapError]:
        """Compare what one backend wrote with the truth."""
        raise NotImplementedError

    def verdict(self, cell: Cell) -> tuple[str, str]:
        """Return the status of a cell that was compared, and the detail."""
        if (divergence := cell.first_divergence) is not None:
            return "disagree", divergence.note
        return "agree", ""

    def cell(self, worker: WorkerClient, name: str, dtype: DTypeName) -> Cell:
        """Have one backend do its part in one dtype, and compare it with the truth."""
        blank = self.blank(name, dtype)
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
            return dataclasses.replace(blank, status="error", detail=str(error))
        except (SafetensorError, OSError, ValueError) as error:
            reason = BackendError(f"backend {name} gave nothing that can be compared: {error}")
            return dataclasses.replace(blank, status="error", detail=str(reason))
        with self.lock:
            self.outputs[name, dtype] = outputs
        measured = {"seconds": answer["seconds"], "peak_bytes": answer["peak_bytes"]}
        cell = self.judged(dataclasses.replace(blank, status="agree", **measured), errors)
        wanted = self.settings.isolate or (self.settings.diagnose and cell.status == "disagree")
        return self.diagnosed(worker, cell) if wanted else cell

    def layer_trace(self) -> LayerTrace | None:
        """Return the reference's network on the input that mistakes are looked for on; None where there is none."""
        return None

    def diagnosed(self, worker: WorkerClient, cell: Cell) -> Cell:
        """Return a cell with what each layer does alone, and what the wrong ones behave like."""
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
            return dataclasses.replace(cell, findings=(f"layers could not be run alone: {error}",))
        isolated = compare(layer_trace.taps, taps, dtype, self.tap_limit(dtype), "alone")
        by_layer = [(finding.tap, finding.what) for finding in findings(layer_trace, taps, isolated)]
        found = merge_findings([*by_layer, *self.others(layer_trace, cell)])
        if cell.status == "disagree" and not found:
            found.append("each layer is right by itself: what differs is how they are connected, or what moved before")
        return dataclasses.replace(cell, isolated=tuple(isolated), findings=tuple(found))

    def tap_limit(self, dtype: DTypeName) -> Callable[[str], Limit]:
        """Return the function that gives each tap's limit."""
        return lambda tap: self.limits.tap(tap, dtype)

    def others(self, layer_trace: LayerTrace, cell: Cell) -> list[tuple[str, str]]:
        """Return what is wrong in a cell beside layers: its name, and what is to be said of it."""
        return []

    def blank(self, name: str, dtype: DTypeName) -> Cell:
        """Return the cell of one backend and dtype, without a finding."""
        basis = self.limits.basis
        return Cell(self.network.name, self.check, self.variant, dtype, name, "missing", basis=basis)

    def judged(self, cell: Cell, errors: Iterable[TapError]) -> Cell:
        """Return a cell with its errors and the status that follows."""
        cell = dataclasses.replace(cell, errors=tuple(errors))
        status, detail = self.verdict(cell)
        return dataclasses.replace(cell, status=status, detail=detail)

    def add(self, cell: Cell) -> bool:
        """Note a cell, and return whether it was the network's last."""
        with self.lock:
            self.cells.append(cell)
            self.pending -= 1
            return self.pending == 0

    def again(self) -> Iterable[tuple[str, DTypeName]]:
        """Iterate over whom to ask once more, in which dtype, where one broke down that was to measure for all."""
        return ()

    def finish(self) -> list[Pair]:
        """Compare the backends with each other once all are done; this may change what is thought of the cells."""
        raise NotImplementedError

    def pair(self, dtype: DTypeName, names: tuple[str, str], errors: list[TapError]) -> Pair:
        """Return what a comparison of two backends found."""
        status = "agree" if first_divergence(errors) is None else "disagree"
        return Pair(self.network.name, self.check, self.variant, dtype, names, status, worst(errors))

    def forget(self) -> None:
        """Remove the files."""
        shutil.rmtree(self.folder, ignore_errors=True)


class ForwardCase(Case):
    """Every tap in evaluation mode, on real digits and on noise."""

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
        # Noise has no flat regions, in which one mistake looks like another.
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
            return "vacuous", f"{', '.join(vacuous)} would be the same whatever the input"
        return status, detail

    def finish(self) -> list[Pair]:
        """Compare every two backends' traces, relative to the reference's largest values."""
        found: dict[tuple[str, str, DTypeName], list[TapError]] = {}
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
                            # Both may be a whole tolerance away from the reference, on opposite sides.
                            tap_error = TapError(key, tap, error, limit(tap) * 2)
                            found.setdefault((first, second, dtype), []).append(tap_error)
        self.reference.clear()
        return [self.pair(dtype, (first, second), errors) for (first, second, dtype), errors in found.items()]
