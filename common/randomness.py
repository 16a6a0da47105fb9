"""Seeds that depend only on the run's seed and the step, so that a resumed run draws the same random numbers."""

from __future__ import annotations

import numpy as np

__all__ = ["step_seed"]


def step_seed(seed: int, step: int) -> int:
    """Return the seed, below 2^31, of the dropout masks of training step `step`."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0] >> 1)
