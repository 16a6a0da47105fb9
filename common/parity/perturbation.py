"""Effect of rounding: differences of tensors, and how far small changes of the weights move a result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np


def differences(
    found: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray], scales: Mapping[str, str]
) -> dict[str, float]:
    """Return how far each tensor is from the truth, at most, relative to its largest value.

    A tensor named in `scales` is measured against the one that it gives, where that is larger. What differs in shape or
    is not finite is infinitely far.
    """
    largest = {name: float(max(np.max(values), -np.min(values))) for name, values in truth.items()}
    errors = {}
    for name, values in truth.items():
        if name not in found or found[name].shape != values.shape:
            errors[name] = math.inf
            continue
        scale = max(largest[name], largest.get(scales.get(name, ""), 0.0)) or 1.0
        distances = [
            float(np.max(np.abs(np.subtract(ours, theirs, dtype=np.float64))))
            for ours, theirs in blocks([found[name], values])
        ]
        errors[name] = max(distances) / scale if np.isfinite(distances).all() else math.inf
    return errors


_BLOCK = 1 << 15
"""How many numbers of a tensor are compared at a time: what is made of them stays in the processor's cache."""


def blocks(arrays: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Iterate over arrays of the same size together, some numbers at a time."""
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, _BLOCK):
        yield [array[start : start + _BLOCK] for array in flat]


def rounding_spread(
    run: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]],
    tensors: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
    scales: Mapping[str, str],
    seeds: Iterable[int],
    perturb: Callable[[np.random.Generator, np.ndarray], np.ndarray],
) -> dict[str, float]:
    """Return how far `run(tensors)` gets from `truth`, at most, when `tensors` are perturbed, by seed."""
    widest: dict[str, float] = {}
    for seed in seeds:
        generator = np.random.default_rng(seed)
        moved = run({name: perturb(generator, array) for name, array in tensors.items()})
        for name, error in differences(moved, truth, scales).items():
            widest[name] = max(widest.get(name, 0.0), error)
    return widest


def one_ulp(generator: np.random.Generator, array: np.ndarray) -> np.ndarray:
    """Return the array with every entry moved to the next number above or below."""
    toward = np.where(generator.random(array.shape) < 0.5, np.inf, -np.inf).astype(array.dtype)
    return np.nextafter(array, toward)


SIXTEEN_ROUNDINGS = 2.0**-20
"""Relative to a number: 16 times what float32 rounds it by."""


def sixteen_roundings(generator: np.random.Generator, array: np.ndarray) -> np.ndarray:
    """Return the array with every entry off by about 16 roundings of float32, relative to itself."""
    return array * (1 + SIXTEEN_ROUNDINGS * generator.standard_normal(array.shape))
