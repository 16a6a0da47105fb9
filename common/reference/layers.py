"""Layers of the reference in NumPy: modules with named children, their mathematics, shapes and costs.

Every numeric choice of the reference is in this file. A layer is called on an array, (N, C, H, W) or (N, features), or
on a `Shape`. On a `Shape` it computes only the shape of its output, so the names, shapes and costs of a network come
from the same definition as its numbers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from common.catalog import Network
from common.errors import ConfigError, InputError
from common.layout import Tensor

__all__ = [
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv2d",
    "Dropout",
    "Field",
    "Flatten",
    "GlobalAvgPool2d",
    "Layer",
    "Linear",
    "MaxPool2d",
    "Module",
    "ReLU",
    "Sequential",
    "Shape",
    "Sigmoid",
    "Value",
    "add",
    "concatenate",
    "output_size",
]

BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9
"""Fraction of the old running statistic kept at each training step."""


class Field(NamedTuple):
    """A receptive field along one axis: the pixels of the network's input that an activation depends on.

    Position i depends on the `size` pixels that begin at `start + i * stride`; pixels outside the image are padding.
    `stride` is 0 after a layer that reads all positions, since only one position is left.
    """

    size: int = 1
    stride: int = 1
    start: int = 0

    def window(self, kernel: int, stride: int, padding: int) -> Field:
        """Return the field after a window that slides over these positions."""
        return Field(self.size + (kernel - 1) * self.stride, self.stride * stride, self.start - padding * self.stride)

    def across(self, positions: int) -> Field:
        """Return the field after a layer that reads `positions` positions at once."""
        return Field(self.size + (positions - 1) * self.stride, 0, self.start)

    def union(self, other: Field) -> Field:
        """Return the field of an output that depends on both fields; they have the same stride."""
        start = min(self.start, other.start)
        return Field(max(self.start + self.size, other.start + other.size) - start, self.stride, start)


Fields = tuple[Field, Field]
"""Along height and width."""


class Shape(tuple[int, ...]):
    """The shape of an activation, used in its place to trace a network.

    `image` is the (C, H, W) of an activation before it was flattened. `fields` are its receptive fields along height
    and width. `joined_by` is the name of the function, `add` or `concatenate`, that joined the activations `parts`.
    """

    image: tuple[int, int, int] | None = None
    fields: Fields = (Field(), Field())
    joined_by: Literal["", "add", "concatenate"] = ""
    parts: tuple[Shape, ...] = ()


Value = TypeVar("Value", np.ndarray, Shape)
Observer = Callable[["Module", "np.ndarray | Shape", "np.ndarray | Shape"], "np.ndarray | Shape | None"]


class Module:
    """Base class: a function of one activation, with children in order of assignment."""

    path = ""
    training = False
    network: Network
    """The catalog entry of a whole network; other modules have none."""
    summary_expands: ClassVar[tuple[str, ...]] = ()
    """Children that a summary of the network expands into one row for each of their own children."""
    summary_ends: ClassVar[tuple[str, ...]] = ()
    """Paths of the last layers of the rows in a summary; empty for the default grouping."""
    _observer: Observer | None = None

    def __call__(self, x: Value) -> Value:
        """Compute the output for an array, or only its shape for a Shape."""
        y = self.forward(x)
        replacement = None if self._observer is None else self._observer(self, x, y)
        return y if replacement is None else replacement  # type: ignore[return-value]  # of the same type as y

    def forward(self, x: Value) -> Value:
        """Compute the output; subclasses implement it."""
        raise NotImplementedError

    def add_module(self, name: str, module: Module) -> None:
        """Add a child whose name is computed, as attribute `name`."""
        setattr(self, name, module)

    def children(self) -> Iterator[tuple[str, Module]]:
        """Iterate over (name, child) in order."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def modules(self) -> Iterator[Module]:
        """Iterate over this module and its descendants, depth first."""
        yield self
        for _, child in self.children():
            yield from child.modules()

    def name_paths(self, path: str = "") -> None:
        """Set the attribute path of this module and its descendants."""
        self.path = path
        for name, child in self.children():
            child.name_paths(f"{path}.{name}" if path else name)

    def observe(self, observer: Observer | None) -> None:
        """Call `observer(module, input, output)` after each call of this module and its descendants.

        A value that it returns, unless None, replaces the output.
        """
        for module in self.modules():
            module._observer = observer

    def train(self, training: bool = True) -> None:
        """Set training or evaluation mode, which batch normalization and dropout depend on."""
        for module in self.modules():
            module.training = training


