"""Plot of error against depth: the error of each framework at each tap of a network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from common.errors import InputError
from common.plotting import LOOKS, new_figure, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_errors", "labels"]

Result = Mapping[str, Any]
"""An entry of `results` in the JSON of a parity report."""

_ROUNDING = {"float64": 2.0**-53, "float32": 2.0**-24}
_MAX_LABELS = 30
"""Maximum number of vertical labels in a panel."""
_UNKNOWN = "not comparable"


def _name(error: Mapping[str, Any]) -> str:
    return f"derivative {error['tap']}" if error["input"] == "derivative" else str(error["tap"])


def _worst(result: Result) -> dict[str, Mapping[str, Any]]:
    """Return the largest error over all inputs at each tap, in network order. None counts as the largest."""

    def size(error: Mapping[str, Any]) -> float:
        return math.inf if error["error"] is None else error["error"]

    worst: dict[str, Mapping[str, Any]] = {}
    for error in result["errors"]:
        worst[_name(error)] = max(worst.get(_name(error), error), error, key=size)
    return worst


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


def _sections(taps: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Split the taps into runs of one kind (tap, gradient or derivative). Lines join only taps of one run."""
    kinds = itertools.groupby(taps, lambda tap: {"derivative", "gradient"} & {taps[tap]["input"]})
    return [list(section) for _, section in kinds]


def _panel(axes: Axes, results: Sequence[Result]) -> None:
    """Draw one network, check and dtype: a line per backend over the taps, with budget and tolerance."""
    worst = {result["backend"]: _worst(result) for result in results}
    taps: dict[str, Mapping[str, Any]] = {}
    for errors in worst.values():
        for tap, error in errors.items():
            taps.setdefault(tap, error)
    index = {tap: i for i, tap in enumerate(taps)}
    gray: dict[str, Any] = {"color": "0.35", "linewidth": 1.1, "zorder": 1, "where": "mid"}
    for section in _sections(taps):
        # Half a tap wider on both sides, so that the limit of a single tap is visible.
        x = [index[section[0]] - 0.5, *(index[tap] for tap in section), index[section[-1]] + 0.5]
        for limit, style in (("tolerance", "-"), ("budget", "--")):
            y = [max(errors[tap][limit] for errors in worst.values() if tap in errors) for tap in section]
            axes.step(x, [y[0], *y, y[-1]], label=limit, linestyle=style, **gray)
    # Zero is drawn below the smallest possible error of the dtype, with its own tick.
    zero, has_zero = _ROUNDING[results[0]["dtype"]] / 100, False
    for backend, errors in worst.items():
        color, marker = LOOKS[backend]
        look: dict[str, Any] = {
            "color": color,
            "marker": marker,
            "linewidth": 0.8,
            "markersize": 3.5,
            "markeredgewidth": 0,
        }
        for section in _sections(errors):
            known = [tap for tap in section if errors[tap]["error"] is not None]
            has_zero |= any(errors[tap]["error"] == 0 for tap in known)
            heights = [errors[tap]["error"] or zero for tap in known]
            axes.plot([index[tap] for tap in known], heights, label=backend, zorder=3, **look)
            for tap in section:
                if errors[tap]["error"] is None:
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


def draw_errors(results: Sequence[Result]) -> Figure:
    """Plot error against depth, from `results` in the JSON of a parity report.

    There is a row of panels per network and check, a column per dtype, and a line per backend. A point is the largest
    error over all inputs at a tap, relative to the tap's largest value in the reference. Raises InputError if no result
    has errors.
    """
    drawn = [result for result in results if result["errors"]]
    if not drawn:
        raise InputError("nothing to draw: no backend returned results to compare; see the report for the reasons")
    rows = list(dict.fromkeys((each["check"], each["network"], each["variant"]) for each in drawn))
    dtypes = list(dict.fromkeys(each["dtype"] for each in drawn))
    figure = new_figure(6.2 * len(dtypes), 0.6 + 3.4 * len(rows))
    panels = figure.subplots(len(rows), len(dtypes), squeeze=False)
    for line, (check, network, variant) in zip(panels, rows, strict=True):
        for axes, dtype in zip(line, dtypes, strict=True):
            here = [
                each
                for each in drawn
                if (each["check"], each["network"], each["variant"], each["dtype"]) == (check, network, variant, dtype)
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
