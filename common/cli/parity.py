"""`rosetta parity`, `diagnose` and `mutants`: compare the implementations, and prove the comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from common.catalog import NETWORKS, get
from common.cli.options import (
    BACKENDS,
    CHECKS,
    DTYPES,
    MUTANTS,
    OPTIMIZERS,
    FiniteRange,
    check_choice,
    config_option,
    example,
    parse_config,
    parse_list,
    seed_option,
)
from common.errors import ConfigError
from common.terminal import console, with_progress


@click.command(
    epilog=example(
        "rosetta parity",
        "rosetta parity lenet resnet18 --backends torch,jax --dtype float64",
        'rosetta parity resnet --config \'{"arch": [[1, 8], [2, 16]], "input_size": [57, 83]}\' --batch 3',
        "rosetta parity --checks gradients,training bn_lenet resnet18",
        "rosetta parity lenet --checks training --optimizers sgd,adamw --dtype float64",
        "rosetta parity --html report.html --json report.json --junit report.xml",
        "rosetta parity resnet18 --plot errors.svg",
    )
)
@click.argument("networks", nargs=-1, metavar="[NETWORK]...")
@click.option("--backends", default=",".join(BACKENDS[1:]), show_default=True, help="Which to hold to the reference.")
@click.option(
    "--checks",
    default="forward",
    show_default=True,
    help="forward: every tap in evaluation mode; gradients: taps, statistics and gradients in training mode; training: "
    "ten steps. The last two run large networks on small inputs, without dropout.",
)
@click.option("--dtype", default=",".join(DTYPES), show_default=True, help="float64, float32 or both.")
@config_option
@click.option(
    "--batch", type=click.IntRange(min=1), help="Images in each input  [default: 2, and 4 for gradients and training]"
)
@click.option(
    "--optimizers",
    help=f"Which to train by, of {', '.join(OPTIMIZERS)}  [default: sgd, and all of them for lenet and bn_lenet]",
)
@seed_option
@click.option("--jobs", type=click.IntRange(min=1), help="How many compute at a time  [default: the processors]")
@click.option("--timeout", type=FiniteRange(min=1), default=600, show_default=True, help="Seconds one cell may take.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the report as JSON.")
@click.option("--html", "html_path", type=click.Path(path_type=Path), help="Write it as one self-contained page.")
@click.option("--junit", "junit_path", type=click.Path(path_type=Path), help="Write it as JUnit XML.")
@click.option("--plot", "plot_path", type=click.Path(path_type=Path), help="Draw error against depth, as .png or .svg.")
def parity(
    networks: tuple[str, ...],
    backends: str,
    checks: str,
    dtype: str,
    config: str | None,
    batch: int | None,
    optimizers: str | None,
    seed: int,
    jobs: int | None,
    timeout: float,
    json_path: Path | None,
    html_path: Path | None,
    junit_path: Path | None,
    plot_path: Path | None,
) -> int:
    """Run every NETWORK (all, unless some are named) in every backend and compare every tap with the reference.

    Each runs on a batch of real digits and on one of noise, with weights in which every tensor is random. Gradients are
    held to derivatives of the reference's loss by central differences and, as training runs are, to one another.
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
        parse_list("--backends", backends, BACKENDS[1:], "backend to compare"),
        parse_list("--checks", checks, CHECKS, "check"),  # type: ignore[arg-type]
        parse_list("--dtype", dtype, DTYPES, "dtype"),  # type: ignore[arg-type]
        batch,
        seed,
        timeout,
        optimizers=optimizers and parse_list("--optimizers", optimizers, OPTIMIZERS, "optimizer"),  # type: ignore[arg-type]
        **limits,
    )
    outputs = {json_path: report.to_json, html_path: report.to_html, junit_path: report.to_junit}
    if plot_path is not None:
        check_picture(plot_path)
    for path in (*outputs, plot_path):
        if path is not None:
            check_writable(path)
    shown = ["numpy", *(name for name in settings.backends if name != "numpy")]
    result = with_progress(lambda progress: harness.run(settings, progress), shown)
    report.print_table(result, console())
    for path, render in outputs.items():
        if path is not None:
            save(path, render(result))
            click.echo(f"report: {path}")
    if plot_path is not None:
        drawn = [cell for cell in result.cells if cell.errors]
        if drawn:
            save_plot(error_plot.draw_errors(drawn), plot_path)
        click.echo(f"plot: {plot_path}" if drawn else "plot: no backend gave anything to draw", err=not drawn)
    status: int = result.exit_status()
    return status


