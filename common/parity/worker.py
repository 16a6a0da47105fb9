"""One backend in a process of its own: `python -m common.parity.worker BACKEND` serves requests until its input ends.

A request is a line on standard input: the path of a JSON file. An answer is a line of JSON on standard output.
Arrays go through files that the request names. All else that is printed, by Python or by a framework's C code, goes to
standard error, so that nothing can be taken for an answer.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib.metadata
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from common import catalog, weights
from common.backends import registry
from common.backends.protocol import Backend
from common.catalog import Network
from common.files import map_safetensors, write_safetensors
from common.optimizers import OptimizerConfig
from common.parity import patched_import, perturbation, training_runs
from common.parity.external_model import ExternalBackend, resolve
from common.parity.gradients import gradient_scales
from common.reference.loss import cross_entropy
from common.system import peak_memory

__all__ = ["main"]

Request = dict[str, Any]

_ENDS = ("input", "output")
"""What a file of calls says of each layer."""


class Server:
    """Answers requests with one backend; keeps the last model, since requests for one network come together."""

    def __init__(self, name: str) -> None:
        self.info = registry.get(name)
        self.backend: Backend = registry.load(name)
        self._model: tuple[tuple[str, str, str, str], Any] | None = None
        self._changes: list[dict[str, Any]] = []
        self._adopted: ExternalBackend | None = None
        self.actions: dict[str, Callable[[Request], dict[str, Any]]] = {
            "run": self.run,
            "trace": self.trace,
            "weights": self.weights,
            "summary": self.summary,
            "gradients": self.gradients,
            "train": self.train,
            "mutate": self.mutate,
            "adopt": self.adopt,
            "share": self.share,
            "taps": self.taps,
            "calls": self.calls,
        }

    def versions(self) -> dict[str, str]:
        """Return the version of Python and of each distribution the backend runs on."""
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
            self._model = None  # free the old one's memory before the new one takes its own
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
        """Return the requested network: the external one, where there is one."""
        return self._adopted.network if self._adopted else catalog.get(request["network"], **request["config"])

    def tensors(self, request: Request) -> Mapping[str, np.ndarray]:
        """Return the requested weights."""
        path = request["weights"]
        return map_safetensors(Path(path))[1] if self._adopted else weights.read(path).tensors

    def adopt(self, request: Request) -> dict[str, Any]:
        """Have a model from outside in place of the catalog's from now on; return what there is to know of it.

        Its own weights go to the file that is asked for.
        """
        self._model = None
        if self._adopted is None:
            self._plain = self.backend
        make = request["factory"]
        if isinstance(make, str):
            make = resolve(make, request["folder"])
        details = (request["image"], request["names"], request["flattened"])
        adopted = ExternalBackend(self.info.name, self._plain, make, *details)
        self.backend = self._adopted = adopted
        tensors = adopted.initial(adopted.network, "float64", 0)
        if tensors:
            write_safetensors(Path(request["outputs"]["weights"]), tensors, durable=False)
        return adopted.description()

    def taps(self, request: Request) -> dict[str, Any]:
        """Return what can be traced of the adopted model."""
        model = self.model(request)
        return {"calls": [dataclasses.asdict(call) for call in self.backend.summary(model)]}

    def share(self, request: Request) -> dict[str, Any]:
        """Trace these taps of the adopted model from now on."""
        self._model = None
        self._adopted.share(request["taps"])  # type: ignore[union-attr]  # asked for after `adopt`
        return {}

    def calls(self, request: Request) -> dict[str, Any]:
        """Write what each layer was given and what it made of it."""
        model = self.model(request)
        found = self.backend.calls(model, np.load(request["images"]), request["training"])
        arrays = {
            f"{which} {path}": array for path, pair in found.items() for which, array in zip(_ENDS, pair, strict=True)
        }
        if arrays:
            write_safetensors(Path(request["outputs"]["result"]), arrays, durable=False)
        self._model = None  # its statistics may have moved
        return {"paths": list(found)}

    def mutate(self, request: Request) -> dict[str, Any]:
        """Have a mistake in the port from now on, or in the weights that it is given, until the next such request."""
        self._model = None
        gc.collect()  # modules, and what they hold, refer to one another
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
        """Write every tap of each input; with files of taps as `given`, each layer is given what these say."""
        model = self.model(request)
        training = request.get("training", False)
        for name, path in request["inputs"].items():
            given = map_safetensors(Path(request["given"][name]))[1] if "given" in request else None
            taps = self.backend.trace(model, np.load(path), training, given)
            write_safetensors(Path(request["outputs"][name]), taps, durable=False)
        if training:
            self._model = None  # its statistics have moved
        return {}

    def weights(self, request: Request) -> dict[str, Any]:
        """Write the weights of these names as the model has them."""
        own = self.backend.weights(self.model(request))
        chosen = {name: own[name] for name in request["names"]}
        write_safetensors(Path(request["outputs"]["result"]), chosen, durable=False)
        return {}

    def gradients(self, request: Request) -> dict[str, Any]:
        """Write every tap in training mode, the loss, the statistics that moved, and all gradients.

        With `seeds`, return as well how far each gradient moves when everything that goes in is off by as much as 16
        roundings of float32: that may be ten times as far as float32 itself gets, and no less where some rectifier or
        maximum changes over.
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
        self._model = None  # its statistics have moved
        if "seeds" not in request:
            return {}
        scales, perturb = gradient_scales(self.network(request)), perturbation.sixteen_roundings
        return {"envelope": perturbation.rounding_spread(gradients, start, truth, scales, request["seeds"], perturb)}

    def train(self, request: Request) -> dict[str, Any]:
        """Write the loss at each step, all weights after the last, and the logits that they give the first batch.

        Return how far all that moves when the weights start one unit in the last place off, for each of `seeds`.
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
        return {
            "envelope": perturbation.rounding_spread(run, start, truth, scales, request["seeds"], perturbation.one_ulp)
        }

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
        except Exception as error:  # whatever a framework raises costs this request, not the worker
            traceback.print_exc()
            answer = {
                "id": request["id"],
                "status": "failed",
                "message": " ".join(f"{type(error).__name__}: {error}".split()),
            }
        send(answer)
    return 0


def _end_with(parent: int) -> None:
    """End this process, and all that it started, once its parent has gone: one that was killed could not do it."""
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def main() -> int:
    """Serve one backend; the process keeps its standard output for answers alone."""
    (name,) = sys.argv[1:]
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return _serve(name, answers)


if __name__ == "__main__":
    sys.exit(main())
