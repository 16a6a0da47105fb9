"""The same act in each framework: where in the project each is done, found by name and shown as it stands there.

Every example is code that the tests of its port run.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from common.backends import environments, registry
from common.backends.registry import BACKENDS
from common.view.side_by_side.model import Snippet

__all__ = ["ACTS", "Act", "examples"]

_FORWARD_ONLY = "The reference runs forward only."


@dataclass(frozen=True)
class Act:
    """Something that is done in every framework.

    `places`: for each implementation the definitions that do it, `file: name` with the file relative to its package, or
    to the project where it begins with a slash. `absent`: why an implementation has none.
    """

    anchor: str
    title: str
    about: str
    places: Mapping[str, Sequence[str]]
    absent: Mapping[str, str] = field(default_factory=dict)


def _ports(*places: str) -> dict[str, Sequence[str]]:
    """Return places that have the same name in every port."""
    return {name: places for name in BACKENDS if name != "numpy"}


ACTS: Sequence[Act] = (
    Act(
        "block",
        "Build a block out of layers",
        "Layers are attributes, and the forward pass calls them. Keras's and Gluon's layers learn the size of what "
        "they are given from the first input, torch's and Flax's are told. Flax is handed its random numbers.",
        {name: ["resnet: Residual"] for name in BACKENDS},
    ),
    Act(
        "layer",
        "Define a layer",
        "One with parameters, with statistics that are not trained, and with two modes: batch normalization from "
        "scratch. Who owns a statistic, and who may change it when, is where the frameworks differ most.",
        {
            **_ports("batch_norm: BatchNorm"),
            "mxnet": ["batch_norm: BatchNorm", "batch_norm: _ChooseStatistics"],
            "numpy": ["layers: _BatchNorm"],
        },
    ),
    Act(
        "initialize",
        "Initialize",
        "Each framework's own way to draw first weights that a seed decides. torch and Keras have one generator for "
        "the process, MXNet one for each device, and JAX none: a model is given its key.",
        {**_ports("backend: Backend.initial"), "numpy": ["/common/weights.py: initialize"]},
    ),
    Act(
        "pad",
        "Pad",
        "By as many pixels on all four sides, with minus infinity around a max-pool. torch and Gluon say it in a "
        "number; Flax takes pairs; Keras knows only 'valid' and 'same', and TensorFlow's numbers below it have slow "
        "gradients: where neither word will do, the image is padded first.",
        {
            "numpy": ["layers: _pad", "layers: MaxPool2d"],
            "torch": ["heads: Stem"],
            "jax": ["layers: Conv", "layers: MaxPool"],
            "tf": ["layers: _pad", "layers: MaxPool2D"],
            "mxnet": ["heads: Stem"],
        },
    ),
    Act(
        "normalize",
        "Normalize",
        "The framework's own batch normalization, made to mean the same in all of them: what epsilon is, how much of a "
        "statistic is kept, and by what a variance is divided.",
        {
            "numpy": ["layers: BATCH_NORM_EPSILON", "layers: BATCH_NORM_MOMENTUM", "layers: BatchNorm2d"],
            "torch": ["layers: _normalize_by_batch", "layers: _BatchNorm", "layers: BatchNorm2d"],
            "jax": ["layers: BatchNorm"],
            "tf": ["layers: BatchNormalization"],
            "mxnet": ["layers: BatchNorm"],
        },
    ),
    Act(
        "modes",
        "Switch between training and evaluation",
        "A torch module and a Flax module remember a mode. Keras is told at each call. Gluon asks whether a gradient "
        "is being recorded, and moves its statistics on the way back.",
        {
            "numpy": ["layers: Module.train"],
            "torch": ["backend: Backend.run"],
            "jax": ["backend: Backend._apply", "backend: _run"],
            "tf": ["backend: Backend.run"],
            "mxnet": ["backend: _run"],
        },
    ),
    Act(
        "gradient",
        "Loss and gradient",
        "torch and Gluon record what was computed, TensorFlow records on a tape, JAX makes another function of the one "
        "that it is given, which may have no side effects.",
        {**_ports("training: gradients"), "jax": ["training: _loss", "training: gradients"]},
        {"numpy": f"{_FORWARD_ONLY} Its derivatives are differences: common/parity/finite_differences.py."},
    ),
    Act(
        "step",
        "One step of training",
        "Forward, backward, update. JAX's is a pure function: what is new comes out of it, and what was given to it is "
        "no more.",
        _ports("training: train_step") | {"numpy": ["/common/optimizers.py: update"]},
    ),
    Act(
        "weights",
        "Save and load",
        "By the same names and in one layout, whatever the framework's own are. No file is ever pickled.",
        {
            **_ports("weights: to_canonical", "weights: from_canonical", "weights: save_weights"),
            "jax": ["weights: state_to_canonical", "weights: state_from_canonical", "weights: save_weights"],
            "tf": ["weights: values_to_canonical", "weights: assign_canonical", "weights: save_weights"],
            "numpy": ["__init__: weights", "__init__: load", "/common/weights.py: write"],
        },
    ),
    Act(
        "compile",
        "Compile",
        "As the tests do it, which hold what comes out to what the network gives uncompiled.",
        {
            "torch": ["/tests/ports/test_backend.py: Torch.compiled"],
            "jax": ["/tests/ports/test_backend.py: Jax.compiled"],
            "tf": ["/tests/ports/test_backend.py: Tf.compiled"],
            "mxnet": ["/tests/ports/test_backend.py: Mxnet.compiled"],
        },
        {"numpy": "NumPy calls what is compiled already."},
    ),
    Act(
        "device",
        "Run on a device",
        "And in the precision that was asked for: what accelerators leave out of float32 by default is turned off.",
        _ports("backend: Backend.__init__"),
        {"numpy": "NumPy runs on the CPU."},
    ),
)


@functools.cache
def _parsed(path: str) -> tuple[ast.Module, list[str]]:
    text = environments.PROJECT.joinpath(path).read_text(encoding="utf-8")
    return ast.parse(text, path), text.splitlines()


def _named(body: Sequence[ast.stmt], name: str) -> ast.stmt:
    """Return the statement among these that binds a name."""
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
        found = _named(body, part)
        body = getattr(found, "body", [])
    first = min([found.lineno, *(each.lineno for each in getattr(found, "decorator_list", ()))])
    while lines[first - 2].lstrip().startswith("#"):
        first -= 1
    return Snippet(backend, path, first, "\n".join(lines[first - 1 : found.end_lineno]))


def examples(act: Act) -> dict[str, list[Snippet]]:
    """Return the code of an act in every implementation that does it. Raises KeyError where it is not there."""
    return {backend: [_snippet(backend, place) for place in places] for backend, places in act.places.items()}
