"""Plots of training curves, and the steps at which the losses of several runs diverge."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import InputError
from common.files import check_writable
from common.plotting import PALETTE, new_figure, printable, save_figure
from common.training.metrics import History, read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

__all__ = ["LEVELS", "Divergence", "compare", "describe", "divergences", "divergences_table", "draw"]

LEVELS = (1e-6, 1e-3)
"""Relative differences of two losses above which runs count as diverged."""

_ZERO_ON_LOG_AXIS = 1e-17
"""Stands for zero on a logarithmic axis: smaller than any relative difference of two float64 numbers."""

_NAMING = ("network", "backend", "dtype", "seed", "optimizer", "learning_rate")
"""Settings that label a run among others that differ in them."""

_INCIDENTAL = frozenset(
    {
        *("format", "version", "backend", "dtype", "device", "epochs", "data_dir", "keep", "checkpoint_every"),
        *("command", "created", "environment", "host", "machine", "rosetta", "started", "versions"),
    }
)
"""Settings that do not change the experiment: runs that differ only in these should take the same steps."""


@dataclass(frozen=True)
class Divergence:
    """The first steps at which the losses of two runs differ, over their `common` number of steps.

    `first`: for each level, the first step whose relative difference |a - b| / max(|a|, |b|) exceeds it, or None;
    `largest`: the largest relative difference, NaN without a common step; `differences`: settings that make the runs
    different experiments.
    """

    runs: tuple[str, str]
    common: int
    first: Mapping[float, int | None]
    largest: float
    differences: tuple[str, ...]


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with flat keys, as in `schedule.warmup`; `optimizer.name` becomes `optimizer`."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update({key if name == "name" else f"{key}.{name}": item for name, item in _flat(value).items()})
        else:
            flat[key] = value
    if flat.get("schedule.base") == flat.get("learning_rate"):
        flat.pop("schedule.base", None)
    if flat.get("schedule") != "cosine":
        flat.pop("schedule.total", None)  # only the cosine schedule depends on the total
    return flat


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def describe(config: Mapping[str, Any]) -> str:
    """Return a short description of a run: network in backend, dtype, seed."""
    words = f"{config.get('network', 'a network')} in {config.get('backend', 'an unknown backend')}"
    more = [str(config["dtype"])] if "dtype" in config else []
    return ", ".join([words, *more, *([f"seed {config['seed']}"] if "seed" in config else [])])


def _differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys in which the configurations differ, those of `_NAMING` first."""
    keys = dict.fromkeys(itertools.chain(_NAMING, *configs))
    return [key for key in keys if any(config.get(key) != configs[0].get(key) for config in configs)]


def _changes_experiment(key: str) -> bool:
    """Return whether two runs that differ in this key of their flat configuration are different experiments."""
    return key.partition(".")[0] not in _INCIDENTAL


def _labels(histories: Sequence[History]) -> list[str]:
    """Return a short label for each run: the settings in which it differs from the others, or its folder."""
    configs = [_flat(history.config) for history in histories]
    parts: list[list[str]] = [[] for _ in histories]
    for key in _differing(configs):
        distinct = len({tuple(part) for part in parts}) == len(parts)
        texts = [_value(config.get(key, "not given")) for config in configs]
        if key in _NAMING or (not distinct and _changes_experiment(key) and max(map(len, texts)) <= 20):
            for part, text in zip(parts, texts, strict=True):
                part.append(text if key in ("network", "backend", "dtype", "optimizer") else f"{key} {text}")
    if len({tuple(part) for part in parts}) < len(parts):
        names = [history.run.resolve().name for history in histories]
        if len(set(names)) < len(names):
            names = [str(history.run) for history in histories]
        for part, name in zip(parts, names, strict=True):
            part.append(f"in {name}")
    return [printable(", ".join(part)) for part in parts]


def _differences(first: History, second: History) -> tuple[str, ...]:
    """Return the settings that make two runs different experiments, as in "batch_size 32 and 64"."""
    configs = [_flat(first.config), _flat(second.config)]
    found = []
    for key in _differing(configs):
        if not _changes_experiment(key):
            continue
        texts = [_value(config.get(key, "not given")) for config in configs]
        short = max(map(len, texts)) <= 40 and texts[0] != texts[1]
        found.append(f"{key} {texts[0]} and {texts[1]}" if short else f"other {key}")
    return tuple(found)