class Sequential(Module):
    """Runs its children one after another."""

    def forward(self, x: Value) -> Value:
        """Run the children in order."""
        for _, child in self.children():
            x = child(x)
        return x

    def features(self, in_channels: int, input_size: tuple[int, int]) -> int:
        """Return the number of values per image after the children so far, for an input of (height, width) pixels."""
        self.name_paths()
        return math.prod(self(Shape((1, in_channels, *input_size))))


class Layer(Module):
    """A module without children: `infer` returns the output's shape, `compute` its values."""

    def forward(self, x: Value) -> Value:
        """Check the input's shape, then return the output for an array, or its shape for a `Shape`."""
        if not isinstance(x, Shape):
            self.infer(Shape(x.shape))
            return self.compute(x)
        shape = self.infer(x)
        shape.fields = self.fields(x)
        return shape

    def infer(self, shape: Shape) -> Shape:
        """Return the output's shape, by default the input's."""
        return shape

    def fields(self, shape: Shape) -> Fields:
        """Return the output's receptive fields, by default the input's."""
        return shape.fields

    def compute(self, x: np.ndarray) -> np.ndarray:
        """Return the output."""
        raise NotImplementedError

    def tensors(self) -> dict[str, Tensor]:
        """Return this layer's weights: leaf name -> shape and kind, in canonical order."""
        return {}

    def multiply_accumulates(self, output: Shape) -> int:
        """Return the multiply-accumulates of a convolution or dense layer for an output; 0 for other layers."""
        return 0

    def _check_rank(self, shape: Shape, rank: int) -> None:
        if len(shape) != rank:
            axes = "(N, C, H, W)" if rank == 4 else "(N, features)"
            raise InputError(f"{self.path or type(self).__name__} expects {axes}; the input has shape {tuple(shape)}")


class WeightedLayer(Layer):
    """A layer with weights: attributes named like the last part of their canonical names, set when loaded."""

    weight: np.ndarray
    bias: np.ndarray


