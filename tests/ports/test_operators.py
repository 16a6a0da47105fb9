"""Cross-correlation, pooling and the learned kernel of NumPy and of the port that `--backend` names.

The numbers are those of Dive into Deep Learning, chapter 7; beyond them, definitions written out as loops, the
framework's own convolution, and the descent on a quadratic solved in closed form.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from common.reference import operators as numpy_operators

NAMES = [
    "Conv2D",
    "corr2d",
    "corr2d_multi_in",
    "corr2d_multi_in_out",
    "corr2d_multi_in_out_1x1",
    "learn_kernel",
    "pool2d",
]

IMAGE = np.arange(9.0).reshape(3, 3)
KERNEL = np.array([[0.0, 1], [2, 3]])
CHANNELS = np.stack([IMAGE, IMAGE + 1])
KERNELS = np.stack([KERNEL, KERNEL + 1])
SIXTEEN = np.arange(16.0).reshape(4, 4)

STRIPE = np.ones((6, 8))
STRIPE[:, 2:6] = 0
EDGES = np.zeros((6, 7))
EDGES[:, 1], EDGES[:, 5] = 1, -1
DIFFERENCE = np.array([[1.0, -1]])

WINDOWS = [
    ((3, 3), 1, 1, (8, 8)),
    ((5, 3), 1, (2, 1), (8, 8)),
    ((3, 3), 2, 1, (4, 4)),
    ((3, 5), (3, 4), (0, 1), (2, 2)),
]
"""Kernel, stride, padding, and what they make of 8x8."""


@dataclass(frozen=True)
class Side:
    """One implementation of the operators, and the way into its arrays and back."""

    name: str
    operators: ModuleType

    def array(self, x: np.ndarray) -> Any:
        match self.name:
            case "torch":
                import torch

                return torch.tensor(x)
            case "jax":
                import jax.numpy as jnp

                return jnp.asarray(x)
            case "tf":
                import tensorflow as tf

                return tf.constant(x)
            case "mxnet":
                import mxnet as mx

                return mx.np.array(x, dtype=x.dtype)
        return x

    def call(self, function: str, *arrays: np.ndarray, **settings: Any) -> np.ndarray:
        return numpy(getattr(self.operators, function)(*map(self.array, arrays), **settings))

    def learn(self, *arrays: np.ndarray, as_one: bool = False) -> tuple[np.ndarray, np.ndarray]:
        learn = self.operators.learn_kernel
        kernel, losses = (compiled(self.name, learn) if as_one else learn)(*map(self.array, arrays))
        return numpy(kernel), np.array([float(loss) for loss in losses])


def numpy(x: Any) -> np.ndarray:
    if hasattr(x, "asnumpy"):
        return x.asnumpy()
    return np.asarray(x.detach() if hasattr(x, "detach") else x)


def compiled(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function as the frameworks that compile functions of arrays make it, as it is for the others."""
    match name:
        case "jax":
            import jax

            return jax.jit(function)
        case "tf":
            import tensorflow as tf

            return tf.function(function)
    return function


@pytest.fixture(params=["numpy", pytest.param("port", marks=pytest.mark.port)])
def side(request: pytest.FixtureRequest) -> Side:
    if request.param == "numpy":
        return Side("numpy", numpy_operators)
    package = request.getfixturevalue("port").__name__
    return Side(request.getfixturevalue("backend_name"), importlib.import_module(f"{package}.operators"))


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def by_definition(x: np.ndarray, kernel: np.ndarray, stride: Any, padding: Any) -> np.ndarray:
    """(C, H, W), (O, C, h, w) -> (O, H', W'), one product at a time; pixels outside the image are zero."""
    (channels, height, width), (outputs, _, *size) = x.shape, kernel.shape
    (down, right), (above, left) = pair(stride), pair(padding)
    rows = (height + 2 * above - size[0]) // down + 1
    columns = (width + 2 * left - size[1]) // right + 1
    y = np.zeros((outputs, rows, columns))
    for o, c, row, column, i, j in np.ndindex(outputs, channels, rows, columns, *size):
        u, v = row * down + i - above, column * right + j - left
        if 0 <= u < height and 0 <= v < width:
            y[o, row, column] += x[c, u, v] * kernel[o, c, i, j]
    return y


