"""Plots of benchmark results: latency and throughput, roofline, and time per image by batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common import catalog, reference
from common.deploy.bench.machine import least_bytes
from common.deploy.bench.results import Measurement, Run
from common.deploy.bench.tables import group_title
from common.deploy.execution_paths import PATHS
from common.errors import InputError
from common.plotting import LOOKS, PALETTE, new_figure, save_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_batches", "draw_latency", "draw_roofline", "look", "save_plots"]

_RUNTIMES = {"onnxruntime": PALETTE[4], "openvino": PALETTE[5], "litert": "#7F6A5B"}
"""Colors of runtimes that are not a framework; other paths have their framework's color."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_WIDTH, _HEIGHT, _LEGEND = 5.6, 4.3, 1.9
"""Width and height of a panel, and width of the legend, in inches."""
_GRAY = "0.55"
_LABEL_DISTANCE = 0.035
"""Minimum distance of two labels on an axis, as a share of its length."""


def _runtime(path: str) -> str:
    return path.partition("-")[0] if path.partition("-")[0] in _RUNTIMES else PATHS[path].backend


def look(path: str) -> tuple[str, str]:
    """Return a path's color, that of its framework or runtime, and its marker: the same in every plot."""
    runtime = _runtime(path)
    siblings = [name for name in PATHS if _runtime(name) == runtime]
    return _RUNTIMES.get(runtime) or LOOKS[runtime][0], _MARKERS[siblings.index(path) % len(_MARKERS)]


def _measured(run: Run) -> list[Measurement]:
    return [one for one in run.measurements if one.status == "measured"]


def _panels(measurements: Sequence[Measurement]) -> list[list[Measurement]]:
    """Group measurements by panel: all paths and batches of a network, mode and number of threads."""
    panels: dict[str, list[Measurement]] = {}
    for one in measurements:
        panels.setdefault(group_title(one, batch=False), []).append(one)
    return list(panels.values())


def _lines(panel: Sequence[Measurement]) -> Iterator[tuple[str, list[Measurement]]]:
    """Iterate over the paths of a panel in the order of `PATHS`, each with its measurements sorted by batch."""
    for path in PATHS:
        line = sorted((one for one in panel if one.path == path), key=lambda one: one.batch)
        if line:
            yield path, line


def _figure(panels: Sequence[Sequence[Measurement]]) -> tuple[Figure, list[Axes]]:
    columns = min(len(panels), 2)
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(_WIDTH * columns + _LEGEND, _HEIGHT * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[len(panels) :]:
        unused.set_visible(False)
    for one, panel in zip(axes, panels, strict=False):
        one.set_title(group_title(panel[0], batch=False), fontsize="medium", loc="left", parse_math=False)
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color="0.93", linewidth=0.6)
        one.set_axisbelow(True)
    return figure, axes[: len(panels)]


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    named: dict[str, Any] = {}
    for one in axes:
        handles, names = one.get_legend_handles_labels()
        named |= dict(zip(names, handles, strict=True))
    order = [name for name in PATHS if name in named]
    figure.legend([named[name] for name in order], order, loc="outside right center", frameon=False, fontsize="small")


def _style(path: str) -> dict[str, Any]:
    color, marker = look(path)
    return {
        "color": color,
        "marker": marker,
        "linewidth": 0.9,
        "markersize": 5,
        "markeredgecolor": "white",
        "markeredgewidth": 0.5,
        "label": path,
    }


