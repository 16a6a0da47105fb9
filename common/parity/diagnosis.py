"""Explain why a layer differs, by trying known porting mistakes until one gives the same numbers.

Each layer runs in isolation on the reference's input, so that mistakes of earlier layers do not reach its output. Then
the reference's layer makes each known mistake on the same input. The first one that gives the framework's output, up
to rounding, is reported.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from common import reference
from common.catalog import Network
from common.parity.comparison import TapError
from common.reference import layers
from common.reference.layers import Layer, Module, Sequential, Shape

__all__ = ["Finding", "LayerTrace", "common_factor", "describe_statistics", "findings", "merge_findings"]

Guess = tuple[str, np.ndarray]
"""A mistake in words that follow the layer's name, and the output that it would give."""


@dataclass(frozen=True)
class Finding:
    """A tap that is wrong on the reference's input; `guess` is the mistake that explains it, "" if none does."""

    tap: str
    error: TapError
    guess: str = ""

    @property
    def description(self) -> str:
        """The mistake in words that follow the layer's name."""
        return self.guess or "differs; no known mistake reproduces it"


class LayerTrace:
    """Input and output of each layer of the reference on one batch."""

    def __init__(
        self, network: Network, tensors: Mapping[str, np.ndarray], x: np.ndarray, training: bool = False
    ) -> None:
        self.x = x
        self.tensors = tensors
        self.training = training
        self.model: Sequential = reference.build(network)
        self.model(Shape((1, *network.input_shape)))  # tells dense layers the image that was flattened
        reference.load(self.model, tensors)
        self.model.train(training)
        calls = reference.calls(self.model, x)
        reference.load(self.model, tensors)  # training mode has updated the statistics
        self.inputs = {path: given for path, (given, _) in calls.items()}
        self.outputs = {path: output for path, (_, output) in calls.items()}
        taps = reference.describe(network).taps
        self.taps = {tap: self.outputs["" if tap == "logits" else tap] for tap in taps}
        self.modules = {module.path: module for module in self.model.modules()}

    def guesses(self, tap: str, shape: tuple[int, ...]) -> Iterator[Guess]:
        """Iterate over the known mistakes of the layer at a tap, some of them only if they give this shape."""
        module = self.modules.get("" if tap == "logits" else tap)
        if isinstance(module, Layer):
            x = self.inputs[module.path]
            yield from _mistakes(module, x, shape, self.training)
            yield from self._wrong_weights(module, x)
            yield from self._wrong_inputs(module)
        elif module is not None:
            yield from self._wrong_joins(module)

    def _wrong_weights(self, module: Layer, x: np.ndarray) -> Iterator[Guess]:
        own = {leaf: tensor.shape for leaf, tensor in module.tensors().items()}
        for path, other in self.modules.items():
            if other is module or type(other) is not type(module) or not own:
                continue
            if {leaf: tensor.shape for leaf, tensor in other.tensors().items()} == own:
                theirs = {leaf: getattr(other, leaf) for leaf in own}
                yield f"behaves as with the weights of {path}", _run(module, x, **theirs)
        scales = isinstance(module, layers.BatchNorm1d | layers.BatchNorm2d)
        for leaf in own:
            neutral = float(leaf == "running_var" or (scales and leaf == "weight"))
            plain = np.full_like(getattr(module, leaf), neutral)
            yield f"behaves as with a {leaf} of {neutral:g}", _run(module, x, **{leaf: plain})

    def _wrong_inputs(self, module: Layer) -> Iterator[Guess]:
        """Iterate over mistakes in the activation before a layer: missing, superfluous, or another one."""
        x, before = self.inputs[module.path], self._before(module)
        activations: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "ReLU": layers.ReLU().compute,
            "Sigmoid": layers.Sigmoid().compute,
            "tanh": np.tanh,
        }
        if before is None:
            for name, function in activations.items():
                yield f"behaves as with a {name} before it, expected none", _run(module, function(x))
            return
        own, start = type(before).__name__, self.inputs[before.path]
        yield f"behaves as without the {own} before it ({before.path})", _run(module, start)
        for name, function in activations.items():
            if name != own:
                yield f"behaves as with {name} before it, expected {own}", _run(module, function(start))

    def _before(self, module: Layer) -> Module | None:
        """Return the activation whose output is the input of `module`, if any."""
        x = self.inputs[module.path]
        found = None
        for other in self.modules.values():
            if other is module:
                break
            if isinstance(other, layers.ReLU | layers.Sigmoid):
                y = other.compute(self.inputs[other.path])
                if y.shape == x.shape and np.array_equal(y, x):
                    found = other
        return found

    def _wrong_joins(self, block: Module) -> Iterator[Guess]:
        """Iterate over wrong ways in which a block may combine the right outputs of its layers."""
        parts = [child for _, child in block.children()]
        total, x = self.taps.get(block.path), self.inputs[block.path]
        if total is None or total.ndim != 4:
            return
        if isinstance(parts[-1], layers.ReLU):
            yield "behaves as without its last ReLU", self.inputs[parts[-1].path]
        branches = [part for part in parts if not isinstance(part, layers.ReLU)]
        outputs = [self.outputs[part.path] for part in branches]
        for one in outputs:
            if one.shape == total.shape:
                yield "behaves as without the addition to its last layer", np.maximum(one, 0)
                if one.shape == x.shape:
                    yield "behaves as with its own input added", np.maximum(one + x, 0)
        if sum(one.shape[1] for one in outputs) == total.shape[1] and len(branches) <= 5:
            for order in itertools.permutations(range(len(branches))):
                names = ", ".join(branches[i].path.rpartition(".")[2] for i in order)
                yield f"behaves as if joined in the order {names}", np.concatenate([outputs[i] for i in order], 1)
        head, tail = total[:, : x.shape[1]], total[:, x.shape[1] :]
        if tail.size and np.array_equal(head, x):
            yield (
                "behaves as with its input concatenated after the output of its layers, expected before",
                np.concatenate([tail, head], 1),
            )


