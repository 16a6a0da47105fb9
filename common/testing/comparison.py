"""Compare two models of any frameworks with parity's checks."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from safetensors import SafetensorError

from common import weights as canonical
from common.backends.launch import MissingBackendError
from common.errors import ConfigError, InputError, WeightsError, unknown
from common.files import map_safetensors, write_safetensors
from common.optimizers import OptimizerConfig
from common.parity.external_model import external_network
from common.parity.results import Cell, Report, Settings
from common.parity.tolerances import Check
from common.reference import Description, ExternalNetwork
from common.testing.cases import CASES, Experiment
from common.testing.ports import ModelProcess, Port, Workers
from common.weights import DTypeName

__all__ = ["assert_same", "compare", "merged", "table"]

_SGD = OptimizerConfig("sgd")


def compare(
    reference: Port,
    candidate: Port,
    x: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    checks: Sequence[Check] | None = None,
    dtypes: Sequence[DTypeName] = ("float64", "float32"),
    weights: Literal["random", "reference"] | Mapping[str, np.ndarray] | Path | str = "random",
    flattened: Mapping[str, Sequence[int]] | None = None,
    optimizer: OptimizerConfig = _SGD,
    learning_rate: float = 0.01,
    seed: int = 0,
    name: str = "",
    workers: Workers | None = None,
) -> Report:
    """Compare a candidate with a reference model on the same weights and batch, tap by tap, and return a report.

    `x`: (N, C, H, W) or (N, features) for every framework; it is transposed for channels-last ones. `labels`: (N,)
    class numbers, needed for gradients and training. `checks`: forward, gradients, training; default: all possible
    ones. A function of arrays cannot train, and can be compared in gradients only as the reference. `weights`: random
    (all tensors, because zeros and ones hide mistakes), the reference's own, a mapping of tensors by shared name in
    torch's layout, or a safetensors file. `flattened`: shared path of a dense layer whose input is a flattened image ->
    (channels, height, width); channels-last frameworks flatten in another order. Dropout is off. `workers`: processes
    to use and keep.

    Both models must have the same tensors by shared name; every layer that both have is compared. The report's
    `exit_status()` is 0 if all cells pass. Raises ConfigError or InputError for wrong arguments, WeightsError if the
    tensors are not the same, BackendError if a model cannot be built.
    """
    x, labels = _checked(x, labels)
    checks = _possible(reference, candidate, checks, labels)
    if not dtypes:
        raise ConfigError("`dtypes` must name one or more")
    for dtype in dtypes:
        if dtype not in get_args(DTypeName):
            raise unknown("dtype", dtype, get_args(DTypeName))
    start = time.perf_counter()
    settings = Settings((), [candidate.backend], checks, dtypes, batch=len(x), seed=seed)
    with contextlib.ExitStack() as stack:
        workers = workers or stack.enter_context(Workers())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rosetta-")))
        models: list[ModelProcess] = []
        absent: dict[str, tuple[str, str]] = {}
        for port, role in ((reference, "reference"), (candidate, "candidate")):
            (folder / role).mkdir()
            model = ModelProcess(port, workers.server(port, role), folder / role, x.shape[1:], flattened or {})
            try:
                model.start()
            except MissingBackendError as error:
                absent[candidate.backend] = ("missing", str(error))
            models.append(model)
        if absent:
            network = ExternalNetwork(name or candidate.model, x.shape[1:], Description({}, {}, (), (), ()))
            return _missing_report(network, settings, absent, time.perf_counter() - start)
        first, second = models
        network = _same_tensors(first, second, name or candidate.model, x.shape[1:])
        _check_flattened(network, flattened or {})
        path = _write_weights(folder / "weights.safetensors", weights, network, first, seed)
        network = _common_taps(first, second, network, path)
        report = Report(dataclasses.replace(settings, networks=[network]))
        report.versions[candidate.backend] = second.server.versions
        experiment = Experiment(path, x, np.zeros(0, np.int64) if labels is None else labels, optimizer, learning_rate)
        for check in checks:
            case = CASES[check](network, report.settings, folder / check, first, experiment)
            case.prepare()
            for dtype in case.dtypes:
                case.add(case.cell(second, candidate.backend, dtype))
            case.finish()
            report.cells += case.cells
    report.seconds = time.perf_counter() - start
    return report


def assert_same(
    reference: Port, candidate: Port, x: np.ndarray, labels: np.ndarray | None = None, **options: Any
) -> None:
    """Raise AssertionError with the report unless two models pass; the arguments are those of `compare`."""
    report = compare(reference, candidate, x, labels, **options)
    if report.exit_status():
        raise AssertionError(table(report))


def merged(reports: Sequence[Report]) -> Report:
    """Return one report of several comparisons."""
    first, *_ = reports
    settings = dataclasses.replace(
        first.settings,
        networks=[network for report in reports for network in report.settings.networks],
        backends=list(dict.fromkeys(name for report in reports for name in report.settings.backends)),
        checks=list(dict.fromkeys(check for report in reports for check in report.settings.checks)),
        dtypes=list(dict.fromkeys(dtype for report in reports for dtype in report.settings.dtypes)),
    )
    total = Report(settings, seconds=sum(report.seconds for report in reports))
    for report in reports:
        total.cells += report.cells
        total.versions |= report.versions
        total.unavailable |= report.unavailable
    return total


def table(report: Report, width: int = 120) -> str:
    """Return a report as text."""
    from rich.console import Console

    from common.parity.report import print_table

    text = io.StringIO()
    print_table(report, Console(file=text, width=width, color_system=None))
    return text.getvalue().rstrip()


def _checked(x: np.ndarray, labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Return batch and labels as float64 and int64. Raises InputError if they are invalid."""
    x = np.asarray(x)
    if x.ndim < 2 or not len(x) or not np.issubdtype(x.dtype, np.floating) or not np.isfinite(x).all():
        raise InputError(
            f"`x` has shape {x.shape} and dtype {x.dtype}; expected a batch (N, C, H, W) or (N, features) of finite "
            "floats, with N of 1 or more"
        )
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != (len(x),) or not np.issubdtype(labels.dtype, np.integer):
            raise InputError(
                f"`labels` has shape {labels.shape} and dtype {labels.dtype}; expected ({len(x)},) of integers"
            )
        labels = labels.astype(np.int64)
    return x.astype(np.float64), labels


