"""Worker process of one backend: `python -m common.parity.worker BACKEND` serves requests until its input ends.

A request is a line on standard input with the path of a JSON file; an answer is a line of JSON on standard output.
Arrays go through files that the request names. Everything else that Python or a framework's C code prints goes to
standard error, so that it cannot be taken for an answer.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib.metadata
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from common import catalog, weights
from common.backends import registry
from common.backends.launch import end_with_parent
from common.backends.protocol import Backend
from common.catalog import Network
from common.files import map_safetensors, write_safetensors
from common.optimizers import OptimizerConfig
from common.parity import patched_import, training_runs
from common.parity.external_model import ExternalBackend, resolve
from common.parity.gradients import gradient_scales
from common.parity.perturbation import one_ulp, rounding_spread, sixteen_roundings
from common.reference.loss import cross_entropy
from common.system import peak_memory

__all__ = ["main"]

Request = dict[str, Any]

_ENDS = ("input", "output")
"""Prefixes of the tensors in a file of calls."""


class Server:
    """Answers requests with one backend; keeps the last model, because consecutive requests often share it."""

    def __init__(self, name: str) -> None:
        self.info = registry.get(name)
        self.backend: Backend = registry.load(name)
        self._model: tuple[tuple[str, str, str, str], Any] | None = None
        self._changes: list[dict[str, Any]] = []
        self._external: ExternalBackend | None = None
        self.actions: dict[str, Callable[[Request], dict[str, Any]]] = {
            "run": self.run,
            "trace": self.trace,
            "weights": self.weights,
            "summary": self.summary,
            "gradients": self.gradients,
            "train": self.train,
            "mutate": self.mutate,
            "use_external": self.use_external,
            "select_taps": self.select_taps,
            "taps": self.taps,
            "calls": self.calls,
        }

    def versions(self) -> dict[str, str]:
        """Return the versions of Python and of the backend's distributions."""
        python = ".".join(str(number) for number in sys.version_info[:3])
        return {"python": python} | {name: importlib.metadata.version(name) for name in self.info.distributions}

    def answer(self, request: Request) -> dict[str, Any]:
        """Carry out one request and return its answer."""
        start = time.perf_counter()
        result = self.actions[request["action"]](request)
        return {
            "id": request["id"],
            "status": "ok",
            "seconds": time.perf_counter() - start,
            "peak_bytes": peak_memory(),
            **result,
        }

    def model(self, request: Request) -> Any:
        """Return the requested network with the requested weights."""
        network = self.network(request)
        key = (request["network"], network.config_json(), request["dtype"], request["weights"])
        if self._model is None or self._model[0] != key:
            self._model = None  # free its memory first
            model = self.backend.build(network, request["dtype"])
            tensors = dict(self.tensors(request))
            for change in self._changes:
                if change["fill"] is None:
                    first, second = change["names"]
                    tensors[first], tensors[second] = tensors[second], tensors[first]
                else:
                    tensors |= {name: np.full_like(tensors[name], change["fill"]) for name in change["names"]}
            self.backend.load(model, tensors)
            self._model = (key, model)
        return self._model[1]

    def network(self, request: Request) -> Network:
        """Return the external network if there is one, else the requested one of the catalog."""
        return self._external.network if self._external else catalog.get(request["network"], **request["config"])

    def tensors(self, request: Request) -> Mapping[str, np.ndarray]:
        """Return the requested weights."""
        path = request["weights"]
        return map_safetensors(Path(path))[1] if self._external else weights.read(path).tensors

    def use_external(self, request: Request) -> dict[str, Any]:
        """Serve an external model from now on; return its description and write its own weights."""
        self._model = None
        if self._external is None:
            self._catalog_backend = self.backend
        make = request["factory"]
        if isinstance(make, str):
            make = resolve(make, request["folder"])
        details = (request["image"], request["names"], request["flattened"])
        external = ExternalBackend(self.info.name, self._catalog_backend, make, *details)
        self.backend = self._external = external
        tensors = external.initial(external.network, "float64", 0)
        if tensors:
            write_safetensors(Path(request["outputs"]["weights"]), tensors, durable=False)
        return external.description()

    def taps(self, request: Request) -> dict[str, Any]:
        """Return the layer calls of the external model."""
        model = self.model(request)
        return {"calls": [dataclasses.asdict(call) for call in self.backend.summary(model)]}

    def select_taps(self, request: Request) -> dict[str, Any]:
        """Trace these taps of the external model from now on."""
        self._model = None
        self._external.select_taps(request["taps"])  # type: ignore[union-attr]  # set by `use_external`
        return {}

    def calls(self, request: Request) -> dict[str, Any]:
        """Write the input and output of each layer."""
        model = self.model(request)
        found = self.backend.calls(model, np.load(request["images"]), request["training"])
        arrays = {
            f"{which} {path}": array for path, pair in found.items() for which, array in zip(_ENDS, pair, strict=True)
        }
        if arrays:
            write_safetensors(Path(request["outputs"]["result"]), arrays, durable=False)
        self._model = None  # its statistics may have changed
        return {"paths": list(found)}

    def mutate(self, request: Request) -> dict[str, Any]:
        """Put a mistake into the port or its weights, until the next request of this kind."""
        self._model = None
        gc.collect()  # the old modules refer to each other
        self._changes = request.get("changes", [])
        edits = [patched_import.Edit(**edit) for edit in request["edits"]]
        self.backend = patched_import.load(self.info.name, edits) if edits else registry.load(self.info.name)
        return {}

    def run(self, request: Request) -> dict[str, Any]:
        """Write the logits of each input."""
        model = self.model(request)
        for name, path in request["inputs"].items():
            with open(request["outputs"][name], "wb") as file:
                np.save(file, self.backend.run(model, np.load(path)))
        return {}

    def trace(self, request: Request) -> dict[str, Any]:
        """Write every tap of each input; taps in the files `given` replace the outputs of their layers."""
        model = self.model(request)
        training = request.get("training", False)
        for name, path in request["inputs"].items():
            given = map_safetensors(Path(request["given"][name]))[1] if "given" in request else None
            taps = self.backend.trace(model, np.load(path), training, given)
            write_safetensors(Path(request["outputs"][name]), taps, durable=False)
        if training:
            self._model = None  # its statistics have changed
        return {}

    def weights(self, request: Request) -> dict[str, Any]:
        """Write the model's weights of these names."""
        own = self.backend.weights(self.model(request))
        chosen = {name: own[name] for name in request["names"]}
        write_safetensors(Path(request["outputs"]["result"]), chosen, durable=False)
        return {}

    def gradients(self, request: Request) -> dict[str, Any]:
        """Write every tap in training mode, the loss, the updated running statistics and all gradients.

        With `seeds`, also return how far each gradient moves if all inputs are perturbed by 16 roundings of float32.
        That exceeds the error of float32 itself, also where a ReLU or the maximum of a pool switches.
        """
        model = self.model(request)
        tensors = self.tensors(request)
        x, labels = np.load(request["images"]), np.load(request["labels"])
        result = dict(self.backend.trace(model, x, training=True))
        logits = result["logits"]
        result["loss"] = np.array([cross_entropy(logits, labels)], logits.dtype)

        def gradients(moved: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            self.backend.load(model, {name: moved[name] for name in tensors})
            found = self.backend.gradients(model, moved["input"], labels)
            return {f"gradient of {name}": g for name, g in {**found.parameters, "input": found.input}.items()}

        start = {**tensors, "input": x}
        truth = {name: np.array(array) for name, array in gradients(start).items()}
        after = self.backend.weights(model)
        result |= {name: np.array(after[name]) for name in after if name.endswith(("running_mean", "running_var"))}
        write_safetensors(Path(request["outputs"]["result"]), {**result, **truth}, durable=False)
        self._model = None  # its statistics have changed
        if "seeds" not in request:
            return {}
        scales = gradient_scales(self.network(request))
        spread = rounding_spread(gradients, start, truth, scales, request["seeds"], sixteen_roundings)
        return {"rounding_spread": spread}

    def train(self, request: Request) -> dict[str, Any]:
        """Write the loss of each step, all weights after the last, and the logits of the first batch with them.

        Return how far each of these moves if every initial weight changes by one unit in the last place, over `seeds`.
        """
        network = self.network(request)
        dtype = np.dtype(request["dtype"])
        batches, labels = np.load(request["images"]).astype(dtype), np.load(request["labels"])
        config = OptimizerConfig(**request["optimizer"])
        self._model = None
        model = self.backend.build(network, request["dtype"])

        def run(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            self.backend.load(model, tensors)
            trainer = self.backend.trainer(model, config)
            steps = zip(batches, labels, request["learning_rates"], strict=True)
            losses = [trainer.step(x, y, rate)[0] for x, y, rate in steps]
            after = {name: np.array(array) for name, array in self.backend.weights(model).items()}
            return {"loss": np.array(losses, dtype), **after, "logits": trainer.logits(batches[0])}

        start = {name: array.astype(dtype) for name, array in self.tensors(request).items()}
        truth = run(start)
        write_safetensors(Path(request["outputs"]["result"]), truth, durable=False)
        scales = training_runs.weight_scales(network)
        return {"rounding_spread": rounding_spread(run, start, truth, scales, request["seeds"], one_ulp)}

    def summary(self, request: Request) -> dict[str, Any]:
        """Return every layer's call, in order."""
        network = catalog.get(request["network"], **request["config"])
        model = self.backend.build(network, request["dtype"])
        self.backend.load(model, weights.initialize(network, "xavier", 0, request["dtype"]))
        calls = [dataclasses.asdict(call) for call in self.backend.summary(model)]
        return {"calls": calls, "container": self.backend.container}


def _serve(name: str, answers: TextIO) -> int:
    def send(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    try:
        server = Server(name)
    except ModuleNotFoundError as error:
        traceback.print_exc()
        missing = error.name in registry.get(name).modules
        send({"status": "missing" if missing else "failed", "message": str(error)})
        return 3
    send({"status": "ready", "versions": server.versions()})
    for line in sys.stdin:
        with open(line.rstrip("\n"), encoding="utf-8") as file:
            request = json.load(file)
        try:
            answer = server.answer(request)
        except Exception as error:  # an exception of a framework fails only its request
            traceback.print_exc()
            answer = {
                "id": request["id"],
                "status": "failed",
                "message": " ".join(f"{type(error).__name__}: {error}".split()),
            }
        send(answer)
    return 0


def main() -> int:
    """Serve one backend; standard output carries only answers."""
    (name,) = sys.argv[1:]
    end_with_parent()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return _serve(name, answers)


if __name__ == "__main__":
    sys.exit(main())
