"""Pitfalls where frameworks silently differ, as edits that put the mistake into a port.

Each keeps the shapes and changes the numbers, some of them only in training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from common.backends import registry
from common.catalog import Network, get
from common.mutants.generic import MODULES, Mutant
from common.parity.patched_import import Edit

__all__ = ["PITFALLS", "Pitfall", "pitfall_mutants"]

Edits = Sequence[tuple[str, str, str]]
"""(file of the port or module of `common`, original text, text with the mistake)"""


@dataclass(frozen=True)
class Pitfall:
    """A mistake, and the edits that put it into each port that can have it.

    `networks`: those that show it; `layers`: a regular expression of the taps where it is first seen. `nowhere`: why no
    port can have it or no network shows it, and which test covers it instead.
    """

    number: int
    name: str
    edits: Mapping[str, Edits] = field(default_factory=dict)
    networks: Sequence[Network] = ()
    layers: str = ""
    nowhere: str = ""


def _everywhere(*edits: tuple[str, str, str]) -> dict[str, Edits]:
    return dict.fromkeys(("torch", "jax", "tf", "mxnet"), edits)


_EVEN = (get("resnet", arch=[[1, 8], [1, 16]], input_size=[32, 48]),)
_NORMALIZED = (get("bn_lenet"), *MODULES["resnet"])
_LENET = (get("lenet"),)

PITFALLS: Sequence[Pitfall] = (
    Pitfall(
        1,
        "'same' padding of a convolution is uneven where it strides",
        {
            "jax": [
                (
                    "layers",
                    "            padding=padding,\n            feature_group_count",
                    '            padding="SAME" if padding else 0,\n            feature_group_count',
                )
            ],
            "tf": [
                (
                    "layers",
                    "_pad(inputs, self.pixels, window, self.strides)",
                    '(inputs, "SAME" if self.pixels else "VALID")',
                )
            ],
        },
        _EVEN,
        r"stem\.conv",
    ),
    Pitfall(
        2,
        "'same' padding of a max-pool is uneven where it strides",
        {
            "jax": [("layers", "padding=(sides, sides))", 'padding="SAME" if self.padding else "VALID")')],
            "tf": [
                (
                    "layers",
                    "_pad(inputs, self.pixels, self.pool_size, self.strides, value)",
                    '(inputs, "SAME" if self.pixels else "VALID")',
                )
            ],
        },
        _EVEN,
        r"stem\.pool",
    ),
    Pitfall(
        3,
        "a max-pool padded by zeros",
        {
            "jax": [
                (
                    "layers",
                    "nnx.max_pool(x, (self.window, self.window), (self.stride, self.stride), padding=(sides, sides))",
                    "nnx.max_pool(jnp.pad(x, ((0, 0), sides, sides, (0, 0))), (self.window, self.window), "
                    "(self.stride, self.stride))",
                )
            ],
            "tf": [
                (
                    "layers",
                    "_pad(inputs, self.pixels, self.pool_size, self.strides, value)",
                    '(tf.pad(inputs, [[0, 0], [self.pixels] * 2, [self.pixels] * 2, [0, 0]]), "VALID")',
                )
            ],
        },
        _EVEN,
        nowhere="every padded max-pool of the catalog follows a ReLU, where zero never wins; a test uses "
        "negative inputs",
    ),
    Pitfall(
        4,
        "the first convolution of AlexNet without padding",
        {
            "torch": [("alexnet", "stride=4, padding=1", "stride=4, padding=0")],
            "jax": [("alexnet", "stride=4, padding=1", "stride=4, padding=0")],
            "tf": [("alexnet", "strides=4, padding=1", "strides=4, padding=0")],
            "mxnet": [("alexnet", "strides=4, padding=1", "strides=4, padding=0")],
        },
        (get("alexnet", input_size=[96, 76]),),
        r"conv1",
    ),
    Pitfall(
        5,
        "batch normalization with an epsilon of 1e-3",
        _everywhere(("layers", "BATCH_NORM_EPSILON = 1e-5", "BATCH_NORM_EPSILON = 1e-3")),
        _NORMALIZED,
        r"(.*\.)?bn\d*",
    ),
    Pitfall(
        6,
        "running statistics that keep 0.99 of the old value",
        _everywhere(("layers", "BATCH_NORM_MOMENTUM = 0.9", "BATCH_NORM_MOMENTUM = 0.99")),
        _NORMALIZED,
        r"(.*\.)?bn\d*",
    ),
    Pitfall(
        7,
        "a running variance divided by n - 1",
        {"torch": [("layers", "alpha=(count - 1) / count", "alpha=1")]},
        _NORMALIZED,
        r"(.*\.)?bn\d*",
    ),
    Pitfall(
        8,
        "running statistics that move in the backward pass",
        nowhere="this is how MXNet works: without a backward pass, its statistics do not change. The gradients check "
        "runs backward and compares the statistics after it",
    ),
    Pitfall(
        9,
        "a variance computed as E[x^2] - E[x]^2",
        {"jax": [("layers", "use_fast_variance=False", "use_fast_variance=True")]},
        _NORMALIZED,
        nowhere="in float64 the error is too small; a test uses float32 images with a large mean",
    ),
    Pitfall(
        10,
        "an image flattened in the order H, W, C before weights for C, H, W",
        dict.fromkeys(
            ("jax", "tf"),
            (
                (
                    "common.layout",
                    "        if tensor.image is not None:\n            outputs = array.shape[0]",
                    "        if False:\n            outputs = array.shape[0]",
                ),
            ),
        ),
        _LENET,
        r"fc1",
    ),
    Pitfall(
        11,
        "a kernel whose height and width are exchanged",
        {
            "torch": [
                (
                    "weights",
                    "torch.from_numpy(tensors[name])",
                    "torch.from_numpy(tensors[name]).mT if tensor.ndim == 4 else torch.from_numpy(tensors[name])",
                )
            ],
            "jax": [("common.layout", "array.transpose(2, 3, 1, 0)\n    if", "array.transpose(3, 2, 1, 0)\n    if")],
            "tf": [("common.layout", "array.transpose(2, 3, 1, 0)\n    if", "array.transpose(3, 2, 1, 0)\n    if")],
            "mxnet": [
                (
                    "weights",
                    "_as_mxnet(tensors[name], p.dtype)",
                    "_as_mxnet(tensors[name].swapaxes(-1, -2) if tensors[name].ndim == 4 else tensors[name], p.dtype)",
                )
            ],
        },
        (*_LENET, *MODULES["resnet"]),
        r"conv1|stem\.conv",
    ),
    Pitfall(
        12,
        "the width of a group taken for the number of groups",
        {
            "torch": [("resnext", "groups=width // group_width", "groups=group_width")],
            "jax": [("resnext", "groups = width // group_width", "groups = group_width")],
            "tf": [("resnext", "groups=width // group_width", "groups=group_width")],
            "mxnet": [("resnext", "groups=width // group_width", "groups=group_width")],
        },
        MODULES["resnext"],
        r"stage1\.block1\.conv2",
    ),
    Pitfall(
        13,
        "a stage's arguments one place off",
        {
            "torch": [
                (
                    "anynet",
                    "(channels, depth, stage_channels, group_width,",
                    "(channels, depth, stage_channels, stage_channels,",
                )
            ],
            "jax": [
                (
                    "anynet",
                    "(channels, depth, stage_channels, group_width,",
                    "(channels, depth, stage_channels, stage_channels,",
                )
            ],
            "tf": [("anynet", "ResNeXtStage(depth, channels, group_width,", "ResNeXtStage(depth, channels, channels,")],
            "mxnet": [
                ("anynet", "ResNeXtStage(depth, channels, group_width,", "ResNeXtStage(depth, channels, channels,")
            ],
        },
        MODULES["anynet"],
        r"stage1\.block1\.conv2",
    ),
    Pitfall(
        14,
        "DenseNet's channels not added up over its stages",
        _everywhere(("densenet", "channels += num_layers * growth_rate", "channels = num_layers * growth_rate")),
        MODULES["densenet"],
        r"transition\d.*|stage2.*",
    ),
    Pitfall(
        15,
        "convolutions that pad by default",
        {
            "jax": [("layers", "            padding=padding,\n", "            padding=padding or kernel_size // 2,\n")],
            "tf": [
                (
                    "layers",
                    "_pad(inputs, self.pixels, window, self.strides)",
                    '_pad(inputs, self.pixels, window, self.strides) if self.pixels else (inputs, "SAME")',
                )
            ],
        },
        (get("bn_lenet"),),
        r"conv1",
    ),
    Pitfall(
        16,
        "a global average written as a window of fixed size",
        {
            "jax": [
                (
                    "layers",
                    "jnp.mean(x, axis=(1, 2), keepdims=True)",
                    "jnp.mean(x[:, :3, :3], axis=(1, 2), keepdims=True)",
                )
            ]
        },
        (get("resnet", arch=[[1, 8], [1, 16]], input_size=[57, 83]),),
        r"head\.pool",
    ),
    Pitfall(
        17,
        "a training loop that runs the network as in evaluation",
        {
            "torch": [
                (
                    "training",
                    "F.cross_entropy(model.train()(images), labels)",
                    "F.cross_entropy(model.eval()(images), labels)",
                ),
                ("training", "train_step(self.model.train(), ", "train_step(self.model.eval(), "),
            ],
            "tf": [
                ("training", "_loss(model(images, training=True), labels)", "_loss(model(images), labels)"),
                ("training", "logits = model(images, training=True)", "logits = model(images)"),
            ],
        },
        (get("bn_lenet"),),
    ),
    Pitfall(
        18,
        "an initializer that skips layers whose shape is not known yet",
        nowhere="training starts from NumPy's weights, which are checked by name and shape",
    ),
    Pitfall(
        19,
        "each framework's own initializers",
        nowhere="training starts from the same weights in every framework unless `--init native` is given",
    ),
    Pitfall(
        20,
        "examples shuffled after they were batched",
        nowhere="one module makes the batches for all ports, and a test checks that every epoch has other batches",
    ),
    Pitfall(
        21,
        "a loss summed over the batch, or its gradient divided once more",
        {
            "torch": [
                (
                    "training",
                    "F.cross_entropy(model.train()(images), labels)",
                    'F.cross_entropy(model.train()(images), labels, reduction="sum")',
                )
            ],
            "jax": [("training", "(logits, labels).mean()", "(logits, labels).sum()")],
            "tf": [("training", "tf.reduce_mean(tf.nn.sparse", "tf.reduce_sum(tf.nn.sparse")],
            "mxnet": [("training", "_cross_entropy(logits, labels).mean()", "_cross_entropy(logits, labels).sum()")],
        },
        _LENET,
    ),
    Pitfall(
        22,
        "coupled weight decay instead of decoupled, or epsilon inside the square root",
        {
            "torch": [
                (
                    "training",
                    'torch.optim.Adam if config.name == "adam" else torch.optim.AdamW',
                    'torch.optim.AdamW if config.name == "adam" else torch.optim.Adam',
                )
            ],
            "jax": [("training", "config.beta2, config.epsilon)", "config.beta2, 0.0, config.epsilon)")],
            "tf": [
                (
                    "training",
                    "(tf.sqrt(moved_square / square_share) + self.config.epsilon)",
                    "tf.sqrt(moved_square / square_share + self.config.epsilon)",
                )
            ],
            "mxnet": [("training", 'if self.wd and config.name != "adamw":', "if self.wd:")],
        },
        _LENET,
    ),
    Pitfall(
        23,
        "TF32 and bfloat16 in matrix products",
        nowhere="only accelerators have it; each Backend turns it off, and float64 is not affected",
    ),
    Pitfall(
        24,
        "test weights of zeros and ones",
        nowhere="a mistake of a test: parity's weights are all random, and the mutants that zero one show that each "
        "matters",
    ),
    Pitfall(25, "taps that are all zero", nowhere="a cell with a tap that does not vary is vacuous"),
    Pitfall(
        26,
        "comparing after sorting, by mean, or the predicted class alone",
        nowhere="parity compares every entry; the mutants that exchange weights show it",
    ),
    Pitfall(27, "a missing framework counted as a pass", nowhere="it is `missing`, and the exit status is 3"),
    Pitfall(
        28,
        "float32 gradients where a ReLU or a maximum switches",
        nowhere="float64 decides; in float32 the tolerance includes the effect of rounding the inputs",
    ),
)
"""In the order of docs/pitfalls.md."""


def pitfall_mutants(backend: str) -> Iterator[Mutant]:
    """Iterate over the pitfalls that a port can have, as mutants."""
    package = registry.get(backend).package
    for pitfall in PITFALLS:
        if backend in pitfall.edits:
            edits = tuple(
                Edit(file if "." in file else f"{package}.{file}", old, new)
                for file, old, new in pitfall.edits[backend]
            )
            name = f"{pitfall.number:2} {pitfall.name}"
            yield Mutant(
                backend, "pitfall", name, pitfall.networks, edits, pattern=pitfall.layers, reason=pitfall.nowhere
            )
