"""Plot of the Pareto front: latency against memory, installation and cold start."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from common.deploy.bench.plots import look
from common.deploy.bench.results import Measurement
from common.deploy.recommend.criteria import AXES, LATENCY, Quantity
from common.plotting import new_figure, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

_OTHERS = tuple(axis for axis in AXES if axis is not LATENCY)
_SIDES = (
    ((6, 0), "left", "center"),
    ((-6, 0), "right", "center"),
    ((0, 6), "center", "bottom"),
    ((0, -6), "center", "top"),
    ((5, 7), "left", "bottom"),
    ((5, -7), "left", "top"),
    ((-5, 7), "right", "bottom"),
    ((-5, -7), "right", "top"),
)
"""Positions of a label: offset from its point in points, and alignment; the preferred one first."""
_FAINT = "0.5"
_MARK = 12
"""Width and height of a marker in pixels, approximately."""


def draw(title: str, ranked: Sequence[Measurement], front: Collection[str], dropped: Sequence[Measurement]) -> Figure:
    """Plot latency against memory, installation and cold start on logarithmic axes.

    Filled markers meet the constraints, hollow ones (`dropped`) do not. The labels of the paths in `front` are dark.
    """
    figure = new_figure(5.6 * len(_OTHERS), 6.4)
    figure.suptitle(printable(title), parse_math=False, fontsize="medium")
    panels = figure.subplots(1, len(_OTHERS), sharey=True)
    for axes, quantity in zip(panels, _OTHERS, strict=True):
        _panel(axes, quantity, ranked, dropped)
    panels[0].set_ylabel(f"{LATENCY.name}, median ({LATENCY.unit})")
    _legend(figure, bool(dropped))
    figure.draw_without_rendering()  # computes the positions of the points
    for axes, quantity in zip(panels, _OTHERS, strict=True):
        _label(axes, quantity, [*ranked, *dropped], front)
    return figure


def _point(quantity: Quantity, measurement: Measurement) -> tuple[float, float] | None:
    x, y = quantity.of(measurement), LATENCY.of(measurement)
    return None if x is None or y is None or x <= 0 else (x, y)


def _panel(axes: Axes, quantity: Quantity, ranked: Sequence[Measurement], dropped: Sequence[Measurement]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    for measurements, full in ((dropped, False), (ranked, True)):
        for each in measurements:
            if (point := _point(quantity, each)) is not None:
                color, marker = look(each.path)
                face = color if full else "white"
                axes.plot(
                    *point, marker=marker, markersize=6, color=color, markerfacecolor=face, linestyle="", zorder=3
                )
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(LogLocator(subs=()))
    axes.set_xlabel(f"{quantity.name} ({quantity.unit})")
    axes.margins(0.16)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _label(axes: Axes, quantity: Quantity, measurements: Sequence[Measurement], front: Collection[str]) -> None:
    """Label each marker with its path, at the position that covers the fewest other labels and markers."""
    from matplotlib.transforms import Bbox

    points = {each.path: point for each in measurements if (point := _point(quantity, each)) is not None}
    places = {path: axes.transData.transform(point) for path, point in points.items()}
    marks = {path: Bbox.from_bounds(x - _MARK / 2, y - _MARK / 2, _MARK, _MARK) for path, (x, y) in places.items()}
    taken: list[Any] = []
    for path in sorted(points, key=lambda path: path not in front):
        style: dict[str, Any] = {"fontsize": 7, "color": "black" if path in front else _FAINT, "zorder": 4}
        tried: list[tuple[int, int, Any, Any]] = []
        for offset, across, up in _SIDES:
            text = axes.annotate(
                path, points[path], offset, textcoords="offset points", ha=across, va=up, parse_math=False, **style
            )
            box = text.get_window_extent()
            covered = sum(box.overlaps(other) for other in taken)
            covered += sum(box.overlaps(mark) for other, mark in marks.items() if other != path)
            outside = not (axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1)
            tried.append((covered + outside, len(tried), text, box))
            if not covered and not outside:
                break
        _, _, kept, box = min(tried, key=lambda each: each[:2])
        taken.append(box)
        for _, _, text, _ in tried:
            if text is not kept:
                text.remove()


def _legend(figure: Figure, hollow: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], linestyle="", label="dark name: on the Pareto front")]
    if hollow:
        look: dict[str, Any] = {"color": "0.3", "marker": "o", "markerfacecolor": "white", "markersize": 6}
        handles.append(Line2D([], [], linestyle="", label="breaks a constraint", **look))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize="small")