def _plain_numbers(axes: Axes, which: str) -> None:
    """Label a logarithmic axis with numbers such as 20 and 0.5, not with powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis = getattr(axes, f"{which}axis")
    low, high = sorted(getattr(axes, f"get_{which}lim")())
    subs = (1, 2, 5) if high / low < 1e3 else (1,)
    axis.set_major_locator(LogLocator(10, subs=subs, numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def _values(line: Sequence[Measurement], field: str) -> tuple[list[float], list[list[float]]]:
    """Return the values of an interval field, and the distances to its lower and upper bounds."""
    intervals = [getattr(one, field) for one in line]
    below = [interval.value - interval.low for interval in intervals]
    above = [interval.high - interval.value for interval in intervals]
    return [interval.value for interval in intervals], [below, above]


def _limits(panel: Sequence[Measurement], field: str) -> tuple[float, float]:
    """Return the limits of a logarithmic axis for the values of a field, with a margin."""
    values, _ = _values(panel, field)
    return min(values) / 1.6, max(values) * 1.6


def draw_latency(run: Run) -> Figure:
    """Plot throughput over latency: one line per path, one point per batch; up and left is better.

    Throughput is batch / latency, so all points of a batch lie on one falling line, which is drawn too.
    """
    panels = _panels(_measured(run))
    figure, every = _figure(panels)
    for axes, panel in zip(every, panels, strict=True):
        axes.set_xscale("log")
        axes.set_yscale("log")
        for path, line in _lines(panel):
            x, _ = _values(line, "latency_ms")
            y, _ = _values(line, "images_per_second")
            axes.plot(x, y, zorder=3, **_style(path))
        axes.set_xlim(*_limits(panel, "latency_ms"))
        axes.set_ylim(*_limits(panel, "images_per_second"))
        _batch_lines(axes, sorted({one.batch for one in panel}))
        _plain_numbers(axes, "x")
        _plain_numbers(axes, "y")
        axes.set_xlabel("latency / ms")
        axes.set_ylabel("throughput / images per second")
    _legend(figure, every)
    return figure


def _batch_lines(axes: Axes, batches: Sequence[int]) -> None:
    """Draw the line on which the points of each batch lie, with a label at its upper left end."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    highest = top * (bottom / top) ** _LABEL_DISTANCE
    for batch in batches:
        axes.plot(
            [left, right],
            [1e3 * batch / left, 1e3 * batch / right],
            color=_GRAY,
            linewidth=0.7,
            linestyle=":",
            zorder=1,
        )
        y = min(highest, 1e3 * batch / left)
        if 1e3 * batch / y < right:
            # The line falls, so there is space to its right.
            axes.annotate(
                f"batch {batch}",
                (1e3 * batch / y, y),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize="x-small",
                color="0.35",
            )


def draw_batches(run: Run) -> Figure:
    """Plot time per image over batch: one line per path, with 95% confidence intervals."""
    panels = _panels(_measured(run))
    figure, every = _figure(panels)
    for axes, panel in zip(every, panels, strict=True):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        for path, line in _lines(panel):
            batches = [one.batch for one in line]
            milliseconds, errors = (np.divide(each, batches) for each in _values(line, "latency_ms"))
            axes.errorbar(batches, milliseconds, errors, elinewidth=0.8, capsize=2, zorder=3, **_style(path))
        batches_shown = sorted({one.batch for one in panel})
        axes.set_xticks(batches_shown, list(map(str, batches_shown)))
        axes.minorticks_off()
        axes.set_xlim(batches_shown[0] / 1.5, batches_shown[-1] * 1.5)
        _plain_numbers(axes, "y")
        axes.set_xlabel("batch / images")
        time = "step time" if panel[0].mode == "training" else "latency"
        axes.set_ylabel(f"{time} per image / ms")
    _legend(figure, every)
    return figure


def _work(one: Measurement) -> tuple[float, float]:
    """Return the operations of a batch, and its arithmetic intensity in operations per byte."""
    network = catalog.get(one.network, **one.config)
    description = reference.describe(network)
    operations = 2.0 * description.multiply_accumulates * one.batch
    parameters = description.parameters + description.statistics
    moved = least_bytes(parameters, math.prod(network.input_shape), description.activations, one.batch)
    return operations, operations / moved


