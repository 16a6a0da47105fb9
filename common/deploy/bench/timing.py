"""Warm-up detection, bootstrap intervals and percentiles of latencies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from common.deploy.bench.results import Interval

__all__ = ["WINDOW", "latency", "percentile", "resampled_medians", "settled", "warm_up"]

WINDOW = 5
"""Samples per window; warm-up compares the medians of consecutive windows."""

_RELATIVE_TOLERANCE = 0.01
"""Medians closer than this count as equal, so that the resolution of the clock is not taken for a trend."""

_DRAWS = 2000
_SEED = 0


def _noise_of_median(samples: np.ndarray) -> float:
    """Return the standard error of the median, from the median absolute deviation.

    For a normal distribution, 1.4826 times that deviation is the standard deviation, and the standard error of the
    median is sqrt(pi / 2) times that of the mean.
    """
    deviation = 1.4826 * float(np.median(np.abs(samples - np.median(samples))))
    return math.sqrt(math.pi / 2 / len(samples)) * deviation


def settled(samples: Sequence[float]) -> bool:
    """Return whether the medians of the last two windows differ by less than 95% of the noise, or by less than 1%.

    The noise is estimated from the later window: in the earlier one, a trend would increase the estimate.
    """
    if len(samples) < 2 * WINDOW:
        return False
    before, after = (np.asarray(samples[start : start + WINDOW or None]) for start in (-2 * WINDOW, -WINDOW))
    noise = 1.96 * math.sqrt(2) * _noise_of_median(after)
    medians = float(np.median(before)), float(np.median(after))
    return abs(medians[0] - medians[1]) <= max(noise, _RELATIVE_TOLERANCE * min(medians))


def warm_up(sample: Callable[[], float], seconds: float) -> list[float]:
    """Take samples until two consecutive windows agree or the samples take `seconds`. Return all of them.

    Windows do not overlap: with a test after every sample, a trend would sooner or later look level by chance.
    """
    samples: list[float] = []
    while math.fsum(samples) < seconds:
        samples.append(sample())
        if len(samples) % WINDOW == 0 and settled(samples):
            break
    return samples


def percentile(rounds: Sequence[Sequence[float]], percent: float) -> float:
    """Return a percentile of the samples of all rounds, with linear interpolation."""
    return float(np.percentile(np.concatenate([np.asarray(samples) for samples in rounds]), percent))


def resampled_medians(samples: Sequence[float], draws: int, generator: np.random.Generator) -> np.ndarray:
    """Return the medians of `draws` bootstrap resamples, (draws,), without drawing the resamples.

    A resample picks samples by n uniform numbers. The k-th smallest of these has the distribution Beta(k, n + 1 - k).
    """
    ranked = np.sort(np.asarray(samples, np.float64))
    n = len(ranked)
    low = (n + 1) // 2
    place = generator.beta(low, n + 1 - low, draws)
    medians = ranked[np.minimum((place * n).astype(int), n - 1)]
    if n % 2:
        return medians
    # The upper middle number is the smallest of the n / 2 numbers above the lower middle one.
    place += (1 - place) * generator.beta(1, n - low, draws)
    return (medians + ranked[np.minimum((place * n).astype(int), n - 1)]) / 2


def latency(rounds: Sequence[Sequence[float]]) -> Interval:
    """Return the median of the rounds' medians, with its 95% confidence interval.

    A hierarchical bootstrap: it resamples rounds, and samples within each round. Differences between processes, such
    as their memory layout, thus count once per process and not once per sample.
    """
    generator = np.random.default_rng(_SEED)
    drawn = generator.integers(len(rounds), size=(_DRAWS, len(rounds)))
    medians = np.empty(drawn.shape)
    for number, samples in enumerate(rounds):
        chosen = drawn == number
        medians[chosen] = resampled_medians(samples, int(chosen.sum()), generator)
    low, high = np.percentile(np.median(medians, axis=1), (2.5, 97.5))
    value = float(np.median([np.median(samples) for samples in rounds]))
    # With an even number of skewed rounds, the bootstrap interval can narrowly miss the value itself.
    return Interval(value, min(float(low), value), max(float(high), value))
