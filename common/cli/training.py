"""The commands `rosetta train`, `evaluate`, `predict` and `compare`. Heavy modules are imported when one runs."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from click.core import ParameterSource

from common.catalog import get
from common.choices import OptimizerName, ScheduleName
from common.cli.options import (
    DEVICE,
    DTYPE,
    PORTS,
    Choice,
    config_option,
    example,
    open_run,
    parse_config,
    seed_option,
)
from common.cli.progress import download_progress, training_progress
from common.errors import ConfigError, unknown
from common.terminal import console, print_fitted

if TYPE_CHECKING:
    import numpy as np

    from common.training.checkpoints import Checkpoint
    from common.training.datasets import Dataset
    from common.training.experiment import Experiment

__all__ = ["compare", "evaluate", "predict", "train"]

_PORT = Choice(PORTS, "backend")
_INSIDE = "ROSETTA_INSIDE"
"""Set to the backend's name once the command runs in that backend's interpreter."""
_RESUMABLE = {"backend", "device", "epochs", "data_dir", "keep", "checkpoint_every"}
"""Options that may differ when a run is resumed."""


def _enter(backend: str) -> None:
    """Continue in the interpreter that holds a backend: run the command there and exit with its status.

    Return at once if this is that interpreter. Raises MissingBackendError if the backend is not installed.
    """
    from common.backends import launch

    if backend not in PORTS:
        raise unknown("backend", backend, PORTS)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's log messages
    if os.environ.get(_INSIDE) == backend:
        launch.end_with_parent()
        return
    interpreter = launch.interpreter(backend)
    if os.path.abspath(interpreter.path) == os.path.abspath(sys.executable):
        return
    command = ["-m", "common", *sys.argv[1:]]
    sys.exit(launch.run_command(interpreter.path, command, launch.project_environment(**{_INSIDE: backend})))


def _given(context: click.Context) -> set[str]:
    """Return the names of the options on the command line, without those left at their defaults."""
    return {name for name in context.params if context.get_parameter_source(name) == ParameterSource.COMMANDLINE}


def _dataset(experiment: Experiment) -> Dataset:
    from common.training.datasets import open_dataset

    with download_progress() as progress:
        return open_dataset(
            experiment.data,
            data_dir=Path(experiment.data_dir) if experiment.data_dir else None,
            seed=experiment.seed,
            progress=progress,
        )


def _absolute(folder: str | None) -> str | None:
    return None if folder is None else str(Path(folder).resolve())


def _new_experiment(network: str, options: Mapping[str, Any]) -> tuple[Experiment, Dataset]:
    """Return the configuration of a new run, from its options and the catalog, and its data set."""
    from common.optimizers import OptimizerConfig
    from common.training.experiment import Experiment, ScheduleConfig

    overrides = parse_config(options["config"])
    entry = get(network, **overrides)
    names = [field.name for field in dataclasses.fields(OptimizerConfig) if field.name != "name"]
    data = options["data"]
    experiment = Experiment(
        network=network,
        config=entry.settings(),
        backend=options["backend"],
        data=data if data in _named_data() else str(Path(data).resolve()),
        data_dir=_absolute(options["data_dir"]),
        epochs=options["epochs"] or 10,
        batch_size=options["batch_size"] or entry.batch_size,
        learning_rate=options["lr"] or entry.learning_rate,
        optimizer=OptimizerConfig(options["optimizer"], **{name: options[name] for name in names}),
        schedule=ScheduleConfig(options["schedule"], options["warmup"], options["every"], options["factor"]),
        init=options["init"] if options["init"] in ("xavier", "native") else str(Path(options["init"]).resolve()),
        **{name: options[name] for name in ("seed", "dtype", "device", "flip", "crop", "checkpoint_every")},
        keep=options["keep"] or 3,
    )
    dataset = _dataset(experiment)
    if "num_classes" not in overrides:
        entry = get(network, **{**overrides, "num_classes": len(dataset.classes)})
    experiment = dataclasses.replace(
        experiment, config=entry.settings(), classes=dataset.classes, mean=dataset.mean, std=dataset.std
    )
    return experiment, dataset


def _named_data() -> Sequence[str]:
    from common.training.datasets import DATASETS

    return DATASETS


def _resumed_experiment(run: Path, network: str | None, options: Mapping[str, Any], given: set[str]) -> Experiment:
    """Return the configuration of a run to resume, with changed options. Raises ConfigError for other options."""
    from common.training.experiment import Experiment

    experiment = Experiment.load(run)
    names = {"lr": "learning_rate"}
    for name in given - _RESUMABLE - {"network", "output", "resume"}:
        shown = f"--{names.get(name, name).replace('_', '-')}"
        raise ConfigError(
            f"{shown} cannot be changed in a resumed run; {run} keeps the value in its config.json; leave the option "
            "out, or start another run with -o"
        )
    if network not in (None, experiment.network):
        raise ConfigError(f"{run} is a run of {experiment.network}, not of {network}")
    changed = {name: options[name] for name in given & _RESUMABLE}
    if "data_dir" in changed:
        changed["data_dir"] = _absolute(changed["data_dir"])
    return dataclasses.replace(experiment, **changed)


@click.command(
    short_help="Train a network.",
    epilog=example(
        "rosetta train lenet --backend torch -o runs/lenet",
        "rosetta train resnet18 --backend jax --data fashion_mnist --epochs 10 -o runs/resnet18",
        "rosetta train bn_lenet --backend tf --optimizer adamw --lr 0.002 --schedule cosine --warmup 1 -o runs/bn",
        "rosetta train -o runs/lenet --resume --epochs 20",
    ),
)
@click.argument("network", required=False)
@click.option("--backend", type=_PORT, help="Backend to train in; required for a new run.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Resume the run in that folder from its last checkpoint.")
@click.option(
    "--data",
    default="digits",
    show_default=True,
    help="digits, fashion_mnist, mnist, or a folder with one folder of images per class.",
)
@click.option("--data-dir", help="Folder of the files of mnist or fashion_mnist  [default: download them]")
@click.option("--epochs", type=int, help="Epochs to train for  [default: 10]")
@click.option("--batch-size", type=int, help="Images per batch  [default: the network's, see `rosetta list --json`]")
@click.option("--lr", type=float, help="Learning rate  [default: the network's]")
@click.option(
    "--optimizer",
    type=Choice(get_args(OptimizerName), "optimizer"),
    default="sgd",
    show_default=True,
    help="Optimizer.",
)
@click.option("--momentum", type=float, default=0.9, show_default=True, help="Momentum of momentum and nesterov.")
@click.option(
    "--weight-decay",
    type=float,
    default=0.0,
    show_default=True,
    help="Weight decay: decoupled in adamw, an L2 penalty otherwise.",
)
@click.option("--beta1", type=float, default=0.9, show_default=True, help="Beta 1 of adam and adamw.")
@click.option("--beta2", type=float, default=0.999, show_default=True, help="Beta 2 of adam and adamw.")
@click.option("--epsilon", type=float, default=1e-8, show_default=True, help="Epsilon of adam and adamw.")
@click.option("--clip-norm", type=float, help="Clip gradients to this global norm  [default: no clipping]")
@click.option(
    "--schedule",
    type=Choice(get_args(ScheduleName), "schedule"),
    default="constant",
    show_default=True,
    help="Learning rate schedule.",
)
@click.option("--warmup", type=float, default=0, show_default=True, help="Epochs of linear warm-up.")
@click.option("--every", type=float, default=1, show_default=True, help="Epochs between the drops of schedule step.")
@click.option("--factor", type=float, default=0.1, show_default=True, help="Factor of each drop of schedule step.")
@click.option(
    "--init",
    default="xavier",
    show_default=True,
    help="Initial weights: xavier (the same in every backend), native (each framework's own), or a weights file.",
)
@click.option("--flip", is_flag=True, help="Flip half of the training images at random.")
@click.option(
    "--crop", type=int, default=0, show_default=True, help="Shift training images at random by up to this many pixels."
)
@seed_option
@click.option("--dtype", type=DTYPE, default="float32", show_default=True, help="Number type to train in.")
@click.option("--device", type=DEVICE, default="cpu", show_default=True, help="Where to compute.")
@click.option(
    "--checkpoint-every", type=int, help="Also write a checkpoint every so many steps  [default: only after each epoch]"
)
@click.option("--keep", type=int, help="Checkpoints to keep  [default: 3]")
@config_option
@click.pass_context
def train(context: click.Context, /, network: str | None, output: Path, resume: bool, **options: Any) -> int:
    """Train NETWORK and write configuration, metrics, curves and checkpoints to a folder, the run.

    By default, training uses plain SGD with a learning rate and batch size tuned for larger data sets. All backends
    start from the same weights and see the same batches.
    """
    given = _given(context)
    if resume:
        experiment = _resumed_experiment(output, network, options, given)
        _enter(experiment.backend)
        dataset = _dataset(experiment)
    else:
        if network is None:
            raise ConfigError("name the network to train, as in `rosetta train lenet --backend torch -o runs/lenet`")
        if options["backend"] is None:
            raise ConfigError(f"--backend is missing; choose from {', '.join(PORTS)}")
        for name in ("epochs", "batch_size", "lr", "keep"):
            if options[name] is not None and not options[name] > 0:
                raise ConfigError(f"--{name.replace('_', '-')} (={options[name]:g}) must be more than 0")
        get(network, **parse_config(options["config"]))
        _enter(options["backend"])
        experiment, dataset = _new_experiment(network, options)

    from common.training.loop import train as run

    with training_progress(experiment) as progress:
        outcome = run(output, experiment, dataset, progress, resume)
    if outcome.interrupted:
        click.echo(
            f"rosetta: interrupted after step {outcome.position.step}; saved to {outcome.checkpoint}; resume with "
            f"`rosetta train -o {output} --resume`",
            err=True,
        )
        return 130
    accuracy = f", validation accuracy {outcome.validation.accuracy:.2%}" if outcome.validation else ""
    click.echo(f"{output}: {outcome.position.step} steps{accuracy}; weights: {outcome.checkpoint}/weights.safetensors")
    return 0


def _logits(experiment: Experiment, checkpoint: Checkpoint) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from images to logits that runs a trained network in the experiment's backend."""
    from common.backends import registry

    backend = registry.load(experiment.backend, experiment.device)
    model = backend.build(checkpoint.network, experiment.dtype)
    backend.load(model, checkpoint.weights)
    return lambda images: backend.run(model, images)