def _relative_differences(first: History, second: History) -> tuple[np.ndarray, np.ndarray]:
    """Return the common steps of two runs and the relative differences of their losses.

    The difference is infinite where only one loss is finite, and NaN where neither is.
    """
    steps, here, there = np.intersect1d(first.steps.step, second.steps.step, return_indices=True)
    a, b = first.steps.loss[here], second.steps.loss[there]
    scale = np.maximum(np.abs(a), np.abs(b))
    difference = np.divide(np.abs(a - b), scale, out=np.zeros_like(scale), where=scale != 0)
    return steps, np.where(np.isnan(a) != np.isnan(b), math.inf, difference)


def _divergence(first: History, second: History, labels: tuple[str, str]) -> Divergence:
    steps, difference = _relative_differences(first, second)
    first_steps: dict[float, int | None] = {}
    for level in LEVELS:
        beyond = steps[difference > level]
        first_steps[level] = int(beyond[0]) if beyond.size else None
    comparable = difference[~np.isnan(difference)]
    largest = float(comparable.max()) if comparable.size else math.nan
    return Divergence(labels, int(steps.size), first_steps, largest, _differences(first, second))


def divergences(histories: Sequence[History]) -> list[Divergence]:
    """Return the divergence of each pair of runs: first and second, first and third, and so on."""
    named = list(zip(histories, _labels(histories), strict=True))
    return [_divergence(a, b, (name_a, name_b)) for (a, name_a), (b, name_b) in itertools.combinations(named, 2)]


def divergences_table(pairs: Iterable[Divergence]) -> Table:
    """Return a table with a row per pair of runs: the steps at which they diverge, the largest difference, remarks."""
    from rich.table import Table
    from rich.text import Text

    levels = [f"> {level:.0e} at step" for level in LEVELS]
    table = Table("runs", "common steps", *levels, "largest", "", pad_edge=False, box=None)
    for column in table.columns[1:-1]:
        column.justify = "right"
    for pair in pairs:
        never = "never" if pair.common else "\N{EN DASH}"
        firsts = [never if (step := pair.first[level]) is None else str(step) for level in LEVELS]
        largest = "\N{EN DASH}" if math.isnan(pair.largest) else f"{pair.largest:.1e}"
        remark = f"not the same experiment: {', '.join(pair.differences)}" if pair.differences else ""
        runs = Text(" and ".join(f"({run})" if "," in run else run for run in pair.runs))
        table.add_row(runs, str(pair.common), *firsts, largest, Text(remark, style="yellow"))
    table.caption = "Relative difference of the losses of each step, |a - b| / max(|a|, |b|)"
    table.caption_justify = "left"
    return table


def _panel(axes: Axes, ylabel: str) -> None:
    axes.set_ylabel(ylabel)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.02)


def _step_axis(axes: Axes, histories: Sequence[History]) -> None:
    """Label the axis of steps, with ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    sizes = {history.config.get("batch_size") for history in histories}
    size = sizes.pop() if len(sizes) == 1 else None
    axes.set_xlabel("step" if size is None else f"step (batch of {size})")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    last = max(int(history.steps.step[-1]) for history in histories)
    axes.set_xlim(0, 1.02 * last if last > 1 else 2)


def _window(count: int) -> int:
    """Return the number of steps over which to smooth a curve of `count` steps."""
    return min(max(count // 40, 5), 200) if count >= 30 else 1


def _smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Return the moving average over `window` values, ignoring values that are not finite; those become NaN."""
    if window == 1:
        return values
    finite, ones = np.isfinite(values), np.ones(window)
    with np.errstate(over="ignore"):
        total = np.convolve(np.where(finite, values, 0), ones, "same")
    return np.where(finite, total / np.maximum(np.convolve(finite, ones, "same"), 1), np.nan)


def _marker(values: np.ndarray, most: int = 1) -> str:
    """Return the marker of a curve: circles for at most `most` points, since a single point makes no line."""
    return "o" if 1 <= np.isfinite(values).sum() <= most else ""


