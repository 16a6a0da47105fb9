"""Confusion matrix, and precision, recall and F1 of each class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import InputError
from common.files import check_writable
from common.plotting import new_figure, printable, save_figure

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["ClassScore", "confusion", "draw_confusion", "per_class", "per_class_table"]

_MOST_NUMBERS = 20
"""Largest number of classes for which the picture shows counts."""
_MOST_NAMES = 120
"""Largest number of classes for which the picture shows every name."""


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class; None where a score is undefined.

    With the class's true positives TP, false positives FP and false negatives FN: precision = TP / (TP + FP), None if
    the class was never predicted; recall = TP / (TP + FN), None if no image has the class; f1 = 2 TP / (2 TP + FP +
    FN), None if the class neither occurs nor was predicted; support = TP + FN.
    """

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


def _indices(name: str, values: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise InputError(f"{name} must be whole numbers in one dimension, not {values.dtype} of shape {values.shape}")
    wrong = values[(values < 0) | (values >= len(classes))]
    if wrong.size:
        raise InputError(
            f"{name} must be from 0 to {len(classes) - 1}, as there are {len(classes)} classes: {wrong[0]}"
        )
    return values.astype(np.int64)


def confusion(labels: np.ndarray, predictions: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Return the confusion matrix: (N,), (N,) -> (k, k); rows are true classes, columns are predictions.

    Raises InputError for arrays that are not indices of the k classes or differ in length.
    """
    truth, predicted = _indices("labels", labels, classes), _indices("predictions", predictions, classes)
    if truth.size != predicted.size:
        raise InputError(f"{truth.size} labels and {predicted.size} predictions; give one of each for every image")
    k = len(classes)
    return np.bincount(truth * k + predicted, minlength=k * k).reshape(k, k)


def _check(matrix: np.ndarray, classes: Sequence[str]) -> None:
    k = len(classes)
    if matrix.shape != (k, k) or k == 0:
        raise InputError(f"a confusion matrix of {k} classes must be of shape {(k, k)}, not {matrix.shape}")


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def per_class(matrix: np.ndarray, classes: Sequence[str]) -> list[ClassScore]:
    """Return the scores of each class.

    Raises InputError for a matrix that is not of these classes.
    """
    _check(matrix, classes)
    scores = []
    for index, name in enumerate(classes):
        right = int(matrix[index, index])
        support, predicted = int(matrix[index].sum()), int(matrix[:, index].sum())
        f1 = _ratio(2 * right, support + predicted)
        scores.append(ClassScore(name, _ratio(right, predicted), _ratio(right, support), f1, support))
    return scores


def per_class_table(scores: Sequence[ClassScore]) -> Table:
    """Return the scores as a table with a row for each class and a dash for undefined scores."""
    from rich.table import Table
    from rich.text import Text

    table = Table("class", "precision", "recall", "F1", "images", pad_edge=False, box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for score in scores:
        values = (
            "\N{EN DASH}" if value is None else f"{value:.3f}" for value in (score.precision, score.recall, score.f1)
        )
        table.add_row(Text(score.name), *values, str(score.support))
    return table


def _shorten(name: str) -> str:
    name = printable(name)
    return name if len(name) <= 24 else f"{name[:23]}…"


def draw_confusion(matrix: np.ndarray, classes: Sequence[str], path: Path, title: str = "") -> None:
    """Draw a confusion matrix as PNG, with counts in its cells if there are few classes.

    The color of a cell shows its share of the row's images, on a square-root scale to make rare errors visible.
    Raises InputError for a matrix that is not of these classes, and where the picture cannot be written.
    """
    from matplotlib.colors import PowerNorm

    _check(matrix, classes)
    check_writable(path)
    k = len(classes)
    share = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(max(3.2 + 0.42 * k, 5.0), 13.0)
    figure = new_figure(side + 1, side)
    axes = figure.subplots()
    total, right = int(matrix.sum()), int(np.trace(matrix))
    percent = f" ({100 * right / total:.1f} %)" if total else ""
    lines = [*([printable(title)] if title else []), f"{right} of {total} images correct{percent}"]
    axes.set_title("\n".join(lines), parse_math=False)
    image = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02, ticks=[0, 1, 5, 10, 25, 50, 75, 100])
    bar.set_label("share of the true class's images (%)")
    bar.outline.set_visible(False)

    every = math.ceil(k / _MOST_NAMES)
    shown = range(0, k, every)
    names = [_shorten(classes[index]) for index in shown]
    size = min(10.0, max(0.75 * 72 * (side - 2) / len(names), 4.0))
    upright = max(map(len, names)) * 0.7 * size > 72 * (side - 2) / len(names)
    axes.set_xticks(shown, names, fontsize=size, rotation=90 if upright else 0, parse_math=False)
    axes.set_yticks(shown, names, fontsize=size, parse_math=False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.tick_params(length=0 if k <= _MOST_NUMBERS else 2)
    axes.spines[:].set_color("0.8")
    if k <= _MOST_NUMBERS:
        for row, column in np.argwhere(matrix):
            count = str(matrix[row, column])
            dark = share[row, column] > 30
            fit = min(10.0, 72 * (side - 2) / k / (0.75 * len(count)))
            axes.text(column, row, count, ha="center", va="center", fontsize=fit, color="white" if dark else "black")
    save_figure(figure, path)
