"""Print a recommendation as text and tables, and write it as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.backends import registry
from common.catalog import Network
from common.deploy.bench.history import LatestResults
from common.deploy.bench.results import Measurement
from common.deploy.execution_paths import PATHS, ExecutionPath
from common.deploy.export.formats import FORMATS
from common.deploy.recommend import facts
from common.deploy.recommend.criteria import (
    COLD,
    DISK,
    ENERGY,
    ERROR,
    LATENCY,
    LIMITS,
    MEMORY,
    OBJECTIVES,
    P95,
    THROUGHPUT,
    Objective,
    Quantity,
)
from common.deploy.recommend.rank import Constraints, Dropped, Ranked, Recommendation
from common.terminal import print_fitted

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Advice", "print_advice", "to_record"]

_COLUMNS = (LATENCY, P95, THROUGHPUT, MEMORY, DISK, COLD)
_WHERE = {"c": "in C or C++", "mobile": "on a phone", "browser": "in a browser"}


@dataclass(frozen=True)
class Advice:
    """A recommendation with the request and the measurements that it answers."""

    network: Network
    latest: LatestResults
    constraints: Constraints
    objective: Objective
    result: Recommendation

    @property
    def commands(self) -> list[str]:
        """The shell commands that export and run the recommended path; none without one."""
        if not self.result.ranked:
            return []
        path, setting = PATHS[self.result.ranked[0].measurement.path], self.latest.setting
        return commands(self.network.name, path, setting.device, setting.batch, setting.threads)

    @property
    def caveats(self) -> list[str]:
        """Limits of the results that the reader should know."""
        caveats = []
        if self.constraints.runtime in _WHERE:
            where = _WHERE[self.constraints.runtime]
            caveats.append(
                f"All results were measured in Python on this machine. Speed, memory, size and cold start {where} can "
                "differ: measure them there."
            )
        if self.result.unmeasured:
            quantity = OBJECTIVES[self.objective]
            caveats.append(
                f"The {quantity.name} was not measured for any path, so nothing can be ranked by it"
                + (": this machine does not report energy." if quantity is ENERGY else ".")
            )
        return caveats


def print_advice(advice: Advice, screen: Console) -> None:
    """Print the ranking, runtime metadata, dropped paths with their reasons, and the commands of the first path."""
    result, setting = advice.result, advice.latest.setting
    processor = advice.latest.machine.get("processor", "an unknown processor")
    screen.print(f"{advice.network.name}: {setting}; measured on {processor}, {advice.latest.when}", soft_wrap=True)
    if result.ranked:
        screen.print(f"{len(result.ranked)} of {len(PATHS)} paths meet the constraints, best {advice.objective} first:")
        screen.print()
        print_fitted(screen, _ranking_table(result.ranked, OBJECTIVES[advice.objective]), keys=2)
        if any(each.tied for each in result.ranked):
            screen.print("=: tied, because their confidence intervals overlap or their values are equal")
        screen.print("error: largest difference from the float64 reference's logits, relative to the largest of them")
        screen.print()
        print_fitted(screen, _facts_table([each.measurement for each in result.ranked], advice.constraints.runtime))
        screen.print("Sources and dates: common/deploy/recommend/facts.json")
    elif not result.unmeasured:
        _print_nearest(advice, screen)
    for caveat in advice.caveats:
        screen.print()
        screen.print(caveat, soft_wrap=True)
    if result.dropped:
        screen.print()
        screen.print("Dropped:")
        print_fitted(screen, _dropped_table(result.dropped))
    if advice.commands:
        screen.print()
        screen.print(f"To run {result.ranked[0].measurement.path} on w.safetensors and x.npy:")
        for line in advice.commands:
            screen.print(f"  {line}", soft_wrap=True)


def _ranking_table(ranked: Sequence[Ranked], objective: Quantity) -> Any:
    from rich.table import Table

    columns = [*_COLUMNS, *({objective} - set(_COLUMNS)), ERROR]
    table = Table("rank", "path", box=None, pad_edge=False)
    for quantity in columns:
        table.add_column(quantity.heading, justify="right")
    table.add_column("Pareto front")
    table.add_column("runtime")
    for each in ranked:
        runtime = facts.of(PATHS[each.measurement.path])
        table.add_row(
            f"{each.rank}{'=' if each.tied else ''}",
            each.measurement.path,
            *(_figure(quantity, each.measurement) for quantity in columns),
            "yes" if each.on_front else "",
            f"{runtime.name}, retired" if runtime.retired else runtime.name,
        )
    return table


def _figure(quantity: Quantity, measurement: Measurement) -> str:
    value, interval = quantity.of(measurement), quantity.interval(measurement)
    if value is None or interval is None:
        return quantity.text(value)
    return f"{quantity.text(value)} [{quantity.text(interval.low)}, {quantity.text(interval.high)}]"


def _facts_table(measurements: Sequence[Measurement], runtime: facts.Runtime) -> Any:
    """Return a table with the metadata of each ranked runtime."""
    from rich.table import Table

    table = Table("runtime", "state", "platforms", "license", box=None, pad_edge=False)
    if runtime in _WHERE:
        table.add_column(_WHERE[runtime])
    paths: dict[str, ExecutionPath] = {}
    for each in measurements:
        paths.setdefault(PATHS[each.path].needs[0], PATHS[each.path])
    for path in paths.values():
        known = facts.of(path)
        elsewhere = [facts.place(path, runtime)[1]] if runtime in _WHERE else []
        table.add_row(known.name, known.status.says, known.platforms.says, known.license.says, *elsewhere)
    return table


def _print_nearest(advice: Advice, screen: Console) -> None:
    """Print that no path meets the constraints, the nearest path, and which options to relax."""
    nearest = advice.result.nearest
    screen.print("No path meets the constraints.")
    if nearest is None:
        screen.print("No path was measured with a correct output.")
        return
    near = [
        f"{quantity.name} {quantity.phrase(quantity.of(nearest))} of {limit:g}"
        for name, limit in advice.constraints.given().items()
        for quantity in (LIMITS[name].quantity,)
    ]
    details = f", with {', '.join(near)}" if near else f" ({PATHS[nearest.path].about})"
    screen.print(f"Nearest: {nearest.path}{details}.", soft_wrap=True)
    for relaxation in advice.result.relaxations:
        options = " ".join(f"{option} {_given(value)}" for option, value in relaxation.changes.items())
        screen.print(f"With {options}, {relaxation.path} meets them.", soft_wrap=True)


def _given(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _dropped_table(dropped: Sequence[Dropped]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    for each in dropped:
        table.add_row(each.path, "; ".join(each.reasons))
    return table


def to_record(advice: Advice) -> dict[str, Any]:
    """Return the recommendation as JSON values."""
    result = advice.result
    used = {PATHS[each.measurement.path].needs[0] for each in result.ranked}
    return {
        "schema": 1,
        "network": advice.network.name,
        "config": advice.network.settings(),
        **dataclasses.asdict(advice.latest.setting),
        "machine": dict(advice.latest.machine),
        "when": advice.latest.when,
        "constraints": dataclasses.asdict(advice.constraints),
        "objective": advice.objective,
        "ranked": [dataclasses.asdict(each) for each in result.ranked],
        "dropped": [{"path": each.path, "reasons": list(each.reasons)} for each in result.dropped],
        "nearest": result.nearest and result.nearest.path,
        "relaxations": [{"path": each.path, "changes": dict(each.changes)} for each in result.relaxations],
        "caveats": advice.caveats,
        "facts": {name: dataclasses.asdict(known) for name, known in facts.table().items() if name in used},
        "commands": advice.commands,
    }


def commands(network: str, path: ExecutionPath, device: str, batch: int, threads: int) -> list[str]:
    """Return the shell commands that export and serve an artifact, or that run the port's code.

    They read weights from w.safetensors and images (N, C, H, W) from x.npy, and write logits to y.npy.
    """
    if path.format is None:
        return _port_commands(path, device, threads)
    return _artifact_commands(network, path, batch, threads)


def _artifact_commands(network: str, path: ExecutionPath, batch: int, threads: int) -> list[str]:
    artifact = FORMATS[path.format or ""]
    file = f"{network}-{path.name}{artifact.suffix}"
    dtype = "" if path.dtype == "float32" else f" --dtype {path.dtype}"
    server = "" if path.server == artifact.servers[0] else f" --server {path.server}"
    return [
        f"rosetta export {network} --weights w.safetensors --to {artifact.name}{dtype} --batch {batch} -o {file}",
        f"pip install {' '.join(path.needs)}",
        f"python common/deploy/serving {file}.manifest.json x.npy y.npy{server} --threads {threads}",
    ]


def _port_commands(path: ExecutionPath, device: str, threads: int) -> list[str]:
    package = registry.get(path.backend).adapters
    steps = (
        "import numpy",
        "from common import weights",
        f"from {package} import deploy",
        f"deploy.set_threads({threads})",
        "file = weights.read('w.safetensors')",
        f"session = deploy.session(file.network, file.tensors, '{path.name}', '{device}')",
        "images = session.prepare(numpy.load('x.npy').astype('float32'))",
        "numpy.save('y.npy', session.logits(session.run(images)))",
    )
    return [f"tox run --notest -e {path.environment}", f'.tox/{path.environment}/bin/python -c "{"; ".join(steps)}"']
