"""The command `rosetta recommend`. Heavy modules are imported when it runs, Matplotlib only for `--plot`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from common.catalog import Network, get
from common.choices import Device, Objective, Runtime
from common.cli.options import DEVICE, Choice, FiniteRange, config_option, example, parse_config
from common.cli.progress import with_progress
from common.errors import ConfigError, InputError, InterruptedRunError
from common.terminal import console

if TYPE_CHECKING:
    from common.deploy.bench.history import LatestResults
    from common.deploy.recommend.rank import Recommendation

__all__ = ["recommend"]

_POSITIVE = FiniteRange(min=0, min_open=True)


@click.command(
    short_help="Recommend a way to deploy a network.",
    epilog=example(
        "rosetta recommend resnet18",
        "rosetta recommend resnet18 --latency-ms 10 --install-mb 200 --optimize memory",
        "rosetta recommend resnet18 --error 1e-4 --batch 8 --optimize throughput",
        "rosetta recommend lenet --runtime browser --from bench.json --plot front.svg --json recommended.json",
    ),
)
@click.argument("network")
@click.option("--latency-ms", type=_POSITIVE, help="Largest 95th-percentile latency of a batch, in milliseconds.")
@click.option("--memory-mb", type=_POSITIVE, help="Largest peak memory of the process, in megabytes.")
@click.option("--install-mb", type=_POSITIVE, help="Largest size on disk of the runtime and the artifact.")
@click.option("--error", type=_POSITIVE, help="Largest error, relative to the largest logit.")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Images per batch.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads to compute with  [default: the most measured]")
@click.option(
    "--runtime",
    type=Choice(get_args(Runtime), "runtime"),
    default="any",
    show_default=True,
    help="Where the network must run.",
)
@click.option(
    "--optimize",
    "--optimise",
    type=Choice(get_args(Objective), "objective"),
    default="latency",
    show_default=True,
    help="What to rank by.",
)
@click.option("--device", type=DEVICE, default="cpu", show_default=True, help="Where to compute.")
@config_option
@click.option(
    "--from", "run_path", type=click.Path(path_type=Path), help="Read measurements that `rosetta bench --json` wrote."
)
@click.option(
    "--history",
    "history_path",
    type=click.Path(path_type=Path),
    help="Read this history in place of your own.",
)
@click.option("--plot", "plot_path", type=click.Path(path_type=Path), help="Plot the costs, as .png or .svg.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the recommendation as JSON.")
def recommend(
    network: str,
    latency_ms: float | None,
    memory_mb: float | None,
    install_mb: float | None,
    error: float | None,
    batch: int,
    threads: int | None,
    runtime: Runtime,
    optimize: Objective,
    device: Device,
    config: str | None,
    run_path: Path | None,
    history_path: Path | None,
    plot_path: Path | None,
    json_path: Path | None,
) -> int:
    """Recommend a framework and artifact to deploy NETWORK with, based on measurements of this machine.

    Removes the execution paths that break a constraint and ranks the others. Paths whose confidence intervals overlap
    share a rank. The Pareto front is over median latency, memory, installed size and cold start. If there are no
    measurements yet, runs `rosetta bench` first. A megabyte is 10^6 bytes.

    Exit status: 0 something is recommended, 1 nothing meets the constraints, 2 a bad option or file.
    """
    from common.deploy.recommend.rank import Constraints
    from common.deploy.recommend.rank import recommend as rank
    from common.deploy.recommend.report import Advice, print_advice, to_record

    if run_path is not None and history_path is not None:
        raise ConfigError("--from and --history were both given; give one of them")
    entry = get(network, **parse_config(config))
    _check_outputs(json_path, plot_path)
    found = (
        _in_run(run_path, entry, device, batch, threads)
        if run_path is not None
        else _in_history(history_path, entry, device, batch, threads)
    )
    constraints = Constraints(latency_ms, memory_mb, install_mb, runtime, error)
    result = rank(found.measurements, constraints, optimize, device)
    advice = Advice(entry, found, constraints, optimize, result)
    print_advice(advice, console())
    if json_path is not None:
        from common.files import atomic_writer

        with atomic_writer(json_path) as file:
            file.write(json.dumps(to_record(advice), indent=1).encode())
        click.echo(f"report: {json_path}")
    if plot_path is not None:
        _plot(plot_path, f"{entry.name}: {found.setting}", result)
        click.echo(f"plot: {plot_path}")
    return 0 if result.ranked else 1


def _check_outputs(json_path: Path | None, plot_path: Path | None) -> None:
    """Raise InputError if an output file cannot be written."""
    if plot_path is not None:
        from common.plotting import check_picture

        check_picture(plot_path)
    for path in (json_path, plot_path):
        if path is not None:
            from common.files import check_writable

            check_writable(path)


def _in_run(path: Path, network: Network, device: str, batch: int, threads: int | None) -> LatestResults:
    """Return the measurements that a run has of a setting. Raises InputError that lists its settings if it has none."""
    from common.deploy.bench import history

    found = history.from_run(path, network, device, batch, threads)
    if found is None:
        setting = f"batch {batch}{f', {threads} threads' if threads else ''}, {device}"
        others = "; ".join(map(str, history.settings_of(path, network))) or "nothing of it"
        raise InputError(
            f"{path}: holds no inference of {network.name} {network.config_json()} with {setting}; it holds {others}; "
            "measure it with `rosetta bench`, or leave --from out"
        )
    return found


def _in_history(path: Path | None, network: Network, device: str, batch: int, threads: int | None) -> LatestResults:
    """Return this machine's measurements in a history. If there are none, measure now and add the results to it."""
    from common.deploy.bench import history, machine

    path, here = path or history.default_path(), machine.describe()
    found = history.from_history(path, network, device, batch, threads, here)
    if found is None:
        _measure(path, network, device, batch, threads)
        found = history.from_history(path, network, device, batch, threads, here)
    if found is None:
        raise InputError(f"{network.name} has no path that can be measured on {device}; choose another --device")
    return found


