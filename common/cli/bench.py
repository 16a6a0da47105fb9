"""The verb `rosetta bench`. What is heavy is imported when it runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from common.catalog import Network, get
from common.cli.options import (
    BACKENDS,
    DEVICES,
    FiniteRange,
    check_choice,
    config_option,
    example,
    parse_config,
    parse_list,
    read_weights,
)
from common.errors import ConfigError, InputError
from common.terminal import console, print_fitted, with_progress

if TYPE_CHECKING:
    from common.deploy.bench.results import Run
    from common.deploy.execution_paths import ExecutionPath
    from common.weights import WeightsFile

__all__ = ["bench"]

_MODES = ("inference", "training")
_MOST = 2**16
"""Images in a batch, or threads: beyond it something was mistyped."""


def _numbers(option: str, given: str) -> list[int]:
    """Return the positive whole numbers that an option lists. Raises ConfigError for anything else."""
    words = [word.strip() for word in given.split(",")]
    for word in words:
        if not word.isascii() or not word.isdecimal() or not 0 < int(word[:9]) <= _MOST or len(word) > 9:
            raise ConfigError(f"{option} (={given!r}) must be whole numbers from 1 to {_MOST}, such as 1 or 1,8,32")
    return list(dict.fromkeys(map(int, words)))


def _chosen(backends: str | None, paths: str | None) -> list[ExecutionPath]:
    """Return the execution paths that the options name; all of them where neither is given."""
    from common.deploy.execution_paths import PATHS

    named = parse_list("--paths", paths, list(PATHS), "execution path") if paths is not None else list(PATHS)
    of = parse_list("--backends", backends, BACKENDS, "backend") if backends is not None else BACKENDS
    found = [path for name, path in PATHS.items() if name in named and path.backend in of]
    if not found:
        raise ConfigError(f"none of --paths {paths} is of --backends {backends}; leave one of the two out")
    return found


def _networks(
    names: Sequence[str], config: str | None, weights_path: Path | None
) -> tuple[list[Network], WeightsFile | None]:
    """Return the networks to measure, and the weights file, if one is given."""
    from common import reference

    if not names:
        raise ConfigError("name the networks to measure, as in `rosetta bench lenet resnet18`; --list shows the paths")
    overrides = parse_config(config)
    found = [get(name, **overrides) for name in dict.fromkeys(names)]
    for network in found:
        reference.describe(network)
    if weights_path is None:
        return found, None
    if len(found) > 1:
        raise ConfigError(f"--weights {weights_path} are of one network; name that one alone")
    file = read_weights(weights_path, names[0], config)
    return [file.network], file


def _list_paths() -> None:
    from rich.table import Table

    from common.backends import launch
    from common.deploy.execution_paths import PATHS
    from common.errors import BackendError

    table = Table("path", "backend", "runs", "format", "devices", "environment", "", box=None, pad_edge=False)
    for path in PATHS.values():
        try:
            launch.interpreter(path.environment)
            ready = "ready"
        except BackendError as error:
            ready = str(error).partition(";")[0].partition(", or ")[0]
        modes = ", ".join(_MODES if path.trains else _MODES[:1])
        table.add_row(
            path.name, path.backend, modes, path.format or "", ", ".join(path.devices), path.environment, ready
        )
    print_fitted(console(), table)


def _check_threads(threads: Sequence[int]) -> None:
    from common.system import processors

    if max(threads) > processors():
        raise ConfigError(f"--threads (={max(threads)}) is more than this machine's {processors()} processors")


def _prepare_history(path: Path | None) -> Path:
    """Return where the history goes, its folder made. Raises InputError where that cannot be."""
    from common.deploy.bench import history
    from common.files import check_writable

    if path is None:
        path = history.default_path()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make {path.parent}: {error.strerror}; give --history, or --no-history") from None
    check_writable(path)
    history.check(path)
    return path


def _check_folder(path: Path) -> None:
    """Raise InputError where no pictures can be written into a folder, which is made if need be."""
    if path.exists() and not path.is_dir():
        raise InputError(f"--plot {path}: it is a file; give a folder for the pictures")
    parent = path if path.exists() else path.parent
    if not parent.is_dir():
        raise InputError(f"--plot {path}: there is no folder {parent}; create it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"--plot {path}: permission denied")


@click.command(
    epilog=example(
        "rosetta bench resnet18 --batch 1,8,32 --plot plots",
        'rosetta bench resnet18 --config \'{"in_channels": 3, "input_size": [224, 224], "num_classes": 1000}\'',
        "rosetta bench lenet vgg11 --paths torch-compile,onnxruntime,openvino --threads 1,2 --json bench.json",
        "rosetta bench regnetx32 --backends jax --mode training --compare",
        "rosetta bench --list",
    )
)
@click.argument("networks", nargs=-1, metavar="[NETWORK]...")
@click.option("--list", "list_paths", is_flag=True, help="Show every execution path and whether it can run here.")
@click.option("--backends", help="Only the paths of these backends, and of what is exported from them.")
@click.option("--paths", help="Only these execution paths  [default: all]")
@click.option("--batch", default="1,8", show_default=True, help="Images at a time.")
@click.option("--threads", help="Threads to compute with  [default: as many as processors]")
@click.option("--device", default="cpu", show_default=True, help="cpu or gpu.")
@click.option("--mode", default="inference", show_default=True, help="inference, training or both.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=3, show_default=True, help="Processes for each row.")
@click.option(
    "--seconds", type=FiniteRange(0, 3600), default=1, show_default=True, help="Time samples for, in each round."
)
@click.option(
    "--timeout", type=FiniteRange(min=1), default=600, show_default=True, help="Seconds one process may take."
)
@click.option("--weights", "weights_path", type=click.Path(path_type=Path), help="Canonical weights  [default: random]")
@config_option
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the measurements as JSON.")
@click.option("--plot", "plot_path", metavar="FOLDER", type=click.Path(path_type=Path), help="Draw them there, as SVG.")
@click.option(
    "--history",
    "history_path",
    type=click.Path(path_type=Path),
    help="The file that measurements are appended to  [default: the user's own]",
)
@click.option("--no-history", "forget", is_flag=True, help="Append them to no file.")
@click.option("--compare", "compared", is_flag=True, help="Hold them to the last on this machine: status 1 if slower.")
def bench(
    networks: tuple[str, ...],
    list_paths: bool,
    backends: str | None,
    paths: str | None,
    batch: str,
    threads: str | None,
    mode: str,
    weights_path: Path | None,
    config: str | None,
    json_path: Path | None,
    plot_path: Path | None,
    history_path: Path | None,
    forget: bool,
    compared: bool,
    **options: Any,
) -> int:
    """Measure what each way to run NETWORK costs on this machine: time, memory, cold start, size.

    Each is run in fresh processes, in rounds, and its output is held to the reference before it is timed: one that is
    fast and wrong is `wrong`. Times are medians of a single call, in brackets their 95% confidence over the rounds.
    Ctrl-C ends it early: what was measured by then is shown and written.
    """
    if list_paths:
        _list_paths()
        return 0
    from common.deploy.bench import history
    from common.deploy.bench.benchmark import Settings, cases, run
    from common.files import check_writable
    from common.system import processors

    check_choice("device", options["device"], DEVICES)
    counts = _numbers("--threads", threads) if threads is not None else [processors()]
    _check_threads(counts)
    measured, weights = _networks(networks, config, weights_path)
    settings = Settings(
        batches=_numbers("--batch", batch),
        threads=counts,
        modes=parse_list("--mode", mode, _MODES, "mode"),  # type: ignore[arg-type]  # it checks them
        paths=_chosen(backends, paths),
        networks=measured,
        weights=weights,
        **options,
    )
    every = cases(settings)
    if not every:
        raise ConfigError(
            f"none of these paths can do {mode} on {settings.device}; `rosetta bench --list` says which can"
        )
    if json_path is not None:
        check_writable(json_path)
    if plot_path is not None:
        _check_folder(plot_path)
    kept = _prepare_history(history_path) if compared or not forget else None
    earlier = history.read(kept) if kept and compared else []

    shown = list(dict.fromkeys(case.path.backend for case in every))
    found = with_progress(lambda progress: run(settings, progress), shown)
    try:
        if kept and not forget:
            history.append(kept, found)
    finally:
        # Where a disk is full by now, what took minutes is shown all the same.
        status = _report(found, earlier if compared else None, json_path, plot_path, named=bool(backends or paths))
    return status


def _report(
    run: Run, earlier: Sequence[Run] | None, json_path: Path | None, plot_path: Path | None, named: bool
) -> int:
    """Show a run, write what was asked for, and return the exit status."""
    from common.deploy.bench import history, tables
    from common.files import save

    # First of all: what interrupted the run may have taken the terminal too.
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
        click.echo("there is nothing to compare with: the history has no such measurement on this machine")
    return _status(run, any(change.regression for change in changes), named)


def _status(run: Run, slower: bool, named: bool) -> int:
    """Return 1 where something is wrong or became slower, 3 where something failed or is missing, else 0.

    A path that was not asked for by name may be missing. Any interrupted command returns 130.
    """
    if run.interrupted:
        return 130
    found = [one.status for one in run.measurements]
    if slower or "wrong" in found:
        return 1
    missing = "missing" in found and (named or "measured" not in found)
    return 3 if "failed" in found or missing else 0
