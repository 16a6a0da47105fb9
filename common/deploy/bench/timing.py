"""What may be said of times that scatter: when a process has warmed up, how sure a median is, and how large a tail."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from common.deploy.bench.results import Interval

__all__ = ["WINDOW", "latency", "percentile", "resampled_medians", "settled", "warm_up"]

WINDOW = 5
"""Samples whose median is compared with that of as many before them."""

_ALIKE = 0.01
"""Medians that differ by less than this share are the same: a clock's resolution is no trend."""

_DRAWS = 2000
_SEED = 0


def _noise_of_median(samples: np.ndarray) -> float:
    """Return the standard error of the median of samples, from their median absolute deviation.

    1.4826 makes that deviation the standard deviation of a normal distribution, and sqrt(pi / 2) is how much less
    exact than a mean a median of one is.
    """
    deviation = 1.4826 * float(np.median(np.abs(samples - np.median(samples))))
    return math.sqrt(math.pi / 2 / len(samples)) * deviation


def settled(samples: Sequence[float]) -> bool:
    """Return whether the medians of the last two windows agree within 95% of the noise, or within 1%.

    The noise is the later window's: in the earlier one a trend would pass for noise, and excuse itself.
    """
    if len(samples) < 2 * WINDOW:
        return False
    before, after = (np.asarray(samples[start : start + WINDOW or None]) for start in (-2 * WINDOW, -WINDOW))
    noise = 1.96 * math.sqrt(2) * _noise_of_median(after)
    medians = float(np.median(before)), float(np.median(after))
    return abs(medians[0] - medians[1]) <= max(noise, _ALIKE * min(medians))


def warm_up(sample: Callable[[], float], seconds: float) -> list[float]:
    """Take samples until two windows running agree, for at most so many seconds of them, and return them all.

    Windows do not overlap: looked at after every sample, a trend would sooner or later look level by chance.
    """
    samples: list[float] = []
    while math.fsum(samples) < seconds:
        samples.append(sample())
        if len(samples) % WINDOW == 0 and settled(samples):
            break
    return samples


def percentile(rounds: Sequence[Sequence[float]], percent: float) -> float:
    """Return a percentile of the samples of all rounds together, between two samples by their distance."""
    return float(np.percentile(np.concatenate([np.asarray(samples) for samples in rounds]), percent))


def resampled_medians(samples: Sequence[float], draws: int, generator: np.random.Generator) -> np.ndarray:
    """Return medians of `draws` bootstrap resamples, (draws,), without drawing these.

    A resample picks samples by n uniform numbers, and the k-th smallest of these is distributed as Beta(k, n + 1 - k).
    """
    ranked = np.sort(np.asarray(samples, np.float64))
    n = len(ranked)
    low = (n + 1) // 2
    place = generator.beta(low, n + 1 - low, draws)
    medians = ranked[np.minimum((place * n).astype(int), n - 1)]
    if n % 2:
        return medians
    # Of the numbers above the lower middle one, n / 2 are left, and the upper middle one is the least of them.
    place += (1 - place) * generator.beta(1, n - low, draws)
    return (medians + ranked[np.minimum((place * n).astype(int), n - 1)]) / 2


def latency(rounds: Sequence[Sequence[float]]) -> Interval:
    """Return the median over rounds of each round's median, with the bounds of its 95% confidence interval.

    A hierarchical bootstrap: rounds are drawn anew, and in each the samples. So what differs from process to process,
    such as where its memory came to lie, counts as often as there were processes, not as there were samples.
    """
    generator = np.random.default_rng(_SEED)
    drawn = generator.integers(len(rounds), size=(_DRAWS, len(rounds)))
    medians = np.empty(drawn.shape)
    for number, samples in enumerate(rounds):
        here = drawn == number
        medians[here] = resampled_medians(samples, int(here.sum()), generator)
    low, high = np.percentile(np.median(medians, axis=1), (2.5, 97.5))
    value = float(np.median([np.median(samples) for samples in rounds]))
    # Of an even number of skewed rounds the bootstrap can, barely, miss the value itself.
    return Interval(value, min(float(low), value), max(float(high), value))
