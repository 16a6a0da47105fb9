"""Compare rosetta's execution paths with plain ports and with model zoos, each in its own environment.

    python benchmarks/peers.py --networks resnet18 --batch 1 --rounds 3 -o peers.json
    python benchmarks/peers.py --read peers.json others.json --markdown

Measurements are those of `rosetta bench`: rounds of new processes in random order, with the same threads, images,
warm-up and clock for all. A plain port has the same weights as ours, and its logits are checked against the reference.
A network of a zoo has its own weights. If its architecture differs, its time is divided by its work: the ratio of its
multiply-accumulates to ours. Quote the ratios rather than the times.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from rich import box
from rich.console import Console
from rich.table import Table

from common import catalog, json_records, reference
from common.backends import launch
from common.catalog import Network
from common.deploy.bench import benchmark
from common.deploy.bench.results import Interval, Measurement, Run
from common.deploy.bench.tables import group_title, interruption, number_text
from common.deploy.execution_paths import PATHS, ExecutionPath
from common.errors import BackendError, InputError, RosettaError, unknown
from common.terminal import print_fitted

NETWORKS: Mapping[str, Network] = {
    "resnet18": catalog.get("resnet18", in_channels=3, input_size=(224, 224), num_classes=1000),
    **{name: catalog.get(name) for name in ("vgg11", "googlenet", "densenet", "regnetx32")},
}
OURS = {name: path for name, path in PATHS.items() if path.backend != "numpy" and path.dtype == "float32"}

_FREE_BIASES = "no biases before normalization, which the shortcuts have too"
_BOTTLENECKS = "1x1 bottlenecks in the dense layers"


@dataclass(frozen=True)
class Peer:
    """A peer's execution path, and for each network how its architecture differs; "" if it does not."""

    path: ExecutionPath
    networks: Mapping[str, str]


def _plain(name: str, backend: str, needs: tuple[str, ...], about: str, trains: bool = True) -> Peer:
    module = f"benchmarks.plain.in_{backend}"
    path = ExecutionPath(name, backend, backend, needs, about, trains=trains, devices=("cpu",), module=module)
    return Peer(path, dict.fromkeys(NETWORKS, ""))


def _zoo(name: str, backend: str, needs: tuple[str, ...], about: str, networks: Mapping[str, str]) -> Peer:
    environment = name if name in ("torchvision", "timm") else backend
    path = ExecutionPath(
        name,
        backend,
        environment,
        needs,
        about,
        trains=True,
        devices=("cpu",),
        module=f"benchmarks.zoo.of_{name}",
        proven=False,
    )
    return Peer(path, networks)


PEERS: Mapping[str, Sequence[Peer]] = {
    "plain": [
        _plain("plain-torch", "torch", ("torch",), "eager"),
        _plain("plain-jax", "jax", ("jax", "flax"), "nnx.jit"),
        _plain("plain-tf-eager", "tf", ("tensorflow-cpu",), "eager"),
        _plain("plain-tf", "tf", ("tensorflow-cpu",), "tf.function"),
        _plain("plain-tf-xla", "tf", ("tensorflow-cpu",), "tf.function through XLA"),
        _plain("plain-litert", "tf", ("tensorflow-cpu",), "TensorFlow Lite", trains=False),
        _plain("plain-mxnet-imperative", "mxnet", ("mxnet",), "imperative"),
        _plain("plain-mxnet", "mxnet", ("mxnet",), "hybridized"),
    ],
    "torchvision": [
        _zoo(
            "torchvision",
            "torch",
            ("torch", "torchvision"),
            "torchvision.models, eager",
            {
                "resnet18": _FREE_BIASES,
                "vgg11": "",
                "googlenet": "normalized convolutions, 3x3 in place of 5x5",
                "densenet": _BOTTLENECKS,
                "regnetx32": "no biases before normalization",
            },
        )
    ],
    "timm": [
        _zoo(
            "timm",
            "torch",
            ("torch", "timm"),
            "timm, eager",
            {
                "resnet18": _FREE_BIASES,
                "vgg11": "its dense layers written as convolutions",
                "densenet": _BOTTLENECKS,
                "regnetx32": "RegNetX-200MF",
            },
        )
    ],
    "keras": [
        _zoo(
            "keras",
            "tf",
            ("tensorflow-cpu",),
            "keras.applications, tf.function",
            {"resnet18": "bottleneck blocks", "vgg11": "VGG-16", "densenet": _BOTTLENECKS},
        )
    ],
    "gluon": [
        _zoo(
            "gluon",
            "mxnet",
            ("mxnet",),
            "Gluon's model zoo, hybridized",
            {"resnet18": _FREE_BIASES, "vgg11": "", "densenet": _BOTTLENECKS},
        )
    ],
}
BY_PATH = {peer.path.name: peer for peers in PEERS.values() for peer in peers}
PLAIN_OF = {
    "tf-eager": "plain-tf-eager",
    "tf-xla": "plain-tf-xla",
    "litert": "plain-litert",
    "mxnet-imperative": "plain-mxnet-imperative",
}
"""The plain port that a path is compared with, if not the framework's default compiled one."""

