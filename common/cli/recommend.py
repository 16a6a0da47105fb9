"""The verb `rosetta recommend`. What is heavy is imported when it runs, and pictures only where one is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from common.catalog import Network, get
from common.cli.options import (
    DEVICES,
    OBJECTIVES,
    PLACES,
    FiniteRange,
    check_choice,
    config_option,
    example,
    parse_config,
)
from common.errors import ConfigError, InputError, InterruptedRunError
from common.terminal import console, with_progress

if TYPE_CHECKING:
    from common.deploy.bench.history import LatestResults
    from common.deploy.recommend.rank import Recommendation

__all__ = ["recommend"]

_POSITIVE = FiniteRange(min=0, min_open=True)


@click.command(
    epilog=example(
        "rosetta recommend resnet18",
        "rosetta recommend resnet18 --latency-ms 10 --install-mb 200 --optimize memory",
        "rosetta recommend resnet18 --error 1e-4 --batch 8 --optimize throughput",
        "rosetta recommend lenet --runtime browser --from bench.json --plot front.svg --json recommended.json",
    )
)
@click.argument("network")
@click.option("--latency-ms", type=_POSITIVE, help="At most so long for a batch, in 95 of 100 runs.")
@click.option("--memory-mb", type=_POSITIVE, help="At most so much memory of the process, at its peak.")
@click.option("--install-mb", type=_POSITIVE, help="At most so much on disk: what must be installed, and the artifact.")
@click.option("--error", type=_POSITIVE, help="At most so far off the reference, relative to the largest logit.")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Images at once.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads to compute on  [default: the most measured with]")
@click.option("--runtime", default="any", show_default=True, help=f"Where it must run: {', '.join(PLACES)}.")
@click.option("--optimize", "--optimise", default="latency", show_default=True, help=f"One of {', '.join(OBJECTIVES)}.")
@click.option("--device", default="cpu", show_default=True, help="cpu or gpu.")
@config_option
@click.option(
    "--from", "run_path", type=click.Path(path_type=Path), help="Read a run that `rosetta bench --json` wrote."
)
@click.option(
    "--history", "history_path", type=click.Path(path_type=Path), help="Read another history than this user's."
)
@click.option("--plot", "plot_path", type=click.Path(path_type=Path), help="Draw what the paths cost, as PNG or SVG.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write all of it as JSON.")
def recommend(
    network: str,
    latency_ms: float | None,
    memory_mb: float | None,
    install_mb: float | None,
    error: float | None,
    batch: int,
    threads: int | None,
    runtime: str,
    optimize: str,
    device: str,
    config: str | None,
    run_path: Path | None,
    history_path: Path | None,
    plot_path: Path | None,
    json_path: Path | None,
) -> int:
    """Say which framework and artifact to deploy NETWORK with, from what was measured on this machine.

    What breaks a constraint drops out, the rest are ranked; paths whose confidence intervals overlap share a rank. The
    Pareto front is over latency (median), memory, installation and cold start. Without measurements they are made, by
    `rosetta bench`. A megabyte is 10^6 bytes.

    Exit status: 0 something is recommended, 1 nothing meets the constraints, 2 the request or a file is wrong.
    """
    from common.deploy.recommend.rank import Constraints
    from common.deploy.recommend.rank import recommend as rank
    from common.deploy.recommend.report import Advice, print_advice, to_record

    check_choice("runtime", runtime, PLACES)
    check_choice("objective", optimize, OBJECTIVES)
    check_choice("device", device, DEVICES)
    if run_path is not None and history_path is not None:
        raise ConfigError("--from and --history were both given; give one of them")
    entry = get(network, **parse_config(config))
    _check_outputs(json_path, plot_path)
    found = (
        _in_run(run_path, entry, device, batch, threads)
        if run_path is not None
        else _in_history(history_path, entry, device, batch, threads)
    )
    constraints = Constraints(latency_ms, memory_mb, install_mb, runtime, error)  # type: ignore[arg-type]  # it was checked
    result = rank(found.measurements, constraints, optimize, device)  # type: ignore[arg-type]  # it was checked
    advice = Advice(entry, found, constraints, optimize, result)  # type: ignore[arg-type]
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
    """Raise InputError where what is asked for cannot be written."""
    if plot_path is not None:
        from common.plotting import check_picture

        check_picture(plot_path)
    for path in (json_path, plot_path):
        if path is not None:
            from common.files import check_writable

            check_writable(path)


def _in_run(path: Path, network: Network, device: str, batch: int, threads: int | None) -> LatestResults:
    """Return what a run measured. Raises InputError, with what else it measured, where it is nothing such."""
    from common.deploy.bench import history

    found = history.from_run(path, network, device, batch, threads)
    if found is None:
        asked = f"batch {batch}{f', {threads} threads' if threads else ''}, {device}"
        others = "; ".join(map(str, history.settings_of(path, network))) or "nothing of it"
        raise InputError(
            f"{path}: holds no inference of {network.name} {network.config_json()} with {asked}; it holds {others}; "
            "measure it with `rosetta bench`, or leave --from out"
        )
    return found


def _in_history(path: Path | None, network: Network, device: str, batch: int, threads: int | None) -> LatestResults:
    """Return what a history holds that was measured on this machine, or else measure it now, and add it there."""
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
    """Measure every path once, with three rounds as `rosetta bench` does, and add the run to a history."""
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
        raise InputError(f"cannot make {path.parent}: {error.strerror or error}; give --history") from None
    check_writable(path)
    asked = benchmark.Settings([network], list(PATHS.values()), (batch,), (threads,), device)
    click.echo(
        f"rosetta: nothing such was measured of {network.name} on this machine yet; measuring every path, which takes "
        f"minutes (`rosetta bench {network.name} --paths ...` measures some of them)",
        err=True,
    )
    backends = list(dict.fromkeys(case.path.backend for case in benchmark.cases(asked)))
    run = with_progress(lambda progress: benchmark.run(asked, progress), backends)
    history.append(path, run)
    if run.interrupted:
        raise InterruptedRunError(
            f"interrupted; what was measured was added to {path}, and the next time counts; `rosetta bench` measures "
            "what is missing"
        )


def _plot(path: Path, title: str, result: Recommendation) -> None:
    from common.deploy.recommend import pareto_plot
    from common.plotting import save_plot

    ranked = [each.measurement for each in result.ranked]
    front = {each.measurement.path for each in result.ranked if each.on_front}
    dropped = [each.measurement for each in result.dropped if each.measurement is not None]
    if not ranked and not dropped:
        raise InputError(f"{path}: there is nothing to draw: no path was measured and is right")
    save_plot(pareto_plot.draw(title, ranked, front, dropped), path)
