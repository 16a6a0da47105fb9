"""Mean cross-entropy, the training loss."""

from __future__ import annotations

import numpy as np


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean over the batch of -log softmax(logits)[label]: (N, classes), (N,) -> a number."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    normalizer = np.log(np.exp(shifted).sum(axis=1))
    return float(np.mean(normalizer - shifted[np.arange(len(labels)), labels]))