_other_backend = click.option("--backend", type=_PORT, help="Backend to compute in  [default: the run's]")


@click.command(
    short_help="Measure the accuracy of a trained network.",
    epilog=example("rosetta evaluate runs/lenet", "rosetta evaluate runs/lenet --backend mxnet -o confusion.png"),
)
@click.argument("run", type=click.Path(path_type=Path))
@_other_backend
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Picture of the confusion matrix  [default: RUN/confusion.png]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(run: Path, backend: str | None, output: Path | None, as_json: bool) -> int:
    """Evaluate a trained RUN on its validation images: accuracy, scores by class, and a confusion matrix."""
    experiment, checkpoint = open_run(run)
    experiment = dataclasses.replace(experiment, backend=backend or experiment.backend)
    _enter(experiment.backend)

    from common.files import check_writable
    from common.training import confusion_matrix, evaluation, plots
    from common.training.loop import validation_batches

    picture = output or run / "confusion.png"
    check_writable(picture)
    dataset = _dataset(experiment)
    batches = validation_batches(experiment, dataset)
    result = evaluation.evaluate(_logits(experiment, checkpoint), batches.epoch(0))
    matrix = confusion_matrix.confusion(result.labels, result.predictions, dataset.classes)
    scores = confusion_matrix.per_class(matrix, dataset.classes)
    title = plots.describe(dataclasses.asdict(experiment))
    confusion_matrix.draw_confusion(matrix, dataset.classes, picture, title)
    if as_json:
        record = {
            "step": checkpoint.position.step,
            "images": len(result.labels),
            "loss": result.loss,
            "accuracy": result.accuracy,
            "classes": [dataclasses.asdict(score) for score in scores],
            "confusion": matrix.tolist(),
        }
        click.echo(json.dumps(record, indent=1))
        return 0
    print_fitted(console(), confusion_matrix.per_class_table(scores))
    click.echo(
        f"{run}, step {checkpoint.position.step}, in {experiment.backend}: accuracy {result.accuracy:.2%}, loss "
        f"{result.loss:.4f}, on {len(result.labels)} images of {dataset.name}"
    )
    click.echo(f"confusion matrix: {picture}")
    return 0


