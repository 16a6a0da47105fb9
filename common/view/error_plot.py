"""Error against depth: how far each framework is from the truth at each tap of a network, as a picture."""

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
"""One of the `results` of a parity report's JSON."""

_ROUNDING = {"float64": 2.0**-53, "float32": 2.0**-24}
_MOST_LABELS = 30
"""For how many upright words a panel has room."""
_UNKNOWN = "not comparable"


def _name(error: Mapping[str, Any]) -> str:
    return f"derivative {error['tap']}" if error["input"] == "derivative" else str(error["tap"])


def _worst(result: Result) -> dict[str, Mapping[str, Any]]:
    """Return what was found at each tap in network order: of several inputs, the one farthest from the truth."""
    found: dict[str, Mapping[str, Any]] = {}
    for error in result["errors"]:
        before = found.get(_name(error))
        worse = before is not None and before["error"] is not None
        if before is None or (worse and (error["error"] is None or error["error"] > before["error"])):
            found[_name(error)] = error
    return found


def labels(taps: Sequence[str], most: int, gap: float) -> list[tuple[int, str]]:
    """Return the places to label, `gap` apart: every tap, or where each block or stage begins, if `most` are fewer."""
    found = list(enumerate(taps))
    for depth in range(max(tap.count(".") for tap in taps) + 1, 0, -1):
        if len(found) <= most:
            break
        heads = [".".join(tap.split(".")[:depth]) for tap in taps]
        # A stage's own tap comes behind those of its blocks, and begins nothing.
        begins = [i for i in range(1, len(taps)) if not f"{heads[i - 1]}.".startswith(f"{heads[i]}.")]
        found = [(i, heads[i]) for i in (0, *begins)]
    kept = found[:1]
    for place, head in found[1:]:
        if place - kept[-1][0] >= gap:
            kept.append((place, head))
    return kept


def _sections(taps: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return the taps in pieces that a line may join: what is of one kind."""
    kinds = itertools.groupby(taps, lambda tap: {"derivative", "gradient"} & {taps[tap]["input"]})
    return [list(section) for _, section in kinds]


def _panel(axes: Axes, results: Sequence[Result]) -> None:
    """Draw one network, check and dtype: a line for each backend over the taps, budget and tolerance."""
    found = {result["backend"]: _worst(result) for result in results}
    taps: dict[str, Mapping[str, Any]] = {}
    for errors in found.values():
        for tap, error in errors.items():
            taps.setdefault(tap, error)
    place = {tap: i for i, tap in enumerate(taps)}
    gray: dict[str, Any] = {"color": "0.35", "linewidth": 1.1, "zorder": 1, "where": "mid"}
    for section in _sections(taps):
        # Half a place wider on both sides, so that a limit of one tap alone is seen too.
        x = [place[section[0]] - 0.5, *(place[tap] for tap in section), place[section[-1]] + 0.5]
        for limit, style in (("tolerance", "-"), ("budget", "--")):
            y = [max(errors[tap][limit] for errors in found.values() if tap in errors) for tap in section]
            axes.step(x, [y[0], *y, y[-1]], label=limit, linestyle=style, **gray)
    # Zero lies below any error that two numbers of the dtype can have, and has a tick of its own there.
    zero, none = _ROUNDING[results[0]["dtype"]] / 100, False
    for backend, errors in found.items():
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
            none |= any(errors[tap]["error"] == 0 for tap in known)
            heights = [errors[tap]["error"] or zero for tap in known]
            axes.plot([place[tap] for tap in known], heights, label=backend, zorder=3, **look)
            for tap in section:
                if errors[tap]["error"] is None:
                    axes.axvline(place[tap], color=color, linewidth=1.2, linestyle=":", label=_UNKNOWN, zorder=2)
    axes.set_yscale("log")
    if none:
        ticks = [tick for tick in axes.get_yticks() if tick > 5 * zero]
        axes.set_yticks([zero, *ticks], ["0", *(f"$10^{{{round(math.log10(tick))}}}$" for tick in ticks)])
        axes.set_ylim(bottom=zero / 2)
    axes.minorticks_off()
    places, names = zip(*labels(list(taps), _MOST_LABELS, len(taps) / _MOST_LABELS), strict=True)
    axes.set_xticks(places, map(printable, names), rotation=90, fontsize=7, parse_math=False)
    axes.set_xlim(-0.5, len(taps) - 0.5)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def draw_errors(results: Sequence[Result]) -> Figure:
    """Return a picture of error against depth, from `results` of a parity report's JSON.

    A row of panels is a network and check, a column a dtype; a line is a backend, a point the worst input's error at a
    tap, relative to the tap's largest value in the reference. Raises InputError where no result has an error to draw.
    """
    drawn = [result for result in results if result["errors"]]
    if not drawn:
        raise InputError("there is nothing to draw: no backend gave anything that can be compared")
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