def _measure(path: Path, network: Network, device: str, batch: int, threads: int | None) -> None:
    """Measure every execution path as `rosetta bench` does, and add the run to a history."""
    from common.deploy.bench import benchmark, history
    from common.deploy.execution_paths import PATHS
    from common.files import check_writable
    from common.system import processors

    threads = threads or processors()
    if threads > processors():
        raise ConfigError(f"--threads (={threads}) is more than this machine's {processors()} processors")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create {path.parent}: {error.strerror or error}; give --history") from None
    check_writable(path)
    settings = benchmark.Settings([network], list(PATHS.values()), (batch,), (threads,), device)
    click.echo(
        f"rosetta: no measurements of {network.name} in this setting on this machine yet; measuring every path, which "
        f"takes minutes (`rosetta bench {network.name} --paths ...` measures some of them)",
        err=True,
    )
    backends = list(dict.fromkeys(case.path.backend for case in benchmark.cases(settings)))
    run = with_progress(lambda progress: benchmark.run(settings, progress), backends)
    history.append(path, run)
    if run.interrupted:
        raise InterruptedRunError(
            f"interrupted; the measurements so far were added to {path} and will be used next time; `rosetta bench` "
            "measures the missing ones"
        )


def _plot(path: Path, title: str, result: Recommendation) -> None:
    from common.deploy.recommend import pareto_plot
    from common.plotting import save_plot

    ranked = [each.measurement for each in result.ranked]
    front = {each.measurement.path for each in result.ranked if each.on_front}
    dropped = [each.measurement for each in result.dropped if each.measurement is not None]
    if not ranked and not dropped:
        raise InputError(f"{path}: nothing to draw: no path was measured with correct output")
    save_plot(pareto_plot.draw(title, ranked, front, dropped), path)
