"""Loss and predictions of a network on labeled images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from common.reference.loss import cross_entropy
from common.training.batches import Batch

__all__ = ["Evaluation", "cross_entropy", "evaluate"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """`loss`: mean over all images; `labels` and `predictions`: class indices, (N,)."""

    loss: float
    labels: np.ndarray
    predictions: np.ndarray

    @property
    def accuracy(self) -> float:
        """The fraction of correct predictions, 0 to 1."""
        return float(np.mean(self.labels == self.predictions))


def evaluate(logits: Callable[[np.ndarray], np.ndarray], batches: Iterable[Batch]) -> Evaluation:
    """Evaluate a network; `logits` maps images to logits in evaluation mode."""
    total, labels, predictions = 0.0, [], []
    for batch in batches:
        outputs = logits(batch.images).astype(np.float64)
        total += cross_entropy(outputs, batch.labels) * len(batch.labels)
        labels.append(batch.labels)
        predictions.append(outputs.argmax(axis=1))
    every_label = np.concatenate(labels)
    return Evaluation(total / len(every_label), every_label, np.concatenate(predictions))