_MAX_SLOWDOWN = 1.05
"""Largest allowed ratio of a path's time to the plain port's."""

Work = Mapping[str, Mapping[str, float]]
"""Ratio of a zoo's multiply-accumulates to ours, by zoo and network."""


# Comparing


@dataclass(frozen=True)
class Comparison:
    """Fastest path of ours, of the plain ports and of the zoos, in one framework, network, mode and batch size.

    Times are medians in ms with 95% confidence intervals; a zoo's time is divided by its work. `slower` is the ratio of
    each path's time to the plain port's.
    """

    network: str
    mode: str
    batch: int
    backend: str
    ours: tuple[str, Interval] | None
    plain: tuple[str, Interval] | None
    zoo: tuple[str, Interval] | None
    slower: Mapping[str, Interval]

    def lead(self, over: tuple[str, Interval] | None) -> Interval | None:
        """Return the speedup of our fastest path over `over`."""
        return over[1].over(self.ours[1]) if over and self.ours else None


def milliseconds(one: Measurement, work: Work) -> Interval | None:
    """Return a measurement's time divided by its relative work, or None if there is no time."""
    if one.latency_ms is None:
        return None
    factor = work.get(one.path, {}).get(one.network, 1.0)
    return Interval(one.latency_ms.value / factor, one.latency_ms.low / factor, one.latency_ms.high / factor)


def _best(times: Mapping[str, Interval]) -> tuple[str, Interval] | None:
    return min(times.items(), key=lambda item: item[1].value) if times else None


def compare(measurements: Sequence[Measurement], work: Work) -> list[Comparison]:
    """Return the comparison of each framework's paths, in the order of the measurements."""
    groups: dict[tuple[str, str, int, str], dict[str, Interval]] = {}
    for one in measurements:
        path = PATHS.get(one.path) or BY_PATH[one.path].path
        times = groups.setdefault((one.network, one.mode, one.batch, path.backend), {})
        time = milliseconds(one, work)
        if time is not None:
            times[one.path] = time
    comparisons = []
    for key, times in groups.items():
        ours = {name: time for name, time in times.items() if name in PATHS}
        plain = {name: time for name, time in times.items() if name.startswith("plain-")}
        zoo = {name: time for name, time in times.items() if name not in ours and name not in plain}
        baselines = {name: PLAIN_OF.get(name, f"plain-{key[-1]}") for name in ours}
        slower = {name: time.over(plain[baselines[name]]) for name, time in ours.items() if baselines[name] in plain}
        comparisons.append(Comparison(*key, _best(ours), _best(plain), _best(zoo), slower))
    return comparisons


