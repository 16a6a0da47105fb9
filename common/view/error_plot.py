"""Plot of error against depth: the error of each framework at each tap of a network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from common.errors import InputError
from common.parity.comparison import TapError
from common.parity.results import Cell
from common.plotting import LOOKS, new_figure, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["all_taps", "draw_errors", "labels", "runs", "worst_errors"]

_ROUNDING = {"float64": 2.0**-53, "float32": 2.0**-24}
_MAX_LABELS = 30
"""Maximum number of vertical labels in a panel."""
_UNKNOWN = "not comparable"


def worst_errors(errors: Sequence[TapError]) -> dict[str, TapError]:
    """Return the largest error over all inputs at each tap, in network order. Derivatives are separate entries."""
    worst: dict[str, TapError] = {}
    for error in errors:
        name = f"derivative {error.tap}" if error.input == "derivative" else error.tap
        worst[name] = max(worst.get(name, error), error, key=lambda each: each.error)
    return worst


def all_taps(errors: Iterable[Mapping[str, TapError]]) -> dict[str, TapError]:
    """Return the taps of several backends, each with the error of the first backend that has it."""
    taps: dict[str, TapError] = {}
    for own in errors:
        taps |= {tap: error for tap, error in own.items() if tap not in taps}
    return taps


def runs(errors: Mapping[str, TapError]) -> list[tuple[str, list[str]]]:
    """Split taps into consecutive runs of one kind: (tap, gradient or derivative, names). Lines join only one run."""

    def kind(name: str) -> str:
        return errors[name].input if errors[name].input in ("derivative", "gradient") else "tap"

    return [(found, list(names)) for found, names in itertools.groupby(errors, kind)]


def labels(taps: Sequence[str], limit: int, gap: float) -> list[tuple[int, str]]:
    """Return the (index, name) of the labels of an axis of taps, at least `gap` taps apart.

    Labels every tap, or, if there are more than `limit`, the first tap of each block or stage.
    """
    labeled = list(enumerate(taps))
    for depth in range(max(tap.count(".") for tap in taps) + 1, 0, -1):
        if len(labeled) <= limit:
            break
        heads = [".".join(tap.split(".")[:depth]) for tap in taps]
        # A stage's own tap follows those of its blocks, so it does not start a stage.
        starts = [i for i in range(1, len(taps)) if not f"{heads[i - 1]}.".startswith(f"{heads[i]}.")]
        labeled = [(i, heads[i]) for i in (0, *starts)]
    kept = labeled[:1]
    for index, head in labeled[1:]:
        if index - kept[-1][0] >= gap:
            kept.append((index, head))
    return kept


def _panel(axes: Axes, cells: Sequence[Cell]) -> None:
    """Draw one network, check and dtype: a line per backend over the taps, with budget and tolerance."""
    worst = {cell.backend: worst_errors(cell.errors) for cell in cells}
    taps = all_taps(worst.values())
    index = {tap: i for i, tap in enumerate(taps)}
    gray: dict[str, Any] = {"color": "0.35", "linewidth": 1.1, "zorder": 1, "where": "mid"}
    for _, run in runs(taps):
        # Half a tap wider on both sides, so that the limit of a single tap is visible.
        x = [index[run[0]] - 0.5, *(index[tap] for tap in run), index[run[-1]] + 0.5]
        for limit, style in (("tolerance", "-"), ("budget", "--")):
            y = [max(getattr(errors[tap].limit, limit) for errors in worst.values() if tap in errors) for tap in run]
            axes.step(x, [y[0], *y, y[-1]], label=limit, linestyle=style, **gray)
    # Zero is drawn below the smallest possible error of the dtype, with its own tick.
    zero, has_zero = _ROUNDING[cells[0].dtype] / 100, False
    for backend, errors in worst.items():
        color, marker = LOOKS[backend]
        look: dict[str, Any] = {
            "color": color,
            "marker": marker,
            "linewidth": 0.8,
            "markersize": 3.5,
            "markeredgewidth": 0,
        }
        for _, run in runs(errors):
            known = [tap for tap in run if math.isfinite(errors[tap].error)]
            has_zero |= any(errors[tap].error == 0 for tap in known)
            heights = [errors[tap].error or zero for tap in known]
            axes.plot([index[tap] for tap in known], heights, label=backend, zorder=3, **look)
            for tap in run:
                if tap not in known:
                    axes.axvline(index[tap], color=color, linewidth=1.2, linestyle=":", label=_UNKNOWN, zorder=2)
    axes.set_yscale("log")
    if has_zero:
        ticks = [tick for tick in axes.get_yticks() if tick > 5 * zero]
        axes.set_yticks([zero, *ticks], ["0", *(f"$10^{{{round(math.log10(tick))}}}$" for tick in ticks)])
        axes.set_ylim(bottom=zero / 2)
    axes.minorticks_off()
    places, names = zip(*labels(list(taps), _MAX_LABELS, len(taps) / _MAX_LABELS), strict=True)
    axes.set_xticks(places, map(printable, names), rotation=90, fontsize=7, parse_math=False)
    axes.set_xlim(-0.5, len(taps) - 0.5)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def draw_errors(cells: Sequence[Cell]) -> Figure:
    """Plot error against depth, from the cells of a parity report.

    There is a row of panels per network and check, a column per dtype, and a line per backend. A point is the largest
    error over all inputs at a tap, relative to the tap's largest value in the reference. Raises InputError if no cell
    has errors.
    """
    drawn = [cell for cell in cells if cell.errors]
    if not drawn:
        raise InputError("nothing to draw: no backend returned results to compare; see the report for the reasons")
    rows = list(dict.fromkeys((cell.check, cell.network, cell.variant) for cell in drawn))
    dtypes = list(dict.fromkeys(cell.dtype for cell in drawn))
    figure = new_figure(6.2 * len(dtypes), 0.6 + 3.4 * len(rows))
    panels = figure.subplots(len(rows), len(dtypes), squeeze=False)
    for line, (check, network, variant) in zip(panels, rows, strict=True):
        for axes, dtype in zip(line, dtypes, strict=True):
            here = [
                cell
                for cell in drawn
                if (cell.check, cell.network, cell.variant, cell.dtype) == (check, network, variant, dtype)
            ]
            if not here:
                axes.set_visible(False)
                continue
            _panel(axes, here)
            words = " ".join(filter(None, (network, check, variant, dtype)))
            axes.set_title(printable(words), fontsize="medium", loc="left", parse_math=False)
        line[0].set_ylabel("error / largest value")
    named: dict[str, Any] = {}
    for axes in panels.flat:
        handles, names = axes.get_legend_handles_labels()
        named |= dict(zip(names, handles, strict=True))
    order = [*(name for name in LOOKS if name in named), "budget", "tolerance", *({_UNKNOWN} & set(named))]
    figure.legend(
        [named[name] for name in order],
        order,
        loc="outside upper center",
        ncols=len(order),
        frameon=False,
        fontsize="small",
    )
    return figure