def _run(module: Layer, x: np.ndarray, **attributes: object) -> np.ndarray:
    """Run a layer with other attributes, and restore all attributes and statistics."""
    before = dict(vars(module))
    vars(module).update(attributes)
    try:
        return module.compute(x)
    finally:
        vars(module).clear()
        vars(module).update(before)


def _mistakes(module: Layer, x: np.ndarray, shape: tuple[int, ...], training: bool) -> Iterator[Guess]:
    match module:
        case layers.Conv2d():
            yield from _convolution_mistakes(module, x, shape)
        case layers.Linear():
            yield from _dense_mistakes(module, x)
        case layers.BatchNorm1d() | layers.BatchNorm2d():
            yield from _batch_norm_mistakes(module, x, training)
        case layers.MaxPool2d() | layers.AvgPool2d():
            yield from _pool_mistakes(module, x, shape)
        case layers.ReLU() | layers.Sigmoid():
            yield f"returns its input unchanged; expected {type(module).__name__}", x
        case layers.GlobalAvgPool2d():
            yield "behaves as a maximum over the image, expected the mean", x.max(axis=(2, 3), keepdims=True)
            yield "behaves as a sum over the image, expected the mean", x.sum(axis=(2, 3), keepdims=True)


def _paddings(kernel: int, image: tuple[int, ...], stride: int, shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Iterate over paddings (before, after), the same on both axes, that give a shape."""
    for before, after in itertools.product(range(kernel + 1), repeat=2):
        if tuple((size + before + after - kernel) // stride + 1 for size in image) == shape:
            yield before, after


def _pair(before: int, after: int) -> str:
    return f"({before}, {after})"


def _convolution_mistakes(module: layers.Conv2d, x: np.ndarray, shape: tuple[int, ...]) -> Iterator[Guess]:
    expected = module.padding
    for stride in (module.stride, *(s for s in (1, 2, 3, 4) if s != module.stride)):
        for before, after in _paddings(module.kernel, x.shape[2:], stride, shape[2:]):
            if (before, after, stride) == (expected, expected, module.stride):
                continue
            padded = np.pad(x, ((0, 0), (0, 0), (before, after), (before, after)))
            changes = [] if stride == module.stride else [f"stride {stride}; expected {module.stride}"]
            if (before, after) != (expected, expected):
                changes.append(f"padding {_pair(before, after)}; expected {_pair(expected, expected)}")
            yield f"behaves as with {', and '.join(changes)}", _run(module, padded, padding=0, stride=stride)
    kernel = module.weight
    turned: dict[str, np.ndarray] = {
        "its kernel's height and width exchanged": kernel.swapaxes(2, 3),
        "its kernel rotated by 180 degrees (convolution, not cross-correlation)": kernel[:, :, ::-1, ::-1],
        "its kernel mirrored from left to right": kernel[:, :, :, ::-1],
        "its kernel mirrored from top to bottom": kernel[:, :, ::-1],
    }
    if kernel.shape[0] == kernel.shape[1]:
        turned["its kernel's input and output channels exchanged"] = kernel.swapaxes(0, 1)
    for what, changed in turned.items():
        yield f"behaves as with {what}", _run(module, x, weight=np.ascontiguousarray(changed))
    yield "behaves as without its bias", _run(module, x) - module.bias[:, None, None]
    if module.groups > 1:
        batch, channels, *image = x.shape
        dealt = x.reshape(batch, channels // module.groups, module.groups, *image).swapaxes(1, 2).reshape(x.shape)
        yield "behaves as if its groups took interleaved channels", _run(module, dealt)


def _dense_mistakes(module: layers.Linear, x: np.ndarray) -> Iterator[Guess]:
    if module.image is not None:
        channels, height, width = module.image
        last = x.reshape(len(x), channels, height, width).transpose(0, 2, 3, 1).reshape(x.shape)
        first = x.reshape(len(x), height, width, channels).transpose(0, 3, 1, 2).reshape(x.shape)
        turned = x.reshape(len(x), channels, height, width).swapaxes(2, 3).reshape(x.shape)
        weights = "its weights are for C, H, W"
        yield f"behaves as if its input were flattened in the order H, W, C; {weights}", _run(module, last)
        yield "behaves as if its weights were for an input flattened in the order H, W, C", _run(module, first)
        yield "behaves as if its input's height and width were exchanged", _run(module, turned)
    if module.in_features == module.out_features:
        yield "behaves as with its weight transposed", x @ module.weight + module.bias
    yield "behaves as without its bias", x @ module.weight.T


_EPSILONS = (1e-3, 1e-5, 1e-4, 1e-6, 1e-7, 1e-8, 1e-12, 0.0, 2e-5)


def _batch_norm_mistakes(module: Layer, x: np.ndarray, training: bool) -> Iterator[Guess]:
    axes = (0, *range(2, x.ndim))
    across = (slice(None),) + (None,) * (x.ndim - 2)
    own, batch = (module.running_mean, module.running_var), (x.mean(axis=axes), x.var(axis=axes))  # type: ignore[attr-defined]
    weight, bias, expected = module.weight, module.bias, module.epsilon  # type: ignore[attr-defined]

    def normalized(
        statistics: tuple[np.ndarray, np.ndarray], epsilon: float = expected, scaled: bool = True
    ) -> np.ndarray:
        mean, variance = statistics
        y = (x - mean[across]) / np.sqrt(variance + epsilon)[across]
        return y * weight[across] + bias[across] if scaled else y

    right, other = (batch, own) if training else (own, batch)
    for epsilon in _EPSILONS:
        if epsilon != expected:
            yield f"behaves as with an epsilon of {epsilon:g}; expected {expected:g}", normalized(right, epsilon)
    if training:
        yield "behaves as in evaluation: normalized by the running statistics, expected the batch's", normalized(other)
    else:
        yield (
            "behaves as in training: normalized by the batch's statistics, expected the running ones",
            normalized(other),
        )
    count = x.size // x.shape[1]
    if count > 1:
        unbiased = (right[0], right[1] * count / (count - 1))
        yield "behaves as with a variance divided by n - 1; expected n", normalized(unbiased)
    yield "behaves as without its scale and shift", normalized(right, scaled=False)
    mean, variance = right
    squared = (x - mean[across]) / (variance + expected)[across]
    yield "behaves as if divided by the variance, not by its square root", squared * weight[across] + bias[across]
    outside = (x - mean[across]) / (np.sqrt(variance) + expected)[across]
    yield "behaves as with epsilon added outside the square root, not inside", outside * weight[across] + bias[across]


def _pool_mistakes(
    module: layers.MaxPool2d | layers.AvgPool2d, x: np.ndarray, shape: tuple[int, ...]
) -> Iterator[Guess]:
    own, largest = module.padding, isinstance(module, layers.MaxPool2d)
    for before, after in _paddings(module.kernel, x.shape[2:], module.stride, shape[2:]):
        for value in (-np.inf, 0.0) if largest else (0.0,):
            if (before, after) == (own, own) and value != 0.0:
                continue
            edges = (before, after)
            padded = np.pad(x, ((0, 0), (0, 0), edges, edges), constant_values=value)
            change = f"padding {_pair(before, after)}; expected {_pair(own, own)}"
            if (before, after) == (own, own):
                change = "zeros around the image; expected minus infinity"
            elif largest and value == 0.0:
                change += ", and of zeros"
            yield f"behaves as with {change}", _run(module, padded, padding=0)
    if not own:
        other = (layers.AvgPool2d if largest else layers.MaxPool2d)(module.kernel, module.stride)
        name = "an average" if largest else "a maximum"
        yield f"behaves as {name} over its windows", other.compute(x)
    for kernel, stride in itertools.product(range(1, 6), range(1, 5)):
        for pad in range(kernel) if (kernel, stride) != (module.kernel, module.stride) else ():
            if tuple((size + 2 * pad - kernel) // stride + 1 for size in x.shape[2:]) == shape[2:]:
                edges = (pad, pad)
                padded = np.pad(x, ((0, 0), (0, 0), edges, edges), constant_values=-np.inf if largest else 0.0)
                change = f"windows of {kernel} every {stride} and padding {pad}"
                expected = f"{module.kernel}, {module.stride} and {own}"
                windows = _run(module, padded, kernel=kernel, stride=stride, padding=0)
                yield f"behaves as with {change}; expected {expected}", windows


_MAX_NAMED = 4
"""The number of further layers that a merged finding names."""


def merge_findings(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Return (layer, description) pairs as sentences, one per description: "bn1 differs (also bn2, bn3)"."""
    by_description: dict[str, list[str]] = {}
    for name, description in pairs:
        by_description.setdefault(description, []).append(name)
    sentences = []
    for description, (first, *others) in by_description.items():
        more = f", and {len(others) - _MAX_NAMED} more" if len(others) > _MAX_NAMED else ""
        also = f" (also {', '.join(others[:_MAX_NAMED])}{more})" if others else ""
        sentences.append(f"{first} {description}{also}")
    return sentences


def findings(layer_trace: LayerTrace, isolated: Mapping[str, np.ndarray], errors: Iterable[TapError]) -> list[Finding]:
    """Return the wrong taps of a trace in isolation, in network order, each with its explanation."""
    result = []
    for error in errors:
        if error.agrees:
            continue
        comparable = error.tap in isolated and error.tap in layer_trace.taps
        guess = _explain(layer_trace, error, isolated[error.tap]) if comparable else error.note
        result.append(Finding(error.tap, error, guess))
    return result


def _explain(layer_trace: LayerTrace, error: TapError, output: np.ndarray) -> str:
    """Return the first known mistake that gives this output up to rounding, else a likeness, else ""."""
    if not np.isfinite(output).all():
        return "gives values that are not finite"
    for what, guess in layer_trace.guesses(error.tap, output.shape):
        if guess.shape == output.shape and np.isfinite(guess).all():
            scale = float(np.max(np.abs(guess))) or 1.0
            if float(np.max(np.abs(guess - output))) <= error.limit.tolerance * scale:
                return what
    right = layer_trace.taps[error.tap]
    if output.shape != right.shape:
        return f"gives shape {output.shape}, expected {right.shape}"
    return _resemblance(right, output, error)


def _resemblance(right: np.ndarray, output: np.ndarray, error: TapError) -> str:
    """Return how the output resembles the right one, or ""."""
    if right.ndim == 4 and _channels_permuted(right, output, error.limit.tolerance):
        return "has the right channels in another order"
    factor = common_factor({"": output}, {"": right}, error.limit.tolerance)
    if factor is not None:
        return f"is {factor:g} times its expected size"
    if output.dtype == np.float64 and error.error < 1e-5:
        return "has the precision of float32, expected float64"
    if output.dtype == np.float64 and error.error < 1e-2 and _relative_errors_small(right, output):
        return "has the precision of TF32 or bfloat16, expected float64"
    return ""


def _relative_errors_small(right: np.ndarray, output: np.ndarray) -> bool:
    """Return whether every entry has a small relative error, as in a number format of lower precision."""
    relative = np.abs(output - right) / (np.abs(right) + 1e-3 * np.max(np.abs(right)))
    return bool(np.max(relative) < 2e-2)


def _channels_permuted(right: np.ndarray, output: np.ndarray, tolerance: float) -> bool:
    def ranked(array: np.ndarray) -> np.ndarray:
        channels = array.swapaxes(0, 1).reshape(array.shape[1], -1)
        return channels[np.lexsort(np.round(channels / (np.max(np.abs(right)) or 1.0), 6).T[::-1])]

    return bool(np.max(np.abs(ranked(right) - ranked(output))) <= tolerance * np.max(np.abs(right)))


def common_factor(found: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray], tolerance: float) -> float | None:
    """Return the factor other than 1 by which all arrays differ from the right ones, or None."""
    top = sum(float(np.vdot(found[name], values)) for name, values in right.items())
    bottom = sum(float(np.vdot(values, values)) for values in right.values())
    if not bottom:
        return None
    factor = top / bottom
    if not math.isfinite(factor) or abs(factor - 1) < 1e-6 or abs(factor) < 1e-6:
        return None
    for name, values in right.items():
        scale = float(np.max(np.abs(values))) or 1.0
        if float(np.max(np.abs(found[name] - factor * values))) > max(tolerance, 1e-9) * scale * abs(factor):
            return None
    return float(f"{factor:.6g}")