def claims(measurements: Sequence[Measurement], work: Work) -> Iterator[tuple[str, str, bool]]:
    """Yield each performance target that was measured, the ratio, and whether the target is met."""
    comparisons = compare(measurements, work)
    leads = [
        (lead, f"{_place(one)}: {over[0]} / {one.ours[0]}")
        for one in comparisons
        for over in (one.plain, one.zoo)
        if over and one.ours and (lead := one.lead(over))
    ]
    if leads:
        worst = min(leads, key=lambda each: each[0].value)
        missed = [lead for lead, _ in leads if lead.value < 1]
        yield (
            "the best path of each port, at least as fast as every peer in its framework",
            _measured(*worst) + _count(len(missed), len(leads), sum(lead.high < 1 for lead in missed)),
            not missed,
        )
    slower = [(ratio, f"{_place(one)}: {name}") for one in comparisons for name, ratio in one.slower.items()]
    if slower:
        worst = max(slower, key=lambda each: each[0].value)
        missed = [ratio for ratio, _ in slower if ratio.value > _MAX_SLOWDOWN]
        yield (
            f"no path slower than {_MAX_SLOWDOWN} times the plain port",
            _measured(*worst) + _count(len(missed), len(slower), sum(ratio.low > _MAX_SLOWDOWN for ratio in missed)),
            not missed,
        )
    for batch in dict.fromkeys(one.batch for one in measurements):
        times = {
            one.path: one.latency_ms
            for one in measurements
            if (one.network, one.mode, one.batch) == ("resnet18", "inference", batch) and one.latency_ms
        }
        ours = _best({name: value for name, value in times.items() if name in PATHS})
        if ours and "torchvision" in times:
            lead = times["torchvision"].over(ours[1])
            target = f"resnet18, batch {batch}: the best path, at least 1.7 times as fast as torchvision's"
            yield target, _measured(lead, ours[0]), lead.value >= 1.7
    for one in comparisons:
        is_target = (one.network, one.mode, one.backend) == ("regnetx32", "training", "jax")
        if is_target and one.ours and (lead := one.lead(one.plain)):
            target = f"regnetx32, batch {one.batch}: JAX's training step, at least 3 times as fast as the plain one"
            yield target, _measured(lead, one.ours[0]), lead.value >= 3


def _place(one: Comparison) -> str:
    return f"{one.network}, {one.mode}, batch {one.batch}"


def _measured(ratio: Interval, where: str) -> str:
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] ({where})"


def _count(missed: int, pairs: int, significant: int) -> str:
    """Return how many pairs miss the target, and how many of them with their whole 95% confidence interval."""
    return f"; {missed} of {pairs} pairs miss it, {significant} with their whole 95% interval" if missed else ""


# Showing


def _ratio(ratio: Interval | None) -> str:
    return "" if ratio is None else f"{ratio.value:.2f}"


def _timed(best: tuple[str, Interval] | None) -> tuple[str, str]:
    return ("", "") if best is None else (best[0], number_text(best[1].value))


def summary(measurements: Sequence[Measurement], work: Work, markdown: bool) -> Table:
    """Return a table of the fastest path of ours, of the plain ports and of the zoos, for each framework."""
    columns = ("network", "mode", "batch", "framework", "ours", "ms", "plain", "ms", "ratio", "zoo", "ms", "ratio")
    table = Table(box=box.MARKDOWN if markdown else None, pad_edge=markdown)
    for column in columns:
        table.add_column(column, justify="right" if column in ("batch", "ms", "ratio") else "left", no_wrap=True)
    for one in compare(measurements, work):
        zoo, zoo_time = _timed(one.zoo)
        table.add_row(
            *(one.network, one.mode, str(one.batch), one.backend),
            *(*_timed(one.ours), *_timed(one.plain), _ratio(one.lead(one.plain))),
            *(_marked(zoo, one.network, work), zoo_time, _ratio(one.lead(one.zoo))),
        )
    return table


def _marked(zoo: str, network: str, work: Work) -> str:
    factor = work.get(zoo, {}).get(network, 1.0)
    return zoo if abs(factor - 1) < 0.005 else f"{zoo} (work {factor:.2f})"


