"""Rank execution paths: drop those that break a constraint, and order the rest by an objective.

The result depends only on the measurements and on `facts.json`, and contains every path.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from common.deploy.bench.results import Measurement
from common.deploy.execution_paths import PATHS
from common.deploy.recommend import facts
from common.deploy.recommend.criteria import AXES, LIMITS, OBJECTIVES, Objective, Quantity

__all__ = [
    "Constraints",
    "Dropped",
    "Ranked",
    "Recommendation",
    "Relaxation",
    "dominates",
    "front",
    "recommend",
]


@dataclass(frozen=True)
class Constraints:
    """The limits of a deployment, None for no limit. `error`: relative to the reference's largest logit."""

    latency_ms: float | None = None
    memory_mb: float | None = None
    install_mb: float | None = None
    runtime: facts.Runtime = "any"
    error: float | None = None

    def given(self) -> dict[str, float]:
        """Return the numeric limits that are set, by field."""
        limits = {name: getattr(self, name) for name in LIMITS}
        return {name: limit for name, limit in limits.items() if limit is not None}


@dataclass(frozen=True)
class Ranked:
    """A path that meets all constraints. Paths of one rank are tied: their intervals overlap that of the first one."""

    rank: int
    tied: bool
    on_front: bool
    measurement: Measurement


@dataclass(frozen=True)
class Dropped:
    """A path that is not ranked, and why. `measurement`: None if it was not measured, or its output is wrong."""

    path: str
    reasons: tuple[str, ...]
    measurement: Measurement | None = None


@dataclass(frozen=True)
class Relaxation:
    """New values of options that together let a path meet the constraints."""

    changes: Mapping[str, float | str]
    path: str


@dataclass(frozen=True)
class Recommendation:
    """The ranked and the dropped paths; the first of `ranked` is recommended.

    `unmeasured`: paths meet the constraints, but the objective was not measured for any of them. If no path meets the
    constraints, `nearest` is the one with the smallest largest excess, and `relaxations` are the smallest changes that
    let a path meet them.
    """

    ranked: tuple[Ranked, ...]
    dropped: tuple[Dropped, ...]
    unmeasured: bool = False
    nearest: Measurement | None = None
    relaxations: tuple[Relaxation, ...] = ()


def dominates(one: Measurement, other: Measurement) -> bool:
    """Return whether one path is at least as good as another on all axes, and better on one.

    A missing value counts as infinitely bad.
    """
    pairs = [(_or_worst(axis.of(one)), _or_worst(axis.of(other))) for axis in AXES]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _or_worst(value: float | None) -> float:
    return math.inf if value is None else value