def output_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Return the number of windows along one axis: floor((size + 2 padding - kernel) / stride) + 1, or 0 if none."""
    return max((size + 2 * padding - kernel) // stride + 1, 0)


def _window_fields(shape: Shape, kernel: int, stride: int, padding: int) -> Fields:
    vertical, horizontal = shape.fields
    return vertical.window(kernel, stride, padding), horizontal.window(kernel, stride, padding)


def _fields_across(shape: Shape, height: int, width: int) -> Fields:
    vertical, horizontal = shape.fields
    return vertical.across(height), horizontal.across(width)


def _windows(x: np.ndarray, kernel: int, stride: int) -> np.ndarray:
    """Return a view of the windows: (N, C, H, W) -> (N, C, H', W', kernel, kernel)."""
    return sliding_window_view(x, (kernel, kernel), axis=(2, 3))[:, :, ::stride, ::stride]


def _pad(x: np.ndarray, padding: int, value: float) -> np.ndarray:
    if padding == 0:
        return x
    sides = (padding, padding)
    return np.pad(x, ((0, 0), (0, 0), sides, sides), constant_values=value)


class Conv2d(WeightedLayer):
    """Cross-correlation plus bias, symmetrically padded with zeros.

    (N, C, H, W) -> (N, O, H', W'). With `groups`, each group of outputs depends on one group of input channels only.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, padding: int = 0, groups: int = 1
    ) -> None:
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel, self.stride, self.padding, self.groups = kernel, stride, padding, groups

    def tensors(self) -> dict[str, Tensor]:
        kernel = (self.out_channels, self.in_channels // self.groups, self.kernel, self.kernel)
        return {"weight": Tensor(kernel, "conv"), "bias": Tensor((self.out_channels,), "vector")}

    def infer(self, shape: Shape) -> Shape:
        self._check_rank(shape, 4)
        batch, channels, *image = shape
        if channels != self.in_channels:
            raise InputError(f"{self.path or 'Conv2d'} expects {self.in_channels} channels; the input has {channels}")
        return Shape((batch, self.out_channels, *_image_size(self, image, self.kernel, self.stride, self.padding)))

    def fields(self, shape: Shape) -> Fields:
        return _window_fields(shape, self.kernel, self.stride, self.padding)

    def compute(self, x: np.ndarray) -> np.ndarray:
        # One matrix product per example: the weight rows times the example's windows, laid out as columns (im2col).
        batch, _, height, width = self.infer(Shape(x.shape))
        kernels = self.weight.reshape(self.groups, self.out_channels // self.groups, -1)
        windows = _windows(_pad(x, self.padding, 0.0), self.kernel, self.stride)
        output = np.empty((batch, self.groups, kernels.shape[1], height * width), dtype=x.dtype)
        for example, result in zip(windows, output, strict=True):
            columns = example.transpose(0, 3, 4, 1, 2).reshape(self.groups, kernels.shape[2], height * width)
            np.matmul(kernels, columns, out=result)
        output = output.reshape(batch, self.out_channels, height, width)
        output += self.bias[:, None, None]
        return output

    def multiply_accumulates(self, output: Shape) -> int:
        return math.prod(output) * (self.in_channels // self.groups) * self.kernel**2


class Linear(WeightedLayer):
    """x W^T + b: (N, in) -> (N, out)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        self.in_features, self.out_features = in_features, out_features
        self.image: tuple[int, int, int] | None = None

    def tensors(self) -> dict[str, Tensor]:
        shape = (self.out_features, self.in_features)
        return {"weight": Tensor(shape, "dense", self.image), "bias": Tensor((self.out_features,), "vector")}

    def infer(self, shape: Shape) -> Shape:
        self._check_rank(shape, 2)
        if shape[1] != self.in_features:
            raise InputError(f"{self.path or 'Linear'} expects {self.in_features} features; the input has {shape[1]}")
        self.image = shape.image or self.image
        return Shape((shape[0], self.out_features))

    def fields(self, shape: Shape) -> Fields:
        return _fields_across(shape, *shape.image[1:]) if shape.image else shape.fields

    def compute(self, x: np.ndarray) -> np.ndarray:
        return x @ self.weight.T + self.bias

    def multiply_accumulates(self, output: Shape) -> int:
        return math.prod(output) * self.in_features


class _BatchNorm(WeightedLayer):
    """Normalize each channel, then scale by `weight` and shift by `bias`; the shape stays.

    Evaluation uses the running statistics. Training uses the batch's mean and biased variance (divided by n) and
    updates the running statistics with them. (PyTorch's own layer updates with the unbiased variance.)
    """

    running_mean: np.ndarray
    running_var: np.ndarray
    rank: int
    epsilon = BATCH_NORM_EPSILON
    momentum = BATCH_NORM_MOMENTUM
    unbiased = False
    """True if the running variance is updated with the unbiased variance, divided by n - 1."""

    def __init__(self, num_features: int) -> None:
        self.num_features = num_features

    def tensors(self) -> dict[str, Tensor]:
        vector = Tensor((self.num_features,), "vector")
        return {"weight": vector, "bias": vector, "running_mean": vector, "running_var": vector}

    def infer(self, shape: Shape) -> Shape:
        self._check_rank(shape, self.rank)
        if shape[1] != self.num_features:
            raise InputError(
                f"{self.path or 'BatchNorm'} expects {self.num_features} channels; the input has {shape[1]}"
            )
        return shape

    def compute(self, x: np.ndarray) -> np.ndarray:
        if self.training:
            axes = (0, *range(2, x.ndim))
            mean, variance = x.mean(axis=axes), x.var(axis=axes)
            batch_variance = x.var(axis=axes, ddof=1) if self.unbiased else variance
            self.running_mean = self.momentum * self.running_mean + (1 - self.momentum) * mean
            self.running_var = self.momentum * self.running_var + (1 - self.momentum) * batch_variance
        else:
            mean, variance = self.running_mean, self.running_var
        per_channel = (slice(None),) + (None,) * (x.ndim - 2)
        scale = self.weight / np.sqrt(variance + self.epsilon)
        return (x - mean[per_channel]) * scale[per_channel] + self.bias[per_channel]


class BatchNorm1d(_BatchNorm):
    """Batch normalization of (N, features), over the batch."""

    rank = 2


class BatchNorm2d(_BatchNorm):
    """Batch normalization of (N, C, H, W), over batch, height and width."""

    rank = 4


def _image_size(layer: Layer, image: list[int], kernel: int, stride: int, padding: int) -> tuple[int, int]:
    """Return the output size, (H, W) -> (H', W'). Raises ConfigError if no window fits."""
    height, width = (output_size(size, kernel, stride, padding) for size in image)
    if not height or not width:
        need = max(kernel - 2 * padding, 1)
        raise ConfigError(
            f"{layer.path or type(layer).__name__} runs out of pixels: its {kernel}x{kernel} window with padding "
            f"{padding} needs at least {need}x{need}; its input is {image[0]}x{image[1]}"
        )
    return height, width


class _Pool(Layer):
    """A window of `kernel` x `kernel` pixels that slides over each channel; `stride` is `kernel` by default."""

    def __init__(self, kernel: int, stride: int | None = None, padding: int = 0) -> None:
        self.kernel, self.stride, self.padding = kernel, stride or kernel, padding

    def infer(self, shape: Shape) -> Shape:
        self._check_rank(shape, 4)
        batch, channels, *image = shape
        return Shape((batch, channels, *_image_size(self, image, self.kernel, self.stride, self.padding)))

    def fields(self, shape: Shape) -> Fields:
        return _window_fields(shape, self.kernel, self.stride, self.padding)

    def _slices(self, x: np.ndarray) -> Iterator[np.ndarray]:
        """Iterate over the positions in a window; each item holds the pixels there of all windows."""
        windows = _windows(x, self.kernel, self.stride)
        for i in range(self.kernel):
            for j in range(self.kernel):
                yield windows[..., i, j]


class MaxPool2d(_Pool):
    """The largest value of each window: (N, C, H, W) -> (N, C, H', W'). Padding is minus infinity."""

    def compute(self, x: np.ndarray) -> np.ndarray:
        slices = self._slices(_pad(x, self.padding, -np.inf))
        largest = next(slices).copy()
        for pixels in slices:
            np.maximum(largest, pixels, out=largest)
        return largest


class AvgPool2d(_Pool):
    """The mean of each window, without padding: (N, C, H, W) -> (N, C, H', W')."""

    def __init__(self, kernel: int, stride: int | None = None) -> None:
        super().__init__(kernel, stride)

    def compute(self, x: np.ndarray) -> np.ndarray:
        slices = self._slices(x)
        total = next(slices).copy()
        for pixels in slices:
            total += pixels
        total /= self.kernel**2
        return total


class GlobalAvgPool2d(Layer):
    """The mean of each channel, for any image size: (N, C, H, W) -> (N, C, 1, 1)."""

    def infer(self, shape: Shape) -> Shape:
        self._check_rank(shape, 4)
        return Shape((*shape[:2], 1, 1))

    def fields(self, shape: Shape) -> Fields:
        return _fields_across(shape, *shape[2:])

    def compute(self, x: np.ndarray) -> np.ndarray:
        return x.mean(axis=(2, 3), keepdims=True)


class Flatten(Layer):
    """(N, C, H, W) -> (N, C * H * W), channels first."""

    def infer(self, shape: Shape) -> Shape:
        self._check_rank(shape, 4)
        batch, channels, height, width = shape
        flat = Shape((batch, channels * height * width))
        flat.image = (channels, height, width)
        return flat

    def compute(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1)


class ReLU(Layer):
    """max(x, 0)."""

    def compute(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0)


class Sigmoid(Layer):
    """1 / (1 + exp(-x)), computed without overflow."""

    def compute(self, x: np.ndarray) -> np.ndarray:
        decay = np.exp(-np.abs(x))
        return np.where(x >= 0, 1, decay) / (1 + decay)


class Dropout(Layer):
    """In training, zero each value with probability `rate` and scale the others by 1 / (1 - rate)."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.generator = np.random.default_rng(0)

    def compute(self, x: np.ndarray) -> np.ndarray:
        if not self.training or self.rate == 0:
            return x
        kept = self.generator.random(x.shape) >= self.rate
        return x * kept / (1 - self.rate)


def add(x: Value, y: Value) -> Value:
    """Add two activations of the same shape."""
    if _shape(x) != _shape(y):
        raise InputError(f"cannot add activations of shapes {_shape(x)} and {_shape(y)}")
    return _joined("add", [x, y], x) if isinstance(x, Shape) else x + y


def concatenate(parts: list[Value]) -> Value:
    """Concatenate activations along their channels."""
    if isinstance(parts[0], Shape):
        batch, _, *image = parts[0]
        return _joined("concatenate", parts, (batch, sum(part[1] for part in parts), *image))
    return np.concatenate(parts, axis=1)


def _joined(by: Literal["add", "concatenate"], parts: list[Shape], shape: tuple[int, ...]) -> Shape:
    """Return the shape of several joined activations."""
    joined = Shape(shape)
    joined.joined_by, joined.parts = by, tuple(parts)
    vertical, horizontal = (
        functools.reduce(Field.union, axis) for axis in zip(*(part.fields for part in parts), strict=True)
    )
    joined.fields = (vertical, horizontal)
    return joined


def _shape(x: np.ndarray | Shape) -> tuple[int, ...]:
    return tuple(x) if isinstance(x, Shape) else x.shape
