"""Random numbers that depend on what they are for and on nothing that happened before, so that a run can be resumed."""

from __future__ import annotations

import numpy as np

__all__ = ["step_seed"]


def step_seed(seed: int, step: int) -> int:
    """Return the seed, below 2^31, of the random numbers (dropout masks) that training step `step` draws."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0] >> 1)