def test_the_public_names_are_the_same(side: Side) -> None:
    assert side.operators.__all__ == NAMES


def test_corr2d_has_the_sources_numbers(side: Side) -> None:
    np.testing.assert_array_equal(side.call("corr2d", IMAGE, KERNEL), [[19, 25], [37, 43]])


def test_a_difference_finds_vertical_edges_and_no_horizontal_ones(side: Side) -> None:
    np.testing.assert_array_equal(side.call("corr2d", STRIPE, DIFFERENCE), EDGES)
    np.testing.assert_array_equal(side.call("corr2d", STRIPE.T, DIFFERENCE), np.zeros((8, 5)))


@pytest.mark.parametrize(("kernel", "stride", "padding", "shape"), WINDOWS)
def test_stride_and_padding_make_the_sources_shapes(side: Side, kernel, stride, padding, shape) -> None:
    x, k = random(8, 8), random(*kernel, seed=1)
    y = side.call("corr2d", x, k, stride=stride, padding=padding)
    assert y.shape == shape
    np.testing.assert_allclose(y, by_definition(x[None], k[None, None], stride, padding)[0], rtol=0, atol=1e-12)


def test_channels_are_summed(side: Side) -> None:
    np.testing.assert_array_equal(side.call("corr2d_multi_in", CHANNELS, KERNELS), [[56, 72], [104, 120]])


def test_every_output_channel_has_a_kernel(side: Side) -> None:
    y = side.call("corr2d_multi_in_out", CHANNELS, np.stack([KERNELS, KERNELS + 1, KERNELS + 2]))
    np.testing.assert_array_equal(y, [[[56, 72], [104, 120]], [[76, 100], [148, 172]], [[96, 128], [192, 224]]])


@pytest.mark.parametrize(("kernel", "stride", "padding", "_"), [*WINDOWS, ((2, 3), (3, 2), (1, 0), None)])
def test_channels_in_and_out_are_their_definition(side: Side, kernel, stride, padding, _) -> None:
    x, k = random(3, 7, 10), random(4, 3, *kernel, seed=1)
    y = side.call("corr2d_multi_in_out", x, k, stride=stride, padding=padding)
    np.testing.assert_allclose(y, by_definition(x, k, stride, padding), rtol=0, atol=1e-12)
    y = side.call("corr2d_multi_in", x, k[0], stride=stride, padding=padding)
    np.testing.assert_allclose(y, by_definition(x, k[:1], stride, padding)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-14)])
@pytest.mark.parametrize(("x", "k"), [((3, 3, 3), (2, 3, 1, 1)), ((4, 3, 5), (6, 4, 1, 1))])
def test_the_1x1_form_is_the_general_one(side: Side, x, k, dtype: str, tolerance: float) -> None:
    x, k = random(*x).astype(dtype), random(*k, seed=1).astype(dtype)
    y = side.call("corr2d_multi_in_out_1x1", x, k)
    assert y.shape == (len(k), *x.shape[1:])
    np.testing.assert_allclose(y, side.call("corr2d_multi_in_out", x, k), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("x", "size", "mode", "settings", "expected"),
    [
        (IMAGE, (2, 2), "max", {}, [[4, 5], [7, 8]]),
        (IMAGE, (2, 2), "avg", {}, [[2, 3], [5, 6]]),
        (SIXTEEN, 3, "max", {"stride": 3}, [[10]]),
        (SIXTEEN, 3, "max", {"stride": 2, "padding": 1}, [[5, 7], [13, 15]]),
        (SIXTEEN, (2, 3), "max", {"stride": (2, 3), "padding": (0, 1)}, [[5, 7], [13, 15]]),
        (
            np.stack([SIXTEEN, SIXTEEN + 1]),
            3,
            "max",
            {"stride": 2, "padding": 1},
            [[[5, 7], [13, 15]], [[6, 8], [14, 16]]],
        ),
    ],
)
def test_pooling_has_the_sources_numbers(side: Side, x, size, mode, settings, expected) -> None:
    np.testing.assert_array_equal(side.call("pool2d", x, size=size, mode=mode, **settings), expected)