def describe_statistics(
    layer_trace: LayerTrace, found: Mapping[str, np.ndarray], wrong: Iterable[str], tolerance: float
) -> dict[str, str]:
    """Return explanations of wrongly updated running statistics by name, for those that a known mistake explains."""
    descriptions = {}
    for name in wrong:
        for what, guess in _statistics(layer_trace, name):
            if np.max(np.abs(guess - found[name])) <= tolerance * np.max(np.abs(guess)):
                descriptions[name] = what
                break
    return descriptions


def _statistics(layer_trace: LayerTrace, name: str) -> Iterator[Guess]:
    """Iterate over known mistakes in the update of a running statistic, with the values they give."""
    path, _, leaf = name.rpartition(".")
    module, x, old = layer_trace.modules[path], layer_trace.inputs[path], layer_trace.tensors[name]
    keep: float = module.momentum  # type: ignore[attr-defined]
    unbiased: bool = module.unbiased  # type: ignore[attr-defined]
    axes, count = (0, *range(2, x.ndim)), x.size // x.shape[1]
    variance = {True: x.var(axis=axes, ddof=int(count > 1)), False: x.var(axis=axes)}
    batch = x.mean(axis=axes) if leaf == "running_mean" else variance[unbiased]
    yield "is not updated in training", old
    others = [kept for kept in (0.9, 0.99, 0.999, 1 - keep, 0.95, 0.0) if kept != keep]
    for kept in others:
        yield f"keeps {kept:g} of the old value; expected {keep:g}", kept * old + (1 - kept) * batch
    if leaf == "running_var" and count > 1:
        divisors = ("n", "n - 1") if unbiased else ("n - 1", "n")
        toward = f"moves toward a variance divided by {divisors[0]}; expected {divisors[1]}"
        yield toward, keep * old + (1 - keep) * variance[not unbiased]
        for kept in others:
            both = f"{toward}; and keeps {kept:g} of the old value; expected {keep:g}"
            yield both, kept * old + (1 - kept) * variance[not unbiased]