def every_path(measurements: Sequence[Measurement], work: Work) -> Iterator[Table]:
    """Yield a table for each network: the time of every path and its ratio to the plain port's, by mode and batch."""
    for network in dict.fromkeys(one.network for one in measurements):
        own = [one for one in measurements if one.network == network]
        slower = {
            (each.mode, each.batch, name): ratio for each in compare(own, work) for name, ratio in each.slower.items()
        }
        title = group_title(own[0]).partition(", inference")[0].partition(", training")[0]
        table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
        table.add_column("path", no_wrap=True)
        groups = list(dict.fromkeys((one.mode, one.batch) for one in own))
        for mode, batch in groups:
            table.add_column(f"{mode} {batch}, ms", justify="right")
            table.add_column("/ plain", justify="right")
        table.add_column("")
        for path in dict.fromkeys(one.path for one in own):
            by_group = {(one.mode, one.batch): one for one in own if one.path == path}
            cells = []
            for group in groups:
                one = by_group.get(group)
                cells += [_cell(one), _ratio(slower.get((*group, path)))]
            problems = {one.message for one in by_group.values() if one.status != "measured"}
            note = [BY_PATH[path].networks[network]] if path in BY_PATH else []
            note += [f"work {work[path][network]:.2f}"] if network in work.get(path, {}) else []
            table.add_row(path, *cells, "; ".join([*filter(None, note), *sorted(problems)]))
        yield table


def _cell(one: Measurement | None) -> str:
    if one is None:
        return ""
    return number_text(one.latency_ms.value) if one.latency_ms else one.status


def show(run: Run, work: Work, markdown: bool) -> None:
    """Print the tables, or only the summary as Markdown."""
    # Files and Markdown tables need unbroken lines.
    console = Console(width=None if sys.stdout.isatty() and not markdown else 1000, highlight=False)
    if not markdown:
        for table in every_path(run.measurements, work):
            print_fitted(console, table)
            console.print()
        print_fitted(console, summary(run.measurements, work, markdown), keys=4)
    else:
        console.print(summary(run.measurements, work, markdown))
    if run.interrupted:
        console.print(interruption(run))
    for target, ratio, met in claims(run.measurements, work):
        console.print(f"{'- ' if markdown else ''}{target}: {ratio}{'' if met else '; target missed'}")
    for peers in PEERS.values():
        for peer in peers:
            notes = [f"{name}: {note}" for name, note in peer.networks.items() if note]
            if notes and any(one.path == peer.path.name for one in run.measurements):
                console.print(f"{'- ' if markdown else ''}{peer.path.about}: {'; '.join(notes)}")


# Measuring


def measured_work(peer: Peer, networks: Sequence[Network]) -> dict[str, float]:
    """Return the ratio of a zoo's multiply-accumulates to ours by network; empty if its environment fails."""
    counterparts = {one.name: one.settings() for one in networks if one.name in peer.networks}
    if not counterparts:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            answer = launch.launch(
                launch.interpreter(peer.path.environment).path,
                ["-m", "benchmarks.zoo", str(peer.path.module), json.dumps(counterparts)],
                launch.environment(1),
                Path(folder) / "stderr.txt",
                limit=120,
            )
        except BackendError:
            return {}  # the measurements report the reason
    counted = json.loads(answer.splitlines()[-1])
    return {name: count / reference.describe(NETWORKS[name]).multiply_accumulates for name, count in counted.items()}


def measure(
    networks: Sequence[Network], ours: Sequence[ExecutionPath], peers: Sequence[Peer], **settings: Any
) -> Iterator[Run]:
    """Yield the run of each network; stop after an interrupted run."""
    for network in networks:
        theirs = [peer.path for peer in peers if network.name in peer.networks]
        run = benchmark.run(benchmark.Settings([network], [*ours, *theirs], **settings), _progress(network.name))
        yield run
        if run.interrupted:
            return


