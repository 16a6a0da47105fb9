"""How good a network is on labeled images: the loss, and what it takes each of them for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from common.reference.loss import cross_entropy
from common.training.batches import Batch

__all__ = ["Evaluation", "cross_entropy", "evaluate"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """`loss`: the mean over all images; `labels` and `predictions`: (N,), what each shows and what it was taken for."""

    loss: float
    labels: np.ndarray
    predictions: np.ndarray

    @property
    def accuracy(self) -> float:
        """The share that was taken for what it is, 0 to 1."""
        return float(np.mean(self.labels == self.predictions))


def evaluate(logits: Callable[[np.ndarray], np.ndarray], batches: Iterable[Batch]) -> Evaluation:
    """Evaluate the network whose logits, in evaluation mode, are `logits(images)`."""
    total, labels, predictions = 0.0, [], []
    for batch in batches:
        found = logits(batch.images).astype(np.float64)
        total += cross_entropy(found, batch.labels) * len(batch.labels)
        labels.append(batch.labels)
        predictions.append(found.argmax(axis=1))
    seen = np.concatenate(labels)
    return Evaluation(total / len(seen), seen, np.concatenate(predictions))