def draw_roofline(run: Run) -> Figure | None:
    """Plot each path's performance under the machine's roofline; None if no measurement has one.

    The roof is the lower of NumPy's matrix product rate and the memory bandwidth times the intensity. A
    multiply-accumulate counts as two operations. Bytes are those of float32 weights, images and activations, each
    moved once. Paths with fewer operations (Winograd convolution) or smaller numbers (int8) can lie above the roof.
    Training and GPUs are left out: a step's operations are not counted, and a GPU's peaks are not measured.
    """
    rates = run.machine["matmul_gflops"]
    known = (one for one in _measured(run) if one.mode == "inference" and one.device == "cpu")
    panels = _panels([one for one in known if str(one.threads) in rates])
    if not panels:
        return None
    figure, every = _figure(panels)
    for axes, panel in zip(every, panels, strict=True):
        threads = str(panel[0].threads)
        peak, bandwidth = rates[threads], run.machine["memory_gb_per_s"][threads]
        axes.set_xscale("log")
        axes.set_yscale("log")
        places: dict[int, float] = {}
        lowest = peak
        for path, line in _lines(panel):
            work = [_work(one) for one in line]
            places |= {one.batch: intensity for one, (_, intensity) in zip(line, work, strict=True)}
            latencies, _ = _values(line, "latency_ms")
            y = [operations / latency / 1e6 for (operations, _), latency in zip(work, latencies, strict=True)]
            lowest = min(lowest, *y)
            axes.plot([intensity for _, intensity in work], y, zorder=3, **_style(path) | {"linewidth": 0.5})
        _roof(axes, peak, bandwidth, places, lowest)
    _legend(figure, every)
    return figure


def _roof(axes: Axes, peak: float, bandwidth: float, places: dict[int, float], lowest: float) -> None:
    """Draw both roofs and the batches' intensities, and set the axes' limits to show all of it."""
    ridge = peak / bandwidth
    left, right = min(ridge, *places.values()) / 2, max(ridge, *places.values()) * 2
    axes.plot([left, ridge, right], [left * bandwidth, peak, peak], color="0.25", linewidth=1.4, zorder=2)
    axes.set_xlim(left, right)
    # With space for the roof's label at the top and the batches' at the bottom.
    axes.set_ylim(min(lowest, left * bandwidth) / 8, peak * 5)
    axes.text(
        0.01,
        0.985,
        f"roof: {peak:.0f} GFLOP/s in matrix products, {bandwidth:.1f} GB/s from memory",
        transform=axes.transAxes,
        va="top",
        fontsize="x-small",
        color="0.25",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )
    for place, batches in _merged(places, math.log(right / left)):
        axes.axvline(place, color=_GRAY, linewidth=0.7, linestyle=":", zorder=1)
        axes.annotate(
            f"batch {', '.join(map(str, batches))}",
            (place, 0),
            xycoords=("data", "axes fraction"),
            xytext=(-2, 3),
            textcoords="offset points",
            rotation=90,
            ha="right",
            va="bottom",
            fontsize="x-small",
            color="0.35",
        )
    _plain_numbers(axes, "x")
    _plain_numbers(axes, "y")
    axes.set_xlabel("operations per byte")
    axes.set_ylabel("GFLOP/s")


def _merged(places: dict[int, float], length: float) -> Iterator[tuple[float, list[int]]]:
    """Iterate over the label positions and their batches; batches too close for two labels share one."""
    together: list[int] = []
    for batch in sorted(places, key=places.__getitem__):
        if together and math.log(places[batch] / places[together[0]]) > _LABEL_DISTANCE * length:
            yield places[together[0]], sorted(together)
            together = []
        together.append(batch)
    yield places[together[0]], sorted(together)


def save_plots(run: Run, folder: Path, suffix: str = ".svg") -> list[Path]:
    """Save all plots in a folder, which is created if needed. Return their files: none if nothing was measured.

    Raises InputError if they cannot be written.
    """
    if not _measured(run):
        return []
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {folder}: {error.strerror}") from None
    pictures = {"latency": draw_latency(run), "batch": draw_batches(run), "roofline": draw_roofline(run)}
    written = []
    for name, figure in pictures.items():
        if figure is not None:
            written.append(folder / f"{name}{suffix}")
            save_plot(figure, written[-1])
    return written