def _possible(
    reference: Port, candidate: Port, checks: Sequence[Check] | None, labels: np.ndarray | None
) -> tuple[Check, ...]:
    """Return the requested checks, by default all possible ones. Raises ConfigError for an impossible one."""
    known: tuple[Check, ...] = get_args(Check)
    impossible: dict[Check, str] = {}
    if reference.backend == "numpy":
        impossible["training"] = "a function of arrays cannot train: request forward and gradients"
    if candidate.backend == "numpy":
        forward_only = "a function of arrays has no gradients: make it the reference, or request forward only"
        impossible |= dict.fromkeys(("gradients", "training"), forward_only)
    if labels is None:
        impossible |= dict.fromkeys(
            ("gradients", "training"), "gradients and training need `labels`: class numbers (N,)"
        )
    if checks is None:
        return tuple(check for check in known if check not in impossible)
    if not checks:
        raise ConfigError("`checks` must name one or more")
    for check in checks:
        if check not in known:
            raise unknown("check", check, known)
        if check in impossible:
            raise ConfigError(impossible[check])
    return tuple(checks)


def _missing_report(
    network: ExternalNetwork, settings: Settings, absent: Mapping[str, tuple[str, str]], seconds: float
) -> Report:
    """Return a report whose cells are all missing, because a framework is not installed."""
    report = Report(dataclasses.replace(settings, networks=[network]), unavailable=dict(absent), seconds=seconds)
    for check in settings.checks:
        for dtype in settings.dtypes:
            status, detail = absent[settings.backends[0]]
            report.cells.append(Cell(network.name, check, "", dtype, settings.backends[0], status, detail))
    return report


def _same_tensors(reference: ModelProcess, candidate: ModelProcess, name: str, image: Sequence[int]) -> ExternalNetwork:
    """Return the network of both models. Raises WeightsError if their tensors are not the same."""
    functions = [model for model in (reference, candidate) if model.port.backend == "numpy"]
    if len(functions) == 2:
        raise ConfigError("two functions of arrays have no layers to take weights from; compare one with a framework's")
    of_tensors = candidate if reference in functions else reference
    network = external_network(of_tensors.description, image, name)
    if not functions:
        theirs = external_network(candidate.description, image)
        _check_tensors(reference, candidate, network, theirs)
    return network


