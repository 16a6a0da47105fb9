"""A parity worker with NumPy in place of a framework and one fault, for tests/parity/test_worker_faults.py.

`python faulty_worker.py FAULT -m common.parity.worker BACKEND` runs the real worker, except for FAULT.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from common import reference
from common.backends import protocol, registry
from common.backends.numpy.backend import Backend
from common.catalog import Network
from common.files import map_safetensors, write_safetensors
from common.optimizers import OptimizerConfig
from common.parity import worker
from common.reference.layers import AvgPool2d, Conv2d, Layer, Linear, Sequential, Sigmoid
from common.reference.loss import cross_entropy
from common.weights import DTypeName

Request = dict[str, Any]
Answer = dict[str, Any]


class StandIn(Backend):
    """The reference with float32, gradients and plain SGD added, in place of a framework."""

    def build(self, network: Network, dtype: DTypeName) -> Sequential:
        model = super().build(network, dtype)
        model.dtype = np.dtype(dtype)
        return model

    def load(self, model: Sequential, tensors: Mapping[str, np.ndarray]) -> None:
        super().load(model, {name: array.astype(model.dtype) for name, array in tensors.items()})

    def weights(self, model: Sequential) -> dict[str, np.ndarray]:
        return {name: array.astype(model.dtype) for name, array in super().weights(model).items()}

    def trace(self, model: Sequential, x: np.ndarray, training: bool = False, *others: Any) -> dict[str, np.ndarray]:
        taps = super().trace(model, x, training, *others)
        return {name: array.astype(model.dtype) for name, array in taps.items()}

    def gradients(self, model: Sequential, x: np.ndarray, labels: np.ndarray) -> protocol.Gradients:
        inputs, values = {}, np.asarray(x, np.float64)
        for name, layer in model.children():
            inputs[name], values = values, layer(values)
        share = np.exp(values - values.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        share[np.arange(len(labels)), labels] -= 1
        found, moving = {}, share / len(labels)
        for name, layer in reversed(list(model.children())):
            moving, own = backward(layer, inputs[name], moving)
            found |= {f"{name}.{leaf}": array.astype(model.dtype) for leaf, array in own.items()}
        ordered = {name: found[name] for name in reference.weights(model)}
        return protocol.Gradients(cross_entropy(values, labels), ordered, moving.astype(model.dtype))

    def trainer(self, model: Sequential, optimizer: OptimizerConfig, seed: int = 0) -> Trainer:
        return Trainer(self, model)


class Trainer:
    """Plain SGD."""

    def __init__(self, backend: StandIn, model: Sequential) -> None:
        self.backend, self.model, self.steps = backend, model, 0

    def step(self, images: np.ndarray, labels: np.ndarray, learning_rate: float) -> tuple[float, int]:
        found = self.backend.gradients(self.model, images, labels)
        old = self.backend.weights(self.model)
        self.backend.load(self.model, {name: old[name] - learning_rate * g for name, g in found.parameters.items()})
        self.steps += 1
        return found.loss, 0

    def logits(self, images: np.ndarray) -> np.ndarray:
        return self.backend.run(self.model, images).astype(self.model.dtype)


def backward(layer: Layer, x: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the gradients of a layer's input and weights, given the gradient `dy` of its output."""
    if isinstance(layer, Linear):
        return dy @ layer.weight, {"weight": dy.T @ x, "bias": dy.sum(axis=0)}
    if isinstance(layer, Sigmoid):
        y = layer(x)
        return dy * y * (1 - y), {}
    if isinstance(layer, AvgPool2d):
        return np.kron(dy, np.full((layer.kernel, layer.kernel), layer.kernel**-2.0)), {}
    if not isinstance(layer, Conv2d):
        return dy.reshape(x.shape), {}  # Flatten
    size, edge = (layer.kernel, layer.kernel), layer.kernel - 1
    padded = np.pad(x, [(0, 0), (0, 0), *[(layer.padding, layer.padding)] * 2])
    weight = np.einsum("nohw,nchwij->ocij", dy, sliding_window_view(padded, size, (2, 3)))
    around = sliding_window_view(np.pad(dy, [(0, 0), (0, 0), (edge, edge), (edge, edge)]), size, (2, 3))
    dx = np.einsum("nohwij,ocij->nchw", around, layer.weight[:, :, ::-1, ::-1])
    inside = slice(layer.padding, -layer.padding or None)
    return dx[:, :, inside, inside], {"weight": weight, "bias": dy.sum(axis=(0, 2, 3))}