@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 2, 1), ((2, 3), (3, 1), (0, 2)), ((4, 1), 1, (1, 0))])
def test_pooling_is_its_definition_and_padding_never_wins(side: Side, mode, size, stride, padding) -> None:
    x = random(2, 7, 10) - 5  # all negative: a padding of zeros would win at the edges
    padding = padding if mode == "max" else 0
    (height, width), (down, right), (above, left) = pair(size), pair(stride), pair(padding)
    expected = np.empty((2, (7 + 2 * above - height) // down + 1, (10 + 2 * left - width) // right + 1))
    for c, row, column in np.ndindex(*expected.shape):
        top, start = row * down - above, column * right - left
        window = x[c, max(top, 0) : top + height, max(start, 0) : start + width]
        expected[c, row, column] = window.max() if mode == "max" else window.mean()
    y = side.call("pool2d", x, size=size, mode=mode, stride=stride, padding=padding)
    np.testing.assert_allclose(y, expected, rtol=0, atol=0 if mode == "max" else 1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_dtype_is_the_inputs(side: Side, dtype: str) -> None:
    x, k = CHANNELS.astype(dtype), KERNELS.astype(dtype)
    learned, _ = side.learn(STRIPE.astype(dtype), EDGES.astype(dtype), DIFFERENCE.astype(dtype))
    for y in (
        side.call("corr2d", x[0], k[0], padding=1),
        side.call("corr2d_multi_in", x, k),
        side.call("corr2d_multi_in_out", x, k[None]),
        side.call("corr2d_multi_in_out_1x1", x, k[None, :, :1, :1]),
        side.call("pool2d", x, size=2, mode="max", padding=1),
        side.call("pool2d", x, size=2, mode="avg"),
        learned,
    ):
        assert y.dtype == dtype


def make_layer(name: str, operators: ModuleType) -> tuple[Any, Any, Any]:
    """Return a Conv2D of kernel size (2, 3), its kernel and its bias; Keras makes them at the first call."""
    match name:
        case "jax":
            from flax import nnx

            layer = operators.Conv2D((2, 3), rngs=nnx.Rngs(0))
            return layer, layer.kernel, layer.bias
        case "tf":
            import tensorflow as tf

            layer = operators.Conv2D((2, 3))
            layer(tf.zeros((3, 4)))
            return layer, layer.kernel, layer.bias
        case "mxnet":
            layer = operators.Conv2D((2, 3))
            layer.initialize()
            return layer, layer.weight.data(), layer.bias.data()
        case "numpy":
            layer = operators.Conv2D((2, 3), generator=np.random.default_rng(0))
            return layer, layer.weight, layer.bias
    layer = operators.Conv2D((2, 3))
    return layer, layer.weight, layer.bias


def test_the_layer_is_corr2d_with_its_kernel_plus_its_bias(side: Side) -> None:
    layer, kernel, bias = make_layer(side.name, side.operators)
    assert numpy(kernel).shape == (2, 3)
    assert np.ptp(numpy(kernel)) > 0
    assert numpy(bias).tolist() == [0]
    if side.name == "torch":
        bias.data.fill_(0.5)
    elif side.name == "tf":
        bias.assign([0.5])
    else:
        bias[:] = 0.5
    x = random(5, 6).astype(numpy(kernel).dtype)
    expected = by_definition(x[None], numpy(kernel)[None, None], 1, 0)[0] + 0.5
    np.testing.assert_allclose(numpy(layer(side.array(x))), expected, rtol=0, atol=1e-6)


START = np.array([[0.3, 0.0]])


def descent_on_the_edges(start: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Solve the descent at 0.03 from (a, b) to the kernel after `steps` and the loss before each.

    With s = a + b and d = a - b - 2 the loss on the stripe is 15 s^2 + 3 d^2; a step makes s -0.8 s, and d 0.64 d.
    """
    sums = start.sum() * (-0.8) ** np.arange(steps + 1)
    differences = (start[0, 0] - start[0, 1] - 2) * 0.64 ** np.arange(steps + 1)
    kernel = np.array([[sums[-1] + differences[-1] + 2, sums[-1] - differences[-1] - 2]]) / 2
    return kernel, (15 * sums**2 + 3 * differences**2)[:-1]


@pytest.mark.parametrize("as_one", [False, True])
def test_the_edge_kernel_is_learned(side: Side, as_one: bool) -> None:
    kernel, losses = side.learn(STRIPE, EDGES, START, as_one=as_one)
    assert len(losses) == 10
    assert losses[0] == pytest.approx(10.02)
    assert losses[-1] < 0.2
    np.testing.assert_allclose(kernel, DIFFERENCE, atol=0.05)
    expected, expected_losses = descent_on_the_edges(START, 10)
    np.testing.assert_allclose(kernel, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(losses, expected_losses, rtol=0, atol=1e-12)


def test_learning_leaves_its_arguments_alone_and_takes_other_rates_and_steps(side: Side) -> None:
    arrays = [side.array(x) for x in (STRIPE, EDGES, START)]
    kernel, losses = side.operators.learn_kernel(*arrays, learning_rate=0.0, steps=2)
    assert len(losses) == 2
    np.testing.assert_array_equal(numpy(kernel), START)
    side.operators.learn_kernel(*arrays)
    for array, before in zip(arrays, (STRIPE, EDGES, START), strict=True):
        np.testing.assert_array_equal(numpy(array), before)
    kernel, losses = side.operators.learn_kernel(*arrays, steps=0)
    assert list(losses) == []
    np.testing.assert_array_equal(numpy(kernel), START)


@pytest.mark.port
@pytest.mark.parametrize("size", [(1, 2), (2, 3), (5, 1)])
def test_the_port_learns_the_kernel_that_numpy_learns(port, backend_name: str, size: tuple[int, int]) -> None:
    x, start = random(6, 8) / 3, random(*size, seed=1)
    y = numpy_operators.corr2d(x, random(*size, seed=2))
    side = Side(backend_name, importlib.import_module(f"{port.__name__}.operators"))
    for arrays in ((STRIPE, EDGES, START), (x, y, start)):
        (kernel, losses), (expected, expected_losses) = side.learn(*arrays), numpy_operators.learn_kernel(*arrays)
        assert losses[-1] < losses[0] / 2
        np.testing.assert_allclose(kernel, expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(losses, expected_losses, rtol=0, atol=1e-12)


def own_convolution(name: str, x: np.ndarray, k: np.ndarray, stride: Any, padding: Any) -> np.ndarray:
    """(C, H, W), (O, C, h, w) -> (O, H', W') by the framework's own layer, in float64."""
    outputs, channels, *size = k.shape
    above, left = pair(padding)
    match name:
        case "torch":
            import torch

            layer = torch.nn.Conv2d(channels, outputs, size, stride, (above, left), bias=False, dtype=torch.float64)
            layer.weight.data = torch.tensor(k)
            return numpy(layer(torch.tensor(x)[None]))[0]
        case "jax":
            import jax.numpy as jnp
            from flax import nnx

            layer = nnx.Conv(
                channels,
                outputs,
                size,
                stride,
                padding=[(above, above), (left, left)],
                use_bias=False,
                param_dtype=jnp.float64,
                rngs=nnx.Rngs(0),
            )
            layer.kernel[...] = jnp.asarray(k.transpose(2, 3, 1, 0))
            return numpy(layer(x.transpose(1, 2, 0)[None]))[0].transpose(2, 0, 1)
        case "tf":
            import keras

            from tf_impl.layers import Conv2D

            # The package's layer pads alike on all sides, Keras's own does not pad by pixels.
            square = above == left
            layer = Conv2D(outputs, size, stride, above if square else 0, use_bias=False, dtype="float64")
            y = x.transpose(1, 2, 0)[None]
            if not square:
                y = keras.layers.ZeroPadding2D((above, left), dtype="float64")(y)
            layer.build(y.shape)
            layer.kernel.assign(k.transpose(2, 3, 1, 0))
            return numpy(layer(y))[0].transpose(2, 0, 1)
        case "mxnet":
            import mxnet as mx
            from mxnet.gluon import nn

            layer = nn.Conv2D(outputs, size, pair(stride), (above, left), use_bias=False, in_channels=channels)
            layer.initialize()
            layer.cast("float64")
            layer.weight.set_data(mx.np.array(k, dtype="float64"))
            return numpy(layer(mx.np.array(x[None], dtype="float64")))[0]
    raise ValueError(name)


@pytest.mark.port
@pytest.mark.parametrize(("kernel", "stride", "padding", "_"), WINDOWS)
@pytest.mark.parametrize("image", [(8, 8), (7, 10)])
def test_the_frameworks_own_layer_convolves_alike(port, backend_name, image, kernel, stride, padding, _) -> None:
    x, k = random(3, *image), random(4, 3, *kernel, seed=1)
    operators = importlib.import_module(f"{port.__name__}.operators")
    side = Side(backend_name, operators)
    y = side.call("corr2d_multi_in_out", x, k, stride=stride, padding=padding)
    np.testing.assert_allclose(y, own_convolution(backend_name, x, k, stride, padding), rtol=0, atol=1e-12)


def gradient(name: str, function: Callable[[Any], Any], x: Any) -> np.ndarray:
    """Return the gradient of the sum of the squares of function(x)."""
    match name:
        case "torch":
            x.requires_grad_()
            (function(x) ** 2).sum().backward()
            return numpy(x.grad)
        case "jax":
            import jax

            return numpy(jax.grad(lambda x: (compiled(name, function)(x) ** 2).sum())(x))
        case "tf":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(compiled(name, function)(x) ** 2)
            return numpy(tape.gradient(loss, x))
        case "mxnet":
            import mxnet as mx

            x.attach_grad()
            with mx.autograd.record():
                loss = (function(x) ** 2).sum()
            loss.backward()
            return numpy(x.grad)
    raise ValueError(name)


@pytest.mark.port
@pytest.mark.parametrize(
    ("function", "settings", "shape"),
    [
        ("corr2d", {"stride": (2, 1), "padding": (1, 2)}, (3, 2)),
        ("corr2d_multi_in", {"stride": 2}, (2, 3, 2)),
        ("corr2d_multi_in_out", {"padding": 1}, (3, 2, 3, 2)),
        ("corr2d_multi_in_out_1x1", {}, (3, 2, 1, 1)),
        ("pool2d", {"size": (3, 2), "mode": "max", "stride": 2, "padding": 1}, None),
        ("pool2d", {"size": (3, 2), "mode": "avg", "stride": (1, 2)}, None),
    ],
)
def test_gradients_are_finite_differences_also_when_compiled(port, backend_name, function, settings, shape) -> None:
    side = Side(backend_name, importlib.import_module(f"{port.__name__}.operators"))
    ours, numpys = getattr(side.operators, function), getattr(numpy_operators, function)
    x = random(*((5, 6) if function == "corr2d" else (2, 5, 6)))
    kernel = () if shape is None else (random(*shape, seed=1),)
    arrays = [x, *kernel]
    for which, array in enumerate(arrays):
        rest = [side.array(other) for other in arrays]

        def run(value: Any, which: int = which, rest: list = rest) -> Any:
            return ours(*rest[:which], value, *rest[which + 1 :], **settings)

        def loss(value: np.ndarray, which: int = which) -> float:
            return float((numpys(*arrays[:which], value, *arrays[which + 1 :], **settings) ** 2).sum())

        expected = np.empty_like(array)
        for place in np.ndindex(*array.shape):
            step = np.zeros_like(array)
            step[place] = 1e-5
            expected[place] = (loss(array + step) - loss(array - step)) / 2e-5
        found = gradient(backend_name, run, side.array(array))
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.port
def test_tensorflow_is_told_that_shapes_must_be_known(port, backend_name: str) -> None:
    if backend_name != "tf":
        pytest.skip("only TensorFlow traces with shapes that it does not know")
    import tensorflow as tf

    operators = importlib.import_module(f"{port.__name__}.operators")
    unknown = tf.TensorSpec((None, 3), tf.float64)
    with pytest.raises(ValueError, match=r"`X` must be \(H, W\), known and not empty, and has shape \(None, 3\)"):
        tf.function(operators.corr2d).get_concrete_function(unknown, tf.constant(KERNEL))


@pytest.mark.parametrize(
    ("function", "shapes", "settings", "words"),
    [
        ("corr2d", [(3, 3), (4, 2)], {}, ["4x2", "3x3"]),
        ("corr2d", [(3, 3), (2, 6)], {"padding": (0, 1)}, ["2x6", "3x5"]),
        ("corr2d", [(2, 3, 3), (2, 2)], {}, ["`X`", "(H, W)", "(2, 3, 3)"]),
        ("corr2d", [(3, 3), (2,)], {}, ["`K`", "(h, w)", "(2,)"]),
        ("corr2d", [(3, 3), (0, 2)], {}, ["`K`", "(0, 2)"]),
        ("corr2d", [(3, 3), (2, 2)], {"stride": 0}, ["`stride`", "0", "1"]),
        ("corr2d", [(3, 3), (2, 2)], {"padding": (0, -1)}, ["`padding`", "(0, -1)"]),
        ("corr2d", [(3, 3), (2, 2)], {"stride": (1, 1, 1)}, ["`stride`", "(1, 1, 1)"]),
        ("corr2d_multi_in", [(2, 3, 3), (3, 2, 2)], {}, ["channels", "2 and 3"]),
        ("corr2d_multi_in", [(3, 3), (2, 2)], {}, ["`X`", "(C, H, W)", "(3, 3)"]),
        ("corr2d_multi_in", [(2, 3, 3), (1, 2, 2, 2)], {}, ["`K`", "(C, h, w)", "(1, 2, 2, 2)"]),
        ("corr2d_multi_in_out", [(2, 3, 3), (4, 3, 2, 2)], {}, ["channels", "2 and 3"]),
        ("corr2d_multi_in_out", [(2, 3, 3), (2, 2, 2)], {}, ["`K`", "(O, C, h, w)", "(2, 2, 2)"]),
        ("corr2d_multi_in_out", [(2, 3, 3), (1, 2, 4, 4)], {}, ["4x4", "3x3"]),
        ("corr2d_multi_in_out_1x1", [(2, 3, 3), (4, 3, 1, 1)], {}, ["(O, 2, 1, 1)", "(4, 3, 1, 1)"]),
        ("corr2d_multi_in_out_1x1", [(2, 3, 3), (4, 2, 2, 1)], {}, ["(O, 2, 1, 1)", "(4, 2, 2, 1)"]),
        ("corr2d_multi_in_out_1x1", [(3, 3), (4, 3, 1, 1)], {}, ["`X`", "(3, 3)"]),
        ("pool2d", [(3, 3)], {"size": 2, "mode": "sum"}, ["'sum'", "'max' or 'avg'"]),
        ("pool2d", [(3, 3)], {"size": (4, 1), "mode": "max"}, ["4x1", "3x3"]),
        ("pool2d", [(3, 3)], {"size": 3, "mode": "avg", "padding": 1}, ["`padding`", "1", "'avg'"]),
        ("pool2d", [(3, 3)], {"size": (3, 2), "mode": "max", "padding": (1, 2)}, ["(1, 2)", "(3, 2)"]),
        ("pool2d", [(3, 3)], {"size": 0, "mode": "max"}, ["`size`", "0"]),
        ("pool2d", [(1, 1, 3, 3)], {"size": 2, "mode": "max"}, ["(H, W) or (C, H, W)", "(1, 1, 3, 3)"]),
        ("learn_kernel", [(6, 8), (1, 7), (1, 2)], {}, ["`Y`", "(6, 7)", "(1, 7)"]),
        ("learn_kernel", [(6, 8), (6, 7), (1, 9)], {}, ["1x9", "6x8"]),
    ],
)
def test_wrong_input_is_refused(side: Side, function: str, shapes, settings, words: list[str]) -> None:
    arrays = [side.array(np.ones(shape)) for shape in shapes]
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the words are checked below)
        getattr(side.operators, function)(*arrays, **settings)
    message = str(error.value)
    assert all(word in message for word in words), message