def _note_not_finite(axes: Axes, history: History) -> None:
    """Mark the first step whose loss is not finite."""
    bad = np.isnan(history.steps.loss)
    if bad.any():
        first = int(np.argmax(bad))
        lasting = " on" if bad[first:].all() else ""
        axes.axvline(history.steps.step[first], color="0.4", linewidth=1, linestyle=":")
        text = f"the loss is not finite {'from' if lasting else 'at'} step {history.steps.step[first]}{lasting}"
        axes.set_title(text, fontsize="small", color="0.3", loc="right")


def _draw_steps(axes: Axes, history: History, values: np.ndarray, name: str) -> None:
    """Draw a curve over steps: raw in a light color, and smoothed."""
    step, window = history.steps.step, _window(history.steps.step.size)
    if window > 1:
        axes.plot(step, values, color=PALETTE[0], alpha=0.25, linewidth=0.7, label=f"{name}, each step")
        name = f"{name}, mean of {window} steps"
    smooth = _smooth(values, window)
    axes.plot(step, smooth, color=PALETTE[0], linewidth=1.6, marker=_marker(smooth), label=name)


def _draw_validation(axes: Axes, history: History, values: np.ndarray) -> None:
    if np.isfinite(values).any():
        few = _marker(values, 30)
        axes.plot(
            history.epochs.step, values, color=PALETTE[1], linewidth=1.6, marker=few, markersize=4, label="validation"
        )


def draw(run: Path, path: Path | None = None) -> None:
    """Plot the training and validation loss and accuracy of a run as PNG, to `path` or RUN/curves.png.

    Raises InputError for a folder that is not a run or has no steps yet, and where the picture cannot be written.
    """
    history = read(run)
    steps, epochs = history.steps, history.epochs
    if not steps.step.size:
        raise InputError(f"{run} has no steps yet; wait for the first")
    figure = new_figure(10, 4.2)
    loss, accuracy = figure.subplots(1, 2, sharex=True)
    figure.suptitle(printable(describe(history.config)), parse_math=False)

    _panel(loss, "loss (cross-entropy, nats)")
    _draw_steps(loss, history, steps.loss, "training")
    _draw_validation(loss, history, epochs.validation_loss)
    shown = np.concatenate([steps.loss, epochs.validation_loss])
    shown = shown[np.isfinite(shown)]
    if not shown.size:
        loss.set_yticks([])
    elif shown.max() > 10 * max(shown[0], 0.1):
        loss.set_yscale("log", nonpositive="mask")  # a diverging loss would press the rest of the curve onto the axis
    else:
        loss.set_ylim(0, 1.05 * shown.max() or 1)
    _note_not_finite(loss, history)

    _panel(accuracy, "accuracy (%)")
    _draw_steps(accuracy, history, 100 * steps.accuracy, "training")
    _draw_validation(accuracy, history, 100 * epochs.validation_accuracy)
    accuracy.set_ylim(-2, 102)
    named: dict[str, Any] = {}
    for axes in (loss, accuracy):
        _step_axis(axes, [history])
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    # Below both panels, where it hides no curve.
    figure.legend(
        named.values(), named.keys(), loc="outside lower center", ncols=len(named), frameon=False, fontsize="small"
    )
    save_figure(figure, run / "curves.png" if path is None else path)


def _styles(count: int) -> list[dict[str, Any]]:
    """Return the color and line style of each run; later ones have longer gaps, which show the lines below them."""
    period = 14.0  # of the dashes, in line widths
    styles: list[dict[str, Any]] = []
    for index in range(count):
        gap = period * min(0.3, 0.6 / max(count - 1, 1)) * index
        style = (0, (period - gap, gap)) if gap else "-"
        styles.append({"color": PALETTE[index % len(PALETTE)], "linestyle": style, "dash_capstyle": "butt"})
    return styles