Change = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
Fault = Callable[[Callable[[Request], Answer], Request], Answer]
"""Answers a request; its first argument is the function that answers it correctly."""

ANSWERS = os.dup(sys.stdout.fileno())
"""A copy of the descriptor to which the worker writes its answers."""

FAULTS: dict[str, Fault] = {}


def fault(function: Fault) -> Fault:
    FAULTS[function.__name__] = function
    return function


def result(change: Change) -> None:
    """Register a fault that changes the tensors that a request writes."""

    def altered(right: Callable[[Request], Answer], request: Request) -> Answer:
        answer = right(request)
        for path in map(Path, request["outputs"].values()):
            tensors = {name: np.array(array) for name, array in map_safetensors(path)[1].items()}
            write_safetensors(path, change(tensors), durable=False)
        return answer

    FAULTS[change.__name__] = altered


def target(tensors: Mapping[str, np.ndarray]) -> str:
    """Return the name of the tensor to change: a gradient or a weight if there is one, else a tap."""
    return next((name for name in tensors if name.endswith("fc3.weight")), "fc3")


@fault
def none(right, request):
    return right(request)


@fault
def segfault(right, request):
    ctypes.string_at(1)


@fault
def segfault_late(right, request):
    time.sleep(3)
    ctypes.string_at(1)


@fault
def abort(right, request):
    os.abort()


@fault
def die_in_float32(right, request):
    return ctypes.string_at(1) if request["dtype"] == "float32" else right(request)


@fault
def out_of_memory(right, request):
    limit = 2 << 30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return [np.empty(1 << 26) for _ in range(4)]  # half a GiB each, not touched


@fault
def hang(right, request):
    time.sleep(600)


@fault
def hang_in_c(right, request):
    ctypes.PyDLL(None).sleep(600)  # with the interpreter's lock held


@fault
def stop(right, request):
    os.kill(os.getpid(), signal.SIGSTOP)


@fault
def print_from_python(right, request):
    print('{"id": 1, "status": "ok"}', flush=True)  # noqa: T201
    return right(request)


@fault
def print_from_c(right, request):
    os.write(1, b'{"id": 1, "status": "ok"}\n')
    ctypes.CDLL(None).puts(b"no newline at the end is missing")
    return right(request)


@fault
def print_among_the_answers(right, request):
    os.write(ANSWERS, b"Downloading the model...\n")
    return right(request)


@fault
def print_no_text(right, request):
    os.write(ANSWERS, b"\xff\xfe\x00\n")
    return right(request)


@fault
def half_an_answer(right, request):
    os.write(ANSWERS, b'{"id": 1, "status": "o')
    os._exit(0)


@fault
def answer_to_another_request(right, request):
    return {**right(request), "id": request["id"] - 1}


@fault
def answer_twice(right, request):
    answer = right(request)
    os.write(ANSWERS, json.dumps(answer).encode() + b"\n")
    return answer


@fault
def answer_without_a_cost(right, request):
    answer = right(request)
    return {"id": answer["id"], "status": "ok"}


@fault
def answer_without_a_rounding_spread(right, request):
    answer = right(request)
    answer.pop("rounding_spread", None)
    return answer


@fault
def answer_of_no_status(right, request):
    return {"id": right(request)["id"]}


