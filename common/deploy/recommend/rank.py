"""Which execution path to take: what breaks a constraint drops out, the rest are ranked, and none is hidden.

All here are functions of measurements and of `facts.json` alone.
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
    """What a deployment must keep to; None where it need not. `error`: relative to the reference's largest logit."""

    latency_ms: float | None = None
    memory_mb: float | None = None
    install_mb: float | None = None
    runtime: facts.Runtime = "any"
    error: float | None = None

    def given(self) -> dict[str, float]:
        """Return the limits that are given, by field."""
        limits = {name: getattr(self, name) for name in LIMITS}
        return {name: limit for name, limit in limits.items() if limit is not None}


@dataclass(frozen=True)
class Ranked:
    """A path that meets all constraints. Paths of one rank are tied: their confidence intervals overlap the first's."""

    rank: int
    tied: bool
    on_front: bool
    measurement: Measurement


@dataclass(frozen=True)
class Dropped:
    """A path that does not come into question, and why; `measurement` where it was measured and is right."""

    path: str
    reasons: tuple[str, ...]
    measurement: Measurement | None = None


@dataclass(frozen=True)
class Relaxation:
    """The least that one gives in for a path to come through: what to give each option instead, all of it together."""

    changes: Mapping[str, float | str]
    path: str


@dataclass(frozen=True)
class Recommendation:
    """What comes of measurements under constraints: the first of `ranked` is to be taken.

    `unmeasured`: the objective was not measured of any path that meets the constraints, so nothing is ranked by it.
    `nearest`: where nothing meets them, the path that breaks none by more than the others do, and `relaxations` what
    to give in on.
    """

    ranked: tuple[Ranked, ...]
    dropped: tuple[Dropped, ...]
    unmeasured: bool = False
    nearest: Measurement | None = None
    relaxations: tuple[Relaxation, ...] = ()


def dominates(one: Measurement, other: Measurement) -> bool:
    """Return whether one path is nowhere worse than another on the axes and somewhere better.

    What was not measured counts as worse than anything that was.
    """
    pairs = [(_or_worst(axis.of(one)), _or_worst(axis.of(other))) for axis in AXES]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _or_worst(value: float | None) -> float:
    return math.inf if value is None else value


def front(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Return those that no other dominates, in their order."""
    return [each for each in measurements if not any(dominates(other, each) for other in measurements)]


def recommend(
    measurements: Iterable[Measurement], constraints: Constraints, objective: Objective, device: str = "cpu"
) -> Recommendation:
    """Rank the paths that keep to the constraints, and say of every other why it does not come into question.

    The measurements are of inference, of one network, device, batch and number of threads; of two of one path the last
    counts.
    """
    found = {measurement.path: measurement for measurement in measurements}
    meeting: list[Measurement] = []
    dropped: list[Dropped] = []
    for name in dict.fromkeys((*(path.name for path in PATHS.values() if path.infers), *found)):
        measurement = found.get(name)
        if measurement is None:
            dropped.append(Dropped(name, (_absent(name, device),)))
        elif reason := _unfit(measurement):
            dropped.append(Dropped(name, (reason,)))
        elif reasons := _broken(measurement, constraints):
            dropped.append(Dropped(name, tuple(reasons.values()), measurement))
        else:
            meeting.append(measurement)
    if not meeting:
        usable = [each.measurement for each in dropped if each.measurement is not None]
        return _nothing_meets(usable, dropped, constraints, OBJECTIVES[objective])
    return _ranked(meeting, dropped, OBJECTIVES[objective])


def _absent(name: str, device: str) -> str:
    if device not in PATHS[name].devices:
        return f"it runs on {' and '.join(PATHS[name].devices)} alone"
    return "not measured"


def _unfit(measurement: Measurement) -> str:
    """Return why a path comes into question under no constraints, or nothing."""
    if measurement.path not in PATHS:
        return "this version knows no such path"
    if measurement.status == "wrong" and measurement.error is not None and measurement.tolerance is not None:
        return (
            f"wrong: off by {measurement.error:.1e} of the largest logit; its tolerance is {measurement.tolerance:.1e}"
        )
    if measurement.status != "measured":
        return f"{measurement.status}: {measurement.message}" if measurement.message else measurement.status
    return "" if measurement.latency_ms is not None else "no time was measured"


def _broken(measurement: Measurement, constraints: Constraints) -> dict[str, str]:
    """Return how a path breaks constraints, by option."""
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
    """Rank by a quantity; what it was not measured of drops out."""
    values = {each.path: value for each in meeting if (value := quantity.of(each)) is not None}
    unknown = [
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
    return Recommendation(tuple(ranked), (*dropped, *unknown), unmeasured=not ranked)


def _tied(quantity: Quantity, one: Measurement, other: Measurement) -> bool:
    """Return whether two paths cannot be told apart: their confidence intervals overlap, or they are equal."""
    first, second = quantity.interval(one), quantity.interval(other)
    if first is None or second is None:
        return quantity.of(one) == quantity.of(other)
    return first.low <= second.high and second.low <= first.high


def _nothing_meets(
    usable: Sequence[Measurement], dropped: Sequence[Dropped], constraints: Constraints, quantity: Quantity
) -> Recommendation:
    """Say which path comes nearest, and for each constraint that is in the way alone, what to give instead."""
    broken = {each.path: list(_broken(each, constraints)) for each in usable}

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
    """Return what to give these options for a path to come through, None where it was not measured."""
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
    """Return the least number of three digits that is not below a value."""
    exact = Decimal(repr(value))
    return float(exact.quantize(Decimal(1).scaleb(exact.adjusted() - 2), ROUND_CEILING))