def _draw_differences(axes: Axes, histories: Sequence[History], styles: Sequence[dict[str, Any]]) -> None:
    """Plot the relative difference of each run's loss from the first run's, per step, with zero at the bottom."""
    for index, history in enumerate(histories[1:]):
        # The first run has no line here, so each run takes the dashes of the one before it, in its own color.
        style = {**styles[index], "color": styles[index + 1]["color"]}
        steps, difference = _relative_differences(histories[0], history)
        shown = np.clip(difference, _ZERO_ON_LOG_AXIS, 2)
        axes.plot(steps, shown, **style, linewidth=1.2, marker=_marker(shown), markersize=4)
    axes.set_yscale("log")
    axes.set_ylim(_ZERO_ON_LOG_AXIS / 3, 5)
    powers = range(-15, 1, 3)
    axes.set_yticks([_ZERO_ON_LOG_AXIS, *(10.0**power for power in powers)])
    axes.set_yticklabels(["0", *(f"$10^{{{power}}}$" for power in powers)])
    axes.minorticks_off()
    for level in LEVELS:
        axes.axhline(level, color="0.5", linewidth=0.8, linestyle="--", zorder=1)


def compare(runs: Sequence[Path], path: Path) -> list[Divergence]:
    """Plot the curves of several runs together as PNG, and return the divergence of each pair.

    Three panels over the steps: loss; training accuracy (lines) and validation accuracy (points); relative difference
    of the loss from the first run's. Raises InputError for fewer than two runs, a folder that is not a run, a run given
    twice, and where the picture cannot be written.
    """
    if len(runs) < 2:
        raise InputError(f"{len(runs)} run{'s' * (len(runs) != 1)} given; give at least two to compare")
    if len({run.resolve() for run in runs}) < len(runs):
        raise InputError(f"a run is given twice among {', '.join(map(str, runs))}; give each once")
    check_writable(path)
    histories = [read(run) for run in runs]
    for history in histories:
        if not history.steps.step.size:
            raise InputError(f"{history.run} has no steps yet; wait for the first")
    labels, styles = _labels(histories), _styles(len(runs))
    figure = new_figure(9, 10)
    loss, accuracy, difference = figure.subplots(3, 1, sharex=True)
    flat = [_flat(history.config) for history in histories]
    differing = _differing(flat)
    shared = [
        f"seed {flat[0][key]}" if key == "seed" else _value(flat[0][key])
        for key in _NAMING[:4]
        if key in flat[0] and key not in differing
    ]
    _panel(loss, "training loss (cross-entropy, nats)")
    _panel(accuracy, "accuracy (%)")
    _panel(difference, "relative difference of the loss")
    smoothed = max(_window(history.steps.step.size) for history in histories)
    for index, (history, label, style) in enumerate(zip(histories, labels, styles, strict=True)):
        step, window = history.steps.step, _window(history.steps.step.size)
        curve, right = _smooth(history.steps.loss, window), _smooth(100 * history.steps.accuracy, window)
        if window > 1:
            loss.plot(step, history.steps.loss, color=style["color"], linewidth=0.5, alpha=0.3, zorder=1)
        loss.plot(step, curve, **style, linewidth=2, marker=_marker(curve), label=label)
        accuracy.plot(step, right, **style, linewidth=2, marker=_marker(right))
        size = 5 + 6 * (1 - index / (len(runs) - 1))  # later points are smaller, so coinciding ones stay visible
        points = {"color": style["color"], "linestyle": "", "marker": "o", "markersize": size, "zorder": 3}
        accuracy.plot(history.epochs.step, 100 * history.epochs.validation_accuracy, **points)
    loss.set_yscale("log", nonpositive="mask")
    accuracy.set_ylim(-2, 102)
    _draw_differences(difference, histories, styles)

    small = {"fontsize": "small", "color": "0.3", "loc": "left"}
    mean = f", smoothed over {smoothed} steps" if smoothed > 1 else ""
    loss.set_title(f"loss of each step{mean}", **small)
    accuracy.set_title(f"training{mean} (lines) and validation (points)", **small)
    difference.set_title(f"from {labels[0]}, at each step: |a - b| / max(|a|, |b|)", **small, parse_math=False)
    _step_axis(difference, histories)
    legend = figure.legend(
        loc="outside upper center",
        ncols=min(len(runs), 4),
        title=printable(", ".join(shared)) or None,
        title_fontsize="large",
        frameon=False,
        fontsize="small",
        handlelength=5,
    )
    for text in (legend.get_title(), *legend.get_texts()):
        text.set_parse_math(False)
    save_figure(figure, path)
    return divergences(histories)