def _progress(network: str) -> benchmark.Progress:
    totals: dict[str, tuple[int, int]] = {}

    def show_progress(backend: str, done: int, total: int) -> None:
        totals[backend] = done, total
        if not sys.stderr.isatty():
            return
        counts = ", ".join(f"{name} {first}/{last}" for name, (first, last) in totals.items())
        print(f"\r{network}: {counts}", end="", file=sys.stderr, flush=True)

    return show_progress


def joined(runs: Sequence[Run]) -> Run:
    """Return one run with the measurements of several runs on the same machine."""
    versions: dict[str, Any] = {}
    for run in runs:
        for environment, packages in run.versions.items():
            versions.setdefault(environment, {}).update(packages)
    return dataclasses.replace(
        runs[0],
        versions=versions,
        settings={**runs[0].settings, "networks": [name for run in runs for name in run.settings["networks"]]},
        measurements=tuple(one for run in runs for one in run.measurements),
        interrupted=any(run.interrupted for run in runs),
    )


def _read(path: Path) -> tuple[Run, Work]:
    """Read a run that this program wrote. Raises InputError for any other file."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        return json_records.build(Run, read["run"]), read["work"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a file that this program wrote: {error}") from None


def _merged(works: Sequence[Work]) -> Work:
    """Return the relative work of each zoo for the networks of several runs."""
    zoos = dict.fromkeys(zoo for each in works for zoo in each)
    return {zoo: {name: factor for each in works for name, factor in each.get(zoo, {}).items()} for zoo in zoos}


def _named(kind: str, names: str, known: Mapping[str, Any]) -> list[Any]:
    """Return the values of comma-separated names. Raises ConfigError for an unknown name."""
    for name in names.split(","):
        if name not in known:
            raise unknown(kind, name, known)
    return [known[name] for name in dict.fromkeys(names.split(","))]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--paths", default=",".join(OURS), help="execution paths of rosetta")
    parser.add_argument("--backends", default="torch,jax,tf,mxnet", help="compare only these ports")
    parser.add_argument("--mode", choices=["inference", "training", "both"], default="both")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="sampling time in each process")
    parser.add_argument("--timeout", type=float, default=600, help="time limit of a process in seconds")
    parser.add_argument("--markdown", action="store_true", help="print only the summary, as Markdown")
    parser.add_argument("-o", "--output", type=Path, help="write everything as JSON, after each network")
    parser.add_argument(
        "--read", type=Path, nargs="+", metavar="JSON", help="show files written by -o; measure nothing"
    )
    return parser.parse_args()


def main() -> None:
    """Measure, or read earlier results, and print them."""
    options = _options()
    if options.read:
        results = [_read(path) for path in options.read]
        show(joined([run for run, _ in results]), _merged([each for _, each in results]), options.markdown)
        return
    networks = _named("network", options.networks, NETWORKS)
    backends = _named("backend", options.backends, {name: name for name in ("torch", "jax", "tf", "mxnet")})
    ours = [path for path in _named("path", options.paths, OURS) if path.backend in backends]
    groups = _named("peer", options.peers, PEERS)
    peers = [peer for group in groups for peer in group if peer.path.backend in backends]
    modes = ("inference", "training") if options.mode == "both" else (options.mode,)
    settings = {
        "batches": options.batch,
        "threads": (options.threads,),
        "modes": modes,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "timeout": options.timeout,
    }
    work = {peer.path.name: measured_work(peer, networks) for peer in peers if not peer.path.proven}
    runs: list[Run] = []
    for run in measure(networks, ours, peers, **settings):
        runs.append(run)
        print(file=sys.stderr, end="\n" if sys.stderr.isatty() else "")
        whole = joined(runs)
        if options.output:
            document = {"run": dataclasses.asdict(whole), "work": work}
            document["comparisons"] = [dataclasses.asdict(one) for one in compare(whole.measurements, work)]
            options.output.write_text(json.dumps(document, indent=1), encoding="utf-8")
    show(whole, work, options.markdown)
    if whole.interrupted:
        sys.exit(130)


if __name__ == "__main__":
    # An exception instead of immediate termination also ends the process that is measured.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        main()
    except RosettaError as error:
        sys.exit(f"{error}")
