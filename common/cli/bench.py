"""The command `rosetta bench`. Heavy modules are imported when it runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from common.backends.registry import BACKENDS
from common.catalog import Network, get
from common.choices import Device, Mode
from common.cli.options import (
    DEVICE,
    ChoiceList,
    CountList,
    FiniteRange,
    config_option,
    example,
    parse_config,
    read_weights,
)
from common.cli.progress import with_progress
from common.deploy.execution_paths import PATHS, ExecutionPath
from common.errors import ConfigError, InputError
from common.terminal import console, print_fitted

if TYPE_CHECKING:
    from common.deploy.bench.results import Run
    from common.weights import WeightsFile

__all__ = ["bench"]


def _chosen(backends: Sequence[str] | None, paths: Sequence[str] | None) -> list[ExecutionPath]:
    """Return the execution paths that the options select; all of them where neither is given."""
    chosen = [
        path
        for path in PATHS.values()
        if (paths is None or path.name in paths) and (backends is None or path.backend in backends)
    ]
    if not chosen:
        raise ConfigError(
            f"none of --paths {','.join(paths or PATHS)} belongs to --backends {','.join(backends or BACKENDS)}; leave "
            "one of the two out"
        )
    return chosen


def _networks(
    names: Sequence[str], config: str | None, weights_path: Path | None
) -> tuple[list[Network], WeightsFile | None]:
    """Return the networks to measure, and the weights file if there is one; then they are the one network in it."""
    from common import reference

    if not names:
        raise ConfigError("name the networks to measure, as in `rosetta bench lenet resnet18`; --list shows the paths")
    overrides = parse_config(config)
    networks = [get(name, **overrides) for name in dict.fromkeys(names)]
    for network in networks:
        reference.describe(network)
    if weights_path is None:
        return networks, None
    if len(networks) > 1:
        raise ConfigError(f"--weights {weights_path} holds the weights of one network; name only that network")
    file = read_weights(weights_path, names[0], config)
    return [file.network], file


def _list_paths() -> None:
    from rich.table import Table

    from common.backends import launch
    from common.errors import BackendError

    table = Table("path", "backend", "runs", "format", "devices", "environment", "", box=None, pad_edge=False)
    for path in PATHS.values():
        try:
            launch.interpreter(path.environment)
            ready = "ready"
        except BackendError as error:
            ready = str(error).partition(";")[0].partition(", or ")[0]
        modes = ", ".join(get_args(Mode) if path.trains else ("inference",))
        table.add_row(
            path.name, path.backend, modes, path.format or "", ", ".join(path.devices), path.environment, ready
        )
    print_fitted(console(), table)


def _check_threads(threads: Sequence[int]) -> None:
    from common.system import processors

    if max(threads) > processors():
        raise ConfigError(f"--threads (={max(threads)}) is more than this machine's {processors()} processors")


def _prepare_history(path: Path | None) -> Path:
    """Return the history file to append to, and create its folder. Raises InputError where this is not possible."""
    from common.deploy.bench import history
    from common.files import check_writable

    if path is None:
        path = history.default_path()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot create {path.parent}: {error.strerror}; give --history or --no-history") from None
    check_writable(path)
    history.check(path)
    return path


def _check_folder(path: Path) -> None:
    """Raise InputError unless pictures can be written to this folder, which may still have to be created."""
    if path.exists() and not path.is_dir():
        raise InputError(f"--plot {path}: it is a file; give a folder for the pictures")
    parent = path if path.exists() else path.parent
    if not parent.is_dir():
        raise InputError(f"--plot {path}: there is no folder {parent}; create it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"--plot {path}: permission denied")


@click.command(
    short_help="Measure time, memory and size of runtimes.",
    epilog=example(
        "rosetta bench resnet18 --batch 1,8,32 --plot plots",
        'rosetta bench resnet18 --config \'{"in_channels": 3, "input_size": [224, 224], "num_classes": 1000}\'',
        "rosetta bench lenet vgg11 --paths torch-compile,onnxruntime,openvino --threads 1,2 --json bench.json",
        "rosetta bench regnetx32 --backends jax --mode training --compare",
        "rosetta bench --list",
    ),
)
@click.argument("networks", nargs=-1, metavar="[NETWORK]...")
@click.option("--list", "list_paths", is_flag=True, help="List the execution paths and whether each can run here.")
@click.option(
    "--backends", type=ChoiceList(BACKENDS, "backend"), help="Only paths of these backends and of exports from them."
)
@click.option(
    "--paths",
    type=ChoiceList(PATHS, "execution path"),
    metavar="PATH,...",
    help="Only these execution paths; `--list` names them  [default: all]",
)
@click.option("--batch", "batches", type=CountList(), default="1,8", show_default=True, help="Images per batch.")
@click.option("--threads", type=CountList(), help="Threads to compute with  [default: number of processors]")
@click.option("--device", type=DEVICE, default="cpu", show_default=True, help="Where to compute.")
@click.option(
    "--mode",
    "modes",
    type=ChoiceList(get_args(Mode), "mode"),
    default="inference",
    show_default=True,
    help="What to measure: forward passes, training steps, or both.",
)
@click.option(
    "--rounds", type=click.IntRange(1, 1000), default=3, show_default=True, help="Fresh processes for each measurement."
)
@click.option(
    "--seconds", type=FiniteRange(0, 3600), default=1, show_default=True, help="Seconds of timing in each round."
)
@click.option(
    "--timeout", type=FiniteRange(min=1), default=600, show_default=True, help="Time limit of one process, in seconds."
)
@click.option("--weights", "weights_path", type=click.Path(path_type=Path), help="Weights file  [default: random]")
@config_option
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the measurements as JSON.")
@click.option(
    "--plot",
    "plot_path",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Folder for plots, as SVG.",
)
@click.option(
    "--history",
    "history_path",
    type=click.Path(path_type=Path),
    help="History file to append the measurements to  [default: one in your data folder]",
)
@click.option("--no-history", "forget", is_flag=True, help="Don't keep the measurements in a history.")
@click.option(
    "--compare",
    "compared",
    is_flag=True,
    help="Compare with the last measurements on this machine; exit status 1 if slower.",
)
def bench(
    networks: tuple[str, ...],
    list_paths: bool,
    backends: Sequence[str] | None,
    paths: Sequence[str] | None,
    batches: Sequence[int],
    threads: Sequence[int] | None,
    modes: Sequence[Mode],
    device: Device,
    weights_path: Path | None,
    config: str | None,
    json_path: Path | None,
    plot_path: Path | None,
    history_path: Path | None,
    forget: bool,
    compared: bool,
    **options: Any,
) -> int:
    """Measure time, memory, cold start and size of each way to run NETWORK on this machine.

    Each execution path runs in fresh processes, in several rounds. Its output is compared with the reference before it
    is timed; a path with wrong output is reported as `wrong`. Times are medians of single calls, with their 95%
    confidence interval over the rounds in brackets. Ctrl-C stops early and keeps the results so far.
    """
    if list_paths:
        _list_paths()
        return 0
    from common.deploy.bench import history
    from common.deploy.bench.benchmark import Settings, cases, run
    from common.files import check_writable
    from common.system import processors

    counts = threads or [processors()]
    _check_threads(counts)
    measured, weights = _networks(networks, config, weights_path)
    settings = Settings(
        batches=batches,
        threads=counts,
        device=device,
        modes=modes,
        paths=_chosen(backends, paths),
        networks=measured,
        weights=weights,
        **options,
    )
    every = cases(settings)
    if not every:
        raise ConfigError(
            f"none of these paths can do {' or '.join(modes)} on {device}; `rosetta bench --list` shows which can"
        )
    if json_path is not None:
        check_writable(json_path)
    if plot_path is not None:
        _check_folder(plot_path)
    kept = _prepare_history(history_path) if compared or not forget else None
    earlier = history.read(kept) if kept and compared else []

    shown = list(dict.fromkeys(case.path.backend for case in every))
    result = with_progress(lambda progress: run(settings, progress), shown)
    try:
        if kept and not forget:
            history.append(kept, result)
    finally:
        # Report the measurements even if the history cannot be written, as on a full disk.
        status = _report(result, earlier if compared else None, json_path, plot_path, named=bool(backends or paths))
    return status


def _report(
    run: Run, earlier: Sequence[Run] | None, json_path: Path | None, plot_path: Path | None, named: bool
) -> int:
    """Print a run, write the requested files, and return the exit status."""
    from common.deploy.bench import history, tables
    from common.files import save

    # Write files first: printing may fail, for example if the terminal was closed.
    if json_path is not None:
        save(json_path, history.dumps(run, indent=1))
    screen = console()
    for line in tables.heading(run):
        screen.print(line, soft_wrap=True)
    for table in tables.tables(run.measurements):
        screen.print()
        print_fitted(screen, table)
    for one in run.measurements:
        if one.message:
            screen.print(f"{one.path}, {tables.group_title(one)}: {one.message}", soft_wrap=True)
    if json_path is not None:
        click.echo(f"measurements: {json_path}")
    if plot_path is not None:
        from common.deploy.bench.plots import save_plots

        for picture in save_plots(run, plot_path):
            click.echo(f"plot: {picture}")
    changes = history.compare(run, earlier) if earlier is not None else []
    if changes:
        screen.print()
        print_fitted(screen, tables.changes_table(changes), keys=2)
    elif earlier is not None:
        click.echo("nothing to compare with: the history holds no such measurement of this machine")
    return _status(run, any(change.regression for change in changes), named)


def _status(run: Run, slower: bool, named: bool) -> int:
    """Return 1 if a path is wrong or became slower, 3 if one failed or is missing, 130 if interrupted, else 0.

    A missing path counts only if the user named paths or backends, or if nothing was measured.
    """
    if run.interrupted:
        return 130
    statuses = {one.status for one in run.measurements}
    if slower or "wrong" in statuses:
        return 1
    missing = "missing" in statuses and (named or "measured" not in statuses)
    return 3 if "failed" in statuses or missing else 0
