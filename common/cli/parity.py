"""The commands `rosetta parity`, `diagnose` and `mutants`: compare the ports with the reference, and test the test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import click

from common.catalog import NETWORKS, get
from common.choices import Check, DTypeName, MutantKind, OptimizerName
from common.cli.options import (
    DTYPE,
    PORTS,
    Choice,
    ChoiceList,
    FiniteRange,
    config_option,
    example,
    parse_config,
    seed_option,
)
from common.cli.progress import show_progress, with_progress
from common.errors import ConfigError
from common.terminal import console

_CHECKS: tuple[Check, ...] = get_args(Check)


@click.command(
    short_help="Compare the backends with the reference.",
    epilog=example(
        "rosetta parity",
        "rosetta parity lenet resnet18 --backends torch,jax --dtype float64",
        'rosetta parity resnet --config \'{"arch": [[1, 8], [2, 16]], "input_size": [57, 83]}\' --batch 3',
        "rosetta parity --checks gradients,training bn_lenet resnet18",
        "rosetta parity lenet --checks training --optimizers sgd,adamw --dtype float64",
        "rosetta parity --html report.html --json report.json --junit report.xml",
        "rosetta parity resnet18 --plot errors.svg",
    ),
)
@click.argument("networks", nargs=-1, metavar="[NETWORK]...")
@click.option(
    "--backends",
    type=ChoiceList(PORTS, "backend to compare"),
    default=",".join(PORTS),
    help="Backends to compare with the reference  [default: all]",
)
@click.option(
    "--checks",
    type=ChoiceList(_CHECKS, "check"),
    default="forward",
    show_default=True,
    help="forward: compare every layer's output in evaluation mode; gradients: compare outputs, batch statistics and "
    "gradients in training mode; training: compare ten training steps. For gradients and "
    "training, large networks run on smaller images and dropout is off.",
)
@click.option(
    "--dtype",
    "dtypes",
    type=ChoiceList(get_args(DTypeName), "dtype"),
    default="float64,float32",
    show_default=True,
    help="Number types to compute in.",
)
@config_option
@click.option(
    "--batch", type=click.IntRange(min=1), help="Images per batch  [default: 2; 4 for gradients and training]"
)
@click.option(
    "--optimizers",
    type=ChoiceList(get_args(OptimizerName), "optimizer"),
    help="Optimizers for --checks training  [default: sgd; all for lenet and bn_lenet]",
)
@seed_option
@click.option("--jobs", type=click.IntRange(min=1), help="Computations at a time  [default: number of processors]")
@click.option(
    "--timeout",
    type=FiniteRange(min=1),
    default=600,
    show_default=True,
    help="Seconds allowed for one comparison.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the report as JSON.")
@click.option("--html", "html_path", type=click.Path(path_type=Path), help="Write the report as one HTML page.")
@click.option("--junit", "junit_path", type=click.Path(path_type=Path), help="Write the report as JUnit XML.")
@click.option("--plot", "plot_path", type=click.Path(path_type=Path), help="Plot error by depth, as .png or .svg.")
def parity(
    networks: tuple[str, ...],
    backends: Sequence[str],
    checks: Sequence[Check],
    dtypes: Sequence[DTypeName],
    config: str | None,
    batch: int | None,
    optimizers: Sequence[OptimizerName] | None,
    seed: int,
    jobs: int | None,
    timeout: float,
    json_path: Path | None,
    html_path: Path | None,
    junit_path: Path | None,
    plot_path: Path | None,
) -> int:
    """Compare each NETWORK in every backend with the NumPy reference, layer by layer. Default: all networks.

    All backends get the same random weights and the same two batches: handwritten digits and random noise. Gradients
    are compared with finite differences of the reference's loss; gradients and training runs are also compared between
    backends.
    """
    from common import reference
    from common.files import check_writable, save
    from common.parity import harness, report
    from common.plotting import check_picture, save_plot
    from common.view import error_plot

    overrides = parse_config(config)
    chosen = [get(name, **overrides) for name in dict.fromkeys(networks or NETWORKS)]
    for network in chosen:
        reference.describe(network)
    if seed < 0:
        raise ConfigError(f"--seed (={seed}) must be 0 or more")
    limits: dict[str, Any] = {} if jobs is None else {"jobs": jobs}
    settings = harness.Settings(
        chosen,
        backends,
        checks,
        dtypes,
        batch,
        seed,
        timeout,
        optimizers=optimizers,
        **limits,
    )
    outputs = {json_path: report.to_json, html_path: report.to_html, junit_path: report.to_junit}
    if plot_path is not None:
        check_picture(plot_path)
    for path in (*outputs, plot_path):
        if path is not None:
            check_writable(path)
    shown = ["numpy", *(name for name in settings.backends if name != "numpy")]
    screen = console()
    with show_progress(shown) as (progress, without_bars):
        result = harness.run(
            settings, progress, lambda done, check: without_bars(lambda: report.print_check(done, check, screen))
        )
    report.print_summary(result, screen)
    for path, render in outputs.items():
        if path is not None:
            save(path, render(result))
            click.echo(f"report: {path}")
    if plot_path is not None:
        drawn = [cell for cell in result.cells if cell.errors]
        if drawn:
            save_plot(error_plot.draw_errors(drawn), plot_path)
        click.echo(f"plot: {plot_path}" if drawn else "plot: no results to draw", err=not drawn)
    status: int = result.exit_status()
    return status


@click.command(
    short_help="Find the layers that a backend gets wrong.",
    epilog=example(
        "rosetta diagnose resnet18 --backend tf",
        "rosetta diagnose lenet --backend jax --checks forward --dtype float32",
    ),
)
@click.argument("network")
@click.option("--backend", required=True, type=Choice(PORTS, "backend to compare"), help="The backend to examine.")
@click.option(
    "--checks",
    type=ChoiceList(_CHECKS[:2], "check of layers"),
    default="forward,gradients",
    show_default=True,
    help="What to compare; see `rosetta parity --help`.",
)
@click.option("--dtype", type=DTYPE, default="float64", show_default=True, help="Number type to compute in.")
@config_option
@click.option("--batch", type=click.IntRange(min=1), help="Images per batch  [default: 2; 4 for gradients]")
@seed_option
@click.option("--all", "everything", is_flag=True, help="Show all layers, not only the wrong ones.")
def diagnose(
    network: str,
    backend: str,
    checks: Sequence[Check],
    dtype: DTypeName,
    config: str | None,
    batch: int | None,
    seed: int,
    everything: bool,
) -> int:
    """Find the layers of NETWORK that a backend computes wrongly, and the likely mistake in each.

    Runs each layer twice: inside the network, on the outputs of the layers before it, and alone, on the reference's
    inputs. Then checks which known porting mistakes reproduce each wrong result.
    """
    from common import reference
    from common.parity import harness, report

    entry = get(network, **parse_config(config))
    reference.describe(entry)
    if seed < 0:
        raise ConfigError(f"--seed (={seed}) must be 0 or more")
    settings = harness.Settings([entry], [backend], checks, [dtype], batch, seed, isolate=True)
    result = harness.run(settings)
    report.print_diagnosis(result, console(), everything)
    status: int = result.exit_status()
    return status


@click.command(
    short_help="Test the parity check with wrong ports.",
    epilog=example(
        "rosetta mutants",
        "rosetta mutants --backends torch --kinds constant,keyword --sample 20",
        "rosetta mutants --kinds pitfall,constant,keyword,activation,swap,zero --json mutants.json",
    ),
)
@click.option(
    "--backends",
    type=ChoiceList(PORTS, "backend to put mistakes into"),
    default=",".join(PORTS),
    help="Ports to put mistakes into  [default: all]",
)
@click.option(
    "--kinds",
    type=ChoiceList(get_args(MutantKind), "kind of mutant"),
    default="pitfall",
    show_default=True,
    help="Kinds of mistakes.",
)
@click.option(
    "--sample", type=click.IntRange(min=1), help="Random mutants to test, of each kind in each port  [default: all]"
)
@seed_option
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the result of each mutant as JSON.")
def mutants(
    backends: Sequence[str], kinds: Sequence[MutantKind], sample: int | None, seed: int, json_path: Path | None
) -> int:
    """Test the parity check: put one mistake at a time into each port and see whether parity finds it.

    The mistakes are made in memory; source files are not changed. The report names the first check that fails: building
    the port, forward, gradients or training.

    \b
    Kinds of mistakes:
      pitfall     a known difference between frameworks
      constant    a number in a model file, raised by one step
      keyword     a keyword argument left out
      activation  an activation left out
      swap        two weights of equal shape exchanged
      zero        a layer's weight, bias, scale or statistics set to zero
    """  # noqa: D301  # Click reads the backspace character and keeps the line breaks
    from common.files import check_writable, save
    from common.mutants import report, run
    from common.mutants.generic import source_mutants, weight_mutants
    from common.mutants.pitfalls import pitfall_mutants

    if json_path is not None:
        check_writable(json_path)
    chosen = []
    for backend in backends:
        generated = (
            mutant for generate in (pitfall_mutants, source_mutants, weight_mutants) for mutant in generate(backend)
        )
        own = [mutant for mutant in generated if mutant.kind in kinds]
        chosen += run.sample(own, sample, seed) if sample else own
    outcomes = with_progress(lambda progress: run.run(chosen, backends, progress), backends)
    report.print_table(outcomes, console())
    if json_path is not None:
        save(json_path, report.to_json(outcomes))
        click.echo(f"report: {json_path}")
    return report.exit_status(outcomes)