@click.command(
    epilog=example(
        "rosetta diagnose resnet18 --backend tf",
        "rosetta diagnose lenet --backend jax --checks forward --dtype float32",
    )
)
@click.argument("network")
@click.option("--backend", required=True, help=f"One of {', '.join(BACKENDS[1:])}.")
@click.option("--checks", default="forward,gradients", show_default=True, help="forward, gradients or both.")
@click.option("--dtype", default="float64", show_default=True, help="float64 or float32.")
@config_option
@click.option("--batch", type=click.IntRange(min=1), help="Images in each input.")
@seed_option
@click.option("--all", "everything", is_flag=True, help="Show every tap, not only those that are wrong.")
def diagnose(
    network: str,
    backend: str,
    checks: str,
    dtype: str,
    config: str | None,
    batch: int | None,
    seed: int,
    everything: bool,
) -> int:
    """Find which layers of NETWORK a backend computes wrongly, and say what each behaves like.

    Every layer is run twice: as part of the network, where it is given what the layers before it made, and alone, given
    what the reference made. Then mistakes that are known from porting are tried against the ones that are wrong.
    """
    from common import reference
    from common.parity import harness, report

    check_choice("backend to compare", backend, BACKENDS[1:])
    check_choice("dtype", dtype, DTYPES)
    entry = get(network, **parse_config(config))
    reference.describe(entry)
    if seed < 0:
        raise ConfigError(f"--seed (={seed}) must be 0 or more")
    settings = harness.Settings(
        [entry],
        [backend],
        parse_list("--checks", checks, CHECKS[:2], "check of layers"),  # type: ignore[arg-type]
        [dtype],  # type: ignore[list-item]
        batch,
        seed,
        isolate=True,
    )
    result = harness.run(settings)
    report.print_diagnosis(result, console(), everything)
    status: int = result.exit_status()
    return status


@click.command(
    epilog=example(
        "rosetta mutants",
        "rosetta mutants --backends torch --kinds constant,keyword --sample 20",
        "rosetta mutants --kinds pitfall,constant,keyword,activation,swap,zero --json mutants.json",
    )
)
@click.option("--backends", default=",".join(BACKENDS[1:]), show_default=True, help="Whose port to put mistakes into.")
@click.option("--kinds", default="pitfall", show_default=True, help=f"Which, of {', '.join(MUTANTS)}.")
@click.option(
    "--sample", type=click.IntRange(min=1), help="How many of each kind and backend, at random  [default: all]"
)
@seed_option
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write what became of each as JSON.")
def mutants(backends: str, kinds: str, sample: int | None, seed: int, json_path: Path | None) -> int:
    """Put mistakes into each port, in memory, and see whether parity finds every one, and where.

    pitfall: what goes wrong between frameworks; constant: each number of each model file one step up; keyword: each
    left out; activation: each left out; swap: two equally shaped weights exchanged; zero: a layer's weight, bias, scale
    or statistics zeroed. A mutant is killed by the first check that disagrees: building the port, forward, gradients,
    training.
    """
    from common.files import check_writable, save
    from common.mutants import report, run
    from common.mutants.generic import of_sources, of_weights
    from common.mutants.pitfalls import of_pitfalls

    names = parse_list("--backends", backends, BACKENDS[1:], "backend to put mistakes into")
    wanted = parse_list("--kinds", kinds, MUTANTS, "kind of mutant")
    if json_path is not None:
        check_writable(json_path)
    chosen = []
    for name in names:
        every = (mutant for made in (of_pitfalls, of_sources, of_weights) for mutant in made(name))
        own = [mutant for mutant in every if mutant.kind in wanted]
        chosen += run.sampled(own, sample, seed) if sample else own
    outcomes = with_progress(lambda progress: run.run(chosen, names, progress), names)
    report.print_table(outcomes, console())
    if json_path is not None:
        save(json_path, report.to_json(outcomes))
        click.echo(f"report: {json_path}")
    return report.exit_status(outcomes)
