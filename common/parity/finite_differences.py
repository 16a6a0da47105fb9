"""The truth about gradients: derivatives of the reference's loss along random directions, by central differences.

It owes nothing to anybody's backward pass. A direction moves one group of tensors (the weights, or the vectors, of one
stage; or the input), each entry one way or the other, at random, by the tensor's root mean square.
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

__all__ = ["Derivative", "derivatives", "disagreements", "groups", "projected"]

_STEP = 1e-6
"""How far to move either way, in sizes of a tensor.

The loss is off by some roundings of 1e-16, and so the quotient by some 1e-10. Wherever a rectifier or a maximum changes
over within the step, the quotient is off by a share of that one term: the shorter the step, the fewer there are.
"""
_SHORTENED = 5
"""How often a step is divided by 4 where one changes over all the same."""


def groups(network: Network) -> dict[str, list[str]]:
    """Return the parameters by group: first part of the path, and whether they are weights or vectors."""
    found: dict[str, list[str]] = {}
    for name, tensor in reference.describe(network).manifest.items():
        if not name.endswith(("running_mean", "running_var")):
            kind = "vectors" if tensor.kind == "vector" else "weights"
            found.setdefault(f"{name.partition('.')[0]} {kind}", []).append(name)
    return found


def _direction(name: str, values: np.ndarray, number: int) -> np.ndarray:
    """Return direction `number` of one tensor, the same for everyone who asks."""
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
        # One-sided quotients that differ have a bend between them.
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
    """Iterate over the derivatives of the loss in training mode, `directions` of each group and of the input.

    `logits(tensors, x)` computes the network, where that is not the reference.
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
        raise TypeError("a network from outside has no reference; give the function that computes it")
    model = reference.build(network)
    model.train(True)

    def compute(tensors: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
        reference.load(model, tensors)
        return model(x)

    return compute


def projected(derivative: Derivative, values: Mapping[str, np.ndarray], gradients: Mapping[str, np.ndarray]) -> float:
    """Return what `gradients` say the derivative is; `values` are the tensors that it was taken at."""
    return sum(
        float(np.sum(gradients[name] * _direction(name, values[name], derivative.number))) for name in derivative.names
    )


def disagreements(
    found: Iterable[Derivative], values: Mapping[str, np.ndarray], gradients: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Return by group how far `gradients` are from the derivatives, relative to the group's largest derivative.

    A group's largest counts as no less than a thousandth of the largest of all, since the quotients' own error does
    not shrink with the derivative.
    """
    found = list(found)
    largest = max(abs(derivative.value) for derivative in found)
    errors: dict[str, float] = {}
    for group in dict.fromkeys(derivative.group for derivative in found):
        members = [derivative for derivative in found if derivative.group == group]
        scale = max(*(abs(derivative.value) for derivative in members), largest / 1000)
        errors[group] = max(abs(projected(d, values, gradients) - d.value) for d in members) / scale
    return errors