@fault
def close_the_answers(right, request):
    ours = os.fstat(ANSWERS).st_ino
    for descriptor in range(3, 100):
        try:
            if os.fstat(descriptor).st_ino == ours:
                os.close(descriptor)
        except OSError:
            pass
    time.sleep(600)


@fault
def leave_a_child(right, request):
    if os.fork() == 0:
        time.sleep(600)  # it keeps the worker's output open
    ctypes.string_at(1)


@fault
def answer_and_leave_a_child(right, request):
    if os.fork() == 0:
        time.sleep(600)
    return right(request)


@fault
def hang_with_a_child(right, request):
    os.fork()
    time.sleep(600)


@fault
def hang_with_a_daemon(right, request):
    if os.fork() == 0:
        os.setsid()
    time.sleep(600)


@fault
def complain_in_color(right, request):
    os.write(2, b"\x1b[31mERROR\x1b[0m \x00 the device is lost\n")
    os._exit(9)


@fault
def raise_an_error(right, request):
    raise RuntimeError("a line\n\x1b[1mand another\x1b[0m \ud800 " + "of many words " * 1000)


@fault
def no_result(right, request):
    answer = right(request)
    for path in request["outputs"].values():
        os.unlink(path)
    return answer


@fault
def truncated_result(right, request):
    answer = right(request)
    for path in request["outputs"].values():
        os.truncate(path, os.path.getsize(path) - 1)
    return answer


@fault
def result_of_garbage(right, request):
    answer = right(request)
    for path in request["outputs"].values():
        Path(path).write_bytes(b"\xff" * 1000)
    return answer


@result
def too_few(tensors):
    del tensors[target(tensors)]
    return tensors


@result
def too_many(tensors):
    return {**tensors, f"{target(tensors)}s": tensors[target(tensors)]}


@result
def nothing_at_all(tensors):
    return {"fc9": np.zeros(1)}


@result
def nan(tensors):
    tensors[target(tensors)].flat[-1] = np.nan
    return tensors


@result
def infinity(tensors):
    tensors[target(tensors)].flat[-1] = np.inf
    return tensors


@result
def other_dtype(tensors):
    others = {"float64": "float32", "float32": "float64"}
    return {name: array.astype(others[array.dtype.name]) for name, array in tensors.items()}


@result
def other_shape(tensors):
    tensors[target(tensors)] = tensors[target(tensors)][..., :-1]
    return tensors


@result
def one_number_for_all(tensors):
    tensors[target(tensors)] = tensors[target(tensors)][..., :1]  # NumPy would broadcast it to the whole shape
    return tensors


@result
def off_by_a_thousandth(tensors):
    tensors[target(tensors)] *= 1.001
    return tensors


class NaN(StandIn):
    """A backend with a NaN in its gradients, and therefore in its training runs."""

    def gradients(self, model: Sequential, x: np.ndarray, labels: np.ndarray) -> protocol.Gradients:
        found = super().gradients(model, x, labels)
        found.parameters["fc3.weight"].flat[-1] = np.nan
        return found


def main() -> int:
    """Run the worker with the requested fault; some faults act before the first request."""
    name = sys.argv[1]
    sys.argv[1:] = sys.argv[-1:]
    if name == "no_framework":
        sys.modules |= dict.fromkeys(registry.get(sys.argv[1]).modules)  # makes importing them raise
        return worker.main()
    if name == "hang_at_the_start":
        time.sleep(600)
    if name == "late":
        time.sleep(1)
    if name == "die_at_the_start":
        ctypes.string_at(1)
    registry.load = lambda *_, **__: NaN() if name == "nan_in_the_backend" else StandIn()
    worker.Server.versions = lambda self: {}
    if name == "die_before_the_first_request":
        sys.stdin = (ctypes.string_at(1) for _ in [0])  # the worker reads it after it has reported ready
    act, right = FAULTS.get(name, none), worker.Server.answer
    worker.Server.answer = lambda self, request: act(lambda given: right(self, given), request)
    return worker.main()


if __name__ == "__main__":
    sys.exit(main())
