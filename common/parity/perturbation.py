"""Relative differences of tensors, and how far rounding-sized changes of the inputs move a result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np


def differences(
    found: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray], scales: Mapping[str, str]
) -> dict[str, float]:
    """Return the largest error of each tensor, relative to the tensor's largest true value.

    `scales` maps a tensor to another one, which scales the error instead if its values are larger. Missing tensors,
    other shapes and values that are not finite give an infinite error.
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
"""Numbers compared at a time, so that intermediate results stay in the processor's cache."""


def blocks(arrays: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Iterate over corresponding blocks of arrays of the same size."""
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
    """Return the largest change of each result of `run(tensors)` when the tensors are perturbed, over all seeds."""
    widest: dict[str, float] = {}
    for seed in seeds:
        generator = np.random.default_rng(seed)
        moved = run({name: perturb(generator, array) for name, array in tensors.items()})
        for name, error in differences(moved, truth, scales).items():
            widest[name] = max(widest.get(name, 0.0), error)
    return widest


def one_ulp(generator: np.random.Generator, array: np.ndarray) -> np.ndarray:
    """Return the array with every entry moved to the next number above or below, at random."""
    toward = np.where(generator.random(array.shape) < 0.5, np.inf, -np.inf).astype(array.dtype)
    return np.nextafter(array, toward)


SIXTEEN_ROUNDINGS = 2.0**-20
"""16 times the largest relative rounding error of float32."""


def sixteen_roundings(generator: np.random.Generator, array: np.ndarray) -> np.ndarray:
    """Return the array with relative Gaussian noise of 16 float32 roundings on every entry."""
    return array * (1 + SIXTEEN_ROUNDINGS * generator.standard_normal(array.shape))
