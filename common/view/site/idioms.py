"""Idioms: one task in each framework, as code of this project that is found by name.

The tests of each port run all of this code.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from common.backends import environments, registry
from common.backends.registry import BACKENDS
from common.view.side_by_side.ast_source import start
from common.view.side_by_side.model import Snippet

__all__ = ["TASKS", "Task", "examples"]

_FORWARD_ONLY = "The reference runs forward only."


@dataclass(frozen=True)
class Task:
    """Something that every framework can do.

    `places` lists the definitions that do it, per implementation, as `file: name`. The file is relative to the package
    of the implementation, or to the project if it starts with a slash. `absent`: why an implementation has none.
    """

    anchor: str
    title: str
    about: str
    places: Mapping[str, Sequence[str]]
    absent: Mapping[str, str] = field(default_factory=dict)


def _ports(*places: str) -> dict[str, Sequence[str]]:
    """Return definitions that have the same names in every port."""
    return {name: places for name in BACKENDS if name != "numpy"}


TASKS: Sequence[Task] = (
    Task(
        "block",
        "Build a block out of layers",
        "Layers are attributes, and the forward pass calls them. Layers of Keras and Gluon infer their input size from "
        "the first input; torch and Flax need it in the constructor. Flax layers also need a random number generator.",
        {name: ["resnet: Residual"] for name in BACKENDS},
    ),
    Task(
        "layer",
        "Define a layer",
        "Batch normalization from scratch: a layer with parameters, with running statistics, and with different "
        "behavior in training and evaluation. Frameworks differ most in how a layer stores and updates the statistics.",
        {
            **_ports("batch_norm: BatchNorm"),
            "mxnet": ["batch_norm: BatchNorm", "batch_norm: _ChooseStatistics"],
            "numpy": ["layers: _BatchNorm"],
        },
    ),
    Task(
        "initialize",
        "Initialize",
        "Reproducible initial weights from a seed. torch and Keras have one random generator per process and MXNet has "
        "one per device. JAX has none: the caller passes a key to the model.",
        {**_ports("backend: Backend.initial"), "numpy": ["/common/weights.py: initialize"]},
    ),
    Task(
        "pad",
        "Pad",
        "The same number of pixels on all four sides; max-pooling pads with minus infinity. torch and Gluon take one "
        "number, and Flax takes pairs. Keras has only 'valid' and 'same'. TensorFlow's operators take any padding, "
        "but their gradients are slow, so the image is padded first where 'valid' and 'same' do not fit.",
        {
            "numpy": ["layers: _pad", "layers: MaxPool2d"],
            "torch": ["heads: Stem"],
            "jax": ["layers: Conv", "layers: MaxPool"],
            "tf": ["layers: _pad", "layers: MaxPool2D"],
            "mxnet": ["heads: Stem"],
        },
    ),
    Task(
        "normalize",
        "Normalize",
        "The framework's own batch normalization with the same semantics in all of them: epsilon, momentum, and the "
        "biased variance.",
        {
            "numpy": ["layers: BATCH_NORM_EPSILON", "layers: BATCH_NORM_MOMENTUM", "layers: BatchNorm2d"],
            "torch": ["layers: _normalize_by_batch", "layers: _BatchNorm", "layers: BatchNorm2d"],
            "jax": ["layers: BatchNorm"],
            "tf": ["layers: BatchNormalization"],
            "mxnet": ["layers: BatchNorm"],
        },
    ),
    Task(
        "modes",
        "Switch between training and evaluation",
        "Modules of torch and Flax store the mode. Keras takes it as an argument of each call. Gluon is in training "
        "mode while autograd records, and updates running statistics in the backward pass.",
        {
            "numpy": ["layers: Module.train"],
            "torch": ["backend: Backend.run"],
            "jax": ["backend: Backend._apply", "backend: _run"],
            "tf": ["backend: Backend.run"],
            "mxnet": ["backend: _run"],
        },
    ),
    Task(
        "gradient",
        "Loss and gradient",
        "torch and Gluon record operations as they run, and TensorFlow records them on a tape. JAX transforms a pure "
        "function into one that computes its gradient.",
        {**_ports("training: gradients"), "jax": ["training: _loss", "training: gradients"]},
        {"numpy": f"{_FORWARD_ONLY} Derivatives are finite differences: common/parity/finite_differences.py."},
    ),
    Task(
        "step",
        "One step of training",
        "Forward, backward, update. JAX's step is a pure function: it returns the new state, and donates the old one.",
        _ports("training: train_step") | {"numpy": ["/common/optimizers.py: update"]},
    ),
    Task(
        "weights",
        "Save and load",
        "Every port uses the same names and layout in files, independent of the framework. No file is pickled.",
        {
            **_ports("weights: to_canonical", "weights: from_canonical", "weights: save_weights"),
            "jax": ["weights: state_to_canonical", "weights: state_from_canonical", "weights: save_weights"],
            "tf": ["weights: values_to_canonical", "weights: assign_canonical", "weights: save_weights"],
            "numpy": ["__init__: weights", "__init__: load", "/common/weights.py: write"],
        },
    ),
    Task(
        "compile",
        "Compile",
        "Code of the tests, which compare the results of the compiled and the uncompiled network.",
        {
            "torch": ["/tests/ports/test_backend.py: Torch.compiled"],
            "jax": ["/tests/ports/test_backend.py: Jax.compiled"],
            "tf": ["/tests/ports/test_backend.py: Tf.compiled"],
            "mxnet": ["/tests/ports/test_backend.py: Mxnet.compiled"],
        },
        {"numpy": "NumPy has no compiler."},
    ),
    Task(
        "device",
        "Run on a device",
        "Choose a device, and turn off reduced-precision float32 (such as TF32) that accelerators use by default.",
        _ports("backend: Backend.__init__"),
        {"numpy": "NumPy runs on the CPU."},
    ),
)


@functools.cache
def _parsed(path: str) -> tuple[ast.Module, list[str]]:
    text = environments.PROJECT.joinpath(path).read_text(encoding="utf-8")
    return ast.parse(text, path), text.splitlines()


def _named(body: Sequence[ast.stmt], name: str) -> ast.stmt:
    """Return the statement that defines a name. Raises KeyError if there is none."""
    for statement in body:
        bound = {getattr(statement, "name", None)}
        if isinstance(statement, ast.Assign):
            bound |= {target.id for target in statement.targets if isinstance(target, ast.Name)}
        if name in bound:
            return statement
    raise KeyError(name)


def _snippet(backend: str, place: str) -> Snippet:
    file, _, name = place.partition(": ")
    package = registry.get(backend).package.replace(".", "/")
    path = file[1:] if file.startswith("/") else f"{package}/{file}.py"
    tree, lines = _parsed(path)
    body = tree.body
    for part in name.split("."):
        statement = _named(body, part)
        body = getattr(statement, "body", [])
    first = start(statement)
    while lines[first - 2].lstrip().startswith("#"):
        first -= 1
    return Snippet(backend, path, first, "\n".join(lines[first - 1 : statement.end_lineno]))


def examples(task: Task) -> dict[str, list[Snippet]]:
    """Return the code of a task in every implementation. Raises KeyError if a definition does not exist."""
    return {backend: [_snippet(backend, place) for place in places] for backend, places in task.places.items()}
