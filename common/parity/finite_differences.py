"""Derivatives of the reference's loss along random directions, by central differences, without autodiff.

A direction moves one group of tensors: the weights or the vectors of one stage, or the input. Each entry moves up or
down at random by the root mean square of its tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from common import reference
from common.catalog import Network
from common.reference import ExternalNetwork
from common.reference.loss import cross_entropy

__all__ = ["Derivative", "derivatives", "directional_derivative", "disagreements", "groups"]

_STEP = 1e-6
"""Step in each direction, as a multiple of the root mean square.

Rounding of the loss, some 1e-16, makes an error of some 1e-10 in the quotient. A ReLU or maximum that switches within
the step adds an error too, and shorter steps have fewer of them.
"""
_SHORTENED = 5
"""How many times the step is divided by 4 if one switches."""


def groups(network: Network) -> dict[str, list[str]]:
    """Return the parameter names by group: the first part of the path, and weights or vectors."""
    result: dict[str, list[str]] = {}
    for name, tensor in reference.describe(network).manifest.items():
        if not name.endswith(("running_mean", "running_var")):
            kind = "vectors" if tensor.kind == "vector" else "weights"
            result.setdefault(f"{name.partition('.')[0]} {kind}", []).append(name)
    return result


def _direction(name: str, values: np.ndarray, number: int) -> np.ndarray:
    """Return direction `number` of one tensor; it depends only on the number and the tensor."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([number, *name.encode()])))
    size = math.sqrt(np.vdot(values, values) / values.size)
    signs = np.unpackbits(np.frombuffer(generator.bytes(-(-values.size // 8)), np.uint8), count=values.size)
    return np.where(signs, size, -size).reshape(values.shape)


@dataclass(frozen=True)
class Derivative:
    """The derivative of the loss along direction `number` of a group of tensors."""

    group: str
    names: tuple[str, ...]
    number: int
    value: float


def _quotient(loss: Callable[[float], float], center: float) -> float:
    """Return the derivative of `loss` at 0, where it is `center`."""
    least, value = math.inf, math.nan
    for shortened in range(_SHORTENED + 1):
        step = _STEP / 4**shortened
        ahead, behind = (loss(step) - center) / step, (center - loss(-step)) / step
        # One-sided quotients differ if something switches between them.
        if abs(ahead - behind) < least:
            least, value = abs(ahead - behind), (ahead + behind) / 2
        if least < 1e-5 * max(abs(value), 0.01):
            break
    return value


def derivatives(
    network: Network,
    tensors: Mapping[str, np.ndarray],
    x: np.ndarray,
    labels: np.ndarray,
    directions: int = 2,
    logits: Callable[[Mapping[str, np.ndarray], np.ndarray], np.ndarray] | None = None,
) -> Iterator[Derivative]:
    """Iterate over derivatives of the loss in training mode, `directions` for each group and the input.

    `logits(tensors, x)` computes the network; default: the reference.
    """
    values = {**tensors, "input": x}
    compute = logits or _reference(network)

    def loss(moved: Mapping[str, np.ndarray]) -> float:
        present = {name: moved.get(name, array) for name, array in tensors.items()}
        return cross_entropy(compute(present, moved.get("input", x)), labels)

    center = loss({})
    for group, names in {**groups(network), "input": ["input"]}.items():
        for number in range(directions):
            along = {name: _direction(name, values[name], number) for name in names}
            value = _quotient(lambda step: loss({n: values[n] + step * d for n, d in along.items()}), center)  # noqa: B023 (called at once)
            yield Derivative(group, tuple(names), number, value)


def _reference(network: Network) -> Callable[[Mapping[str, np.ndarray], np.ndarray], np.ndarray]:
    """Return the reference as a function of its tensors and its input, in training mode."""
    if isinstance(network, ExternalNetwork):
        raise TypeError("an external network has no reference; pass `logits`, the function that computes it")
    model = reference.build(network)
    model.train(True)

    def compute(tensors: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
        reference.load(model, tensors)
        return model(x)

    return compute


def directional_derivative(
    derivative: Derivative, values: Mapping[str, np.ndarray], gradients: Mapping[str, np.ndarray]
) -> float:
    """Return the derivative that follows from `gradients`; `values` are the tensors at which it was taken."""
    return sum(
        float(np.sum(gradients[name] * _direction(name, values[name], derivative.number))) for name in derivative.names
    )


def disagreements(
    found: Iterable[Derivative], values: Mapping[str, np.ndarray], gradients: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Return the error of `gradients` against the derivatives by group, relative to the group's largest derivative.

    The scale is at least a thousandth of the largest derivative of all groups, because the error of a quotient does not
    shrink with the derivative.
    """
    found = list(found)
    largest = max(abs(derivative.value) for derivative in found)
    errors: dict[str, float] = {}
    for group in dict.fromkeys(derivative.group for derivative in found):
        members = [derivative for derivative in found if derivative.group == group]
        scale = max(*(abs(derivative.value) for derivative in members), largest / 1000)
        errors[group] = max(abs(directional_derivative(d, values, gradients) - d.value) for d in members) / scale
    return errors