def _check_flattened(network: ExternalNetwork, flattened: Mapping[str, Sequence[int]]) -> None:
    """Raise ConfigError if `flattened` names an unknown layer or an image of another size."""
    manifest = network.description.manifest
    dense = {name.removesuffix(".weight"): tensor.shape for name, tensor in manifest.items() if tensor.kind == "dense"}
    for path, image in flattened.items():
        if path not in dense:
            raise unknown("dense layer (in `flattened`)", path, dense)
        if len(image) != 3 or math.prod(image) != dense[path][1]:
            raise ConfigError(
                f"`flattened` says that {path} reads an image {tuple(image)}; expected (channels, height, width) of "
                f"{dense[path][1]} numbers together"
            )


def _common_taps(
    reference: ModelProcess, candidate: ModelProcess, network: ExternalNetwork, weights: Path
) -> ExternalNetwork:
    """Return the network with the taps that both models have, in the reference's order, and select them in both."""
    request = {"network": network.name, "config": {}, "dtype": "float64", "weights": str(weights)}
    taps = {
        model: {call["path"]: tuple(call["shape"]) for call in model.ask("taps", **request)["calls"]}
        for model in (reference, candidate)
    }
    common = {tap: shape for tap, shape in taps[reference].items() if tap in taps[candidate]}
    for model in (reference, candidate):
        model.select_taps(list(common))
    alone = {model: [tap for tap in taps[model] if tap not in common] for model in (reference, candidate)}
    about = f"{candidate.title} against {reference.title}"
    for model, own in alone.items():
        if own:
            about += f"; only {model.title} has {', '.join(own[:8])}{' and more' if len(own) > 8 else ''}"
    old = network.description
    description = Description(old.manifest, {**common, "logits": old.taps["logits"]}, old.calls, (), ())
    return ExternalNetwork(network.name, network.image, description, about)


def _check_tensors(
    reference: ModelProcess, candidate: ModelProcess, network: ExternalNetwork, theirs: ExternalNetwork
) -> None:
    ours, found = network.description.manifest, theirs.description.manifest
    if differences := canonical.misnamed(ours, found):
        raise WeightsError(
            f"{candidate.title}: expected the tensors of {reference.title} (- missing, + unexpected): "
            f"{differences}; map own to shared paths in its `names`"
        )
    for tensor, own in ours.items():
        if found[tensor].shape != own.shape:
            raise WeightsError(
                f"{candidate.title}: {tensor} has shape {found[tensor].shape}, in torch's layout; that of "
                f"{reference.title} has {own.shape}"
            )


def _write_weights(
    path: Path,
    weights: str | Mapping[str, np.ndarray] | Path,
    network: ExternalNetwork,
    reference: ModelProcess,
    seed: int,
) -> Path:
    """Write the weights for both models and return the path."""
    manifest = network.description.manifest
    if weights == "random":
        tensors: Mapping[str, np.ndarray] = canonical.initialize(network, "probe", seed, "float64")
    elif weights == "reference":
        if not reference.initial.exists():
            raise ConfigError("`weights` (='reference'): a function of arrays has none of its own; give them by name")
        tensors = map_safetensors(reference.initial)[1]
    elif isinstance(weights, Mapping):
        tensors = weights
    else:
        try:
            tensors = map_safetensors(Path(weights))[1]
        except (OSError, SafetensorError, ValueError) as error:
            raise WeightsError(
                f"`weights` (={str(weights)!r}): neither random, reference nor a file: {error}"
            ) from None
    if differences := canonical.misnamed(manifest, tensors):
        raise WeightsError(f"`weights`: not the network's (- missing, + unexpected): {differences}")
    for name, tensor in manifest.items():
        if np.shape(tensors[name]) != tensor.shape:
            raise WeightsError(f"`weights`: {name} has shape {np.shape(tensors[name])}, expected {tensor.shape}")
    write_safetensors(path, {name: np.asarray(tensors[name], np.float64) for name in manifest}, durable=False)
    return path