@click.command(
    short_help="Predict the classes of images.",
    epilog=example("rosetta predict runs/lenet seven.png", "rosetta predict runs/lenet *.jpg --top 3 --json"),
)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path(path_type=Path))
@_other_backend
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Classes to list for each image, most likely first.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def predict(run: Path, images: tuple[Path, ...], backend: str | None, top: int, as_json: bool) -> int:
    """Predict the class of each IMAGE, a PNG or JPEG file of any size, with the network of a trained RUN."""
    experiment, checkpoint = open_run(run)
    experiment = dataclasses.replace(experiment, backend=backend or experiment.backend)
    _enter(experiment.backend)

    import numpy as np
    from rich.table import Table

    from common.training.batches import prepare
    from common.training.datasets import open_image

    shape = checkpoint.network.input_shape
    inputs = [prepare(open_image(path), shape, experiment.mean, experiment.std, experiment.dtype) for path in images]
    logits = _logits(experiment, checkpoint)(np.stack(inputs)).astype(np.float64)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    predictions = [
        (path, [(experiment.classes[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:top]])
        for path, row in zip(images, shares, strict=True)
    ]
    if as_json:
        records = [
            {"image": str(path), "classes": [{"class": name, "probability": share} for name, share in best]}
            for path, best in predictions
        ]
        click.echo(json.dumps(records, indent=1))
        return 0
    table = Table("image", "class", "probability", box=None, pad_edge=False)
    for path, best in predictions:
        for i, (name, share) in enumerate(best):
            table.add_row(str(path) if i == 0 else "", name, f"{share:.4f}")
    print_fitted(console(), table)
    return 0


@click.command(
    short_help="Plot the training curves of several runs.",
    epilog=example("rosetta compare runs/torch runs/jax runs/tf runs/mxnet -o curves.png"),
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    default="compare.png",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Picture to write.",
)
def compare(runs: tuple[Path, ...], output: Path) -> int:
    """Plot the training curves of several runs together, and report the step at which they diverge."""
    from common.files import check_writable
    from common.training import plots

    if len(runs) < 2:
        raise ConfigError("give at least two runs to compare")
    check_writable(output)
    divergences = plots.compare(runs, output)
    print_fitted(console(), plots.divergences_table(divergences))
    click.echo(f"picture: {output}")
    return 0