def front(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Return the Pareto front: the measurements that no other dominates, in their order."""
    return [each for each in measurements if not any(dominates(other, each) for other in measurements)]


def recommend(
    measurements: Iterable[Measurement], constraints: Constraints, objective: Objective, device: str = "cpu"
) -> Recommendation:
    """Rank the paths that meet the constraints, and give the reasons for dropping each of the others.

    The measurements are of inference, for one network, device, batch and number of threads. If a path has two, the
    last one counts.
    """
    latest = {measurement.path: measurement for measurement in measurements}
    meeting: list[Measurement] = []
    dropped: list[Dropped] = []
    for name in dict.fromkeys((*PATHS, *latest)):
        measurement = latest.get(name)
        if measurement is None:
            dropped.append(Dropped(name, (_why_absent(name, device),)))
        elif reason := _why_unusable(measurement):
            dropped.append(Dropped(name, (reason,)))
        elif reasons := _violations(measurement, constraints):
            dropped.append(Dropped(name, tuple(reasons.values()), measurement))
        else:
            meeting.append(measurement)
    if not meeting:
        usable = [each.measurement for each in dropped if each.measurement is not None]
        return _nothing_meets(usable, dropped, constraints, OBJECTIVES[objective])
    return _ranked(meeting, dropped, OBJECTIVES[objective])


def _why_absent(name: str, device: str) -> str:
    if device not in PATHS[name].devices:
        return f"it runs only on {' and '.join(PATHS[name].devices)}"
    return "not measured"


def _why_unusable(measurement: Measurement) -> str:
    """Return why a measurement cannot be ranked under any constraints, "" if it can."""
    if measurement.path not in PATHS:
        return "this version has no such path"
    if measurement.status == "wrong" and measurement.error is not None and measurement.tolerance is not None:
        return (
            f"wrong: off by {measurement.error:.1e} of the largest logit; its tolerance is {measurement.tolerance:.1e}"
        )
    if measurement.status != "measured":
        return f"{measurement.status}: {measurement.message}" if measurement.message else measurement.status
    return "" if measurement.latency_ms is not None else "its latency was not measured"


def _violations(measurement: Measurement, constraints: Constraints) -> dict[str, str]:
    """Return how a path breaks each constraint, by option."""
    reasons = {}
    served, why = facts.place(PATHS[measurement.path], constraints.runtime)
    if not served:
        reasons["--runtime"] = f"--runtime {constraints.runtime}: {why}"
    for name, limit in constraints.given().items():
        option, quantity = LIMITS[name].option, LIMITS[name].quantity
        value = quantity.of(measurement)
        if value is None:
            reasons[option] = f"{option} {limit:g}: its {quantity.name} was not measured"
        elif value > limit:
            reasons[option] = f"{option} {limit:g}: its {quantity.name} is {quantity.phrase(value)}"
    return reasons


def _ranked(meeting: Sequence[Measurement], dropped: Sequence[Dropped], quantity: Quantity) -> Recommendation:
    """Rank by a quantity; drop measurements without a value of it."""
    values = {each.path: value for each in meeting if (value := quantity.of(each)) is not None}
    without_value = [
        Dropped(each.path, (f"its {quantity.name} was not measured",), each)
        for each in meeting
        if each.path not in values
    ]
    known = [each for each in meeting if each.path in values]
    known.sort(key=lambda each: values[each.path], reverse=quantity.more_is_better)
    groups: list[list[Measurement]] = []
    for each in known:
        if groups and _tied(quantity, groups[-1][0], each):
            groups[-1].append(each)
        else:
            groups.append([each])
    best = {each.path for each in front(known)}
    ranked: list[Ranked] = []
    for group in groups:
        rank = len(ranked) + 1
        ranked += [Ranked(rank, len(group) > 1, each.path in best, each) for each in group]
    return Recommendation(tuple(ranked), (*dropped, *without_value), unmeasured=not ranked)


def _tied(quantity: Quantity, one: Measurement, other: Measurement) -> bool:
    """Return whether the confidence intervals of two paths overlap, or, without intervals, their values are equal."""
    first, second = quantity.interval(one), quantity.interval(other)
    if first is None or second is None:
        return quantity.of(one) == quantity.of(other)
    return first.low <= second.high and second.low <= first.high


def _nothing_meets(
    usable: Sequence[Measurement], dropped: Sequence[Dropped], constraints: Constraints, quantity: Quantity
) -> Recommendation:
    """Return the nearest path, and the smallest change of each option that alone lets a path meet the constraints."""
    broken = {each.path: list(_violations(each, constraints)) for each in usable}

    def excess(each: Measurement) -> tuple[bool, float]:
        pairs = ((LIMITS[name].quantity.of(each), limit) for name, limit in constraints.given().items())
        most = max((_or_worst(value) / limit for value, limit in pairs), default=0.0)
        return "--runtime" in broken[each.path], most

    def worse(each: Measurement) -> float:
        value = quantity.of(each)
        return math.inf if value is None else -value if quantity.more_is_better else value

    nearest = min(usable, key=lambda each: (*excess(each), worse(each)), default=None)
    relaxations = []
    for option in dict.fromkeys(option for options in broken.values() for option in options):
        alone = [each for each in usable if broken[each.path] == [option] and _relaxed(each, [option]) is not None]
        if alone:
            least = min(alone, key=lambda each: (excess(each)[1], worse(each)))
            relaxations.append(_relaxed(least, [option]))
    if not relaxations and nearest is not None:
        relaxations.append(_relaxed(nearest, broken[nearest.path]))
    return Recommendation((), tuple(dropped), False, nearest, tuple(each for each in relaxations if each is not None))


def _relaxed(measurement: Measurement, options: Sequence[str]) -> Relaxation | None:
    """Return the values of these options that a path meets, None if one of its values was not measured."""
    changes: dict[str, float | str] = {}
    quantities = {limit.option: limit.quantity for limit in LIMITS.values()}
    for option in options:
        if option == "--runtime":
            changes[option] = "python"
        elif (value := quantities[option].of(measurement)) is not None:
            changes[option] = _rounded_up(value)
        else:
            return None
    return Relaxation(changes, measurement.path)


def _rounded_up(value: float) -> float:
    """Return a value rounded up to three significant digits."""
    exact = Decimal(repr(value))
    return float(exact.quantize(Decimal(1).scaleb(exact.adjusted() - 2), ROUND_CEILING))
