"""The NumPy reference against definitions written out as loops, and against the facts."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from support import FACTS

from common import catalog, reference, weights
from common.errors import ConfigError, InputError
from common.reference import layers
from common.view.summary import rows


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def convolution_by_definition(
    x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, stride: int, padding: int, groups: int
) -> np.ndarray:
    """Sum over every input pixel under every window, one number at a time; pixels outside the image are zero."""
    batch, channels, height, width = x.shape
    outputs, group_channels, size, _ = kernel.shape
    out_height = (height + 2 * padding - size) // stride + 1
    out_width = (width + 2 * padding - size) // stride + 1
    y = np.zeros((batch, outputs, out_height, out_width))
    for n, o, i, j in np.ndindex(*y.shape):
        first = o // (outputs // groups) * group_channels
        total = bias[o]
        for c, u, v in np.ndindex(group_channels, size, size):
            row, column = i * stride + u - padding, j * stride + v - padding
            if 0 <= row < height and 0 <= column < width:
                total += x[n, first + c, row, column] * kernel[o, c, u, v]
        y[n, o, i, j] = total
    assert channels == group_channels * groups
    return y


@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "stride", "padding", "groups"),
    [
        (1, 2, 1, 1, 0, 1),
        (3, 4, 3, 1, 1, 1),
        (4, 6, 3, 2, 1, 2),
        (2, 3, 5, 3, 2, 1),
        (6, 6, 3, 2, 0, 3),
        (4, 2, 1, 2, 0, 1),
    ],
)
def test_convolution_equals_its_definition(
    channels: int, outputs: int, kernel: int, stride: int, padding: int, groups: int
) -> None:
    layer = layers.Conv2d(channels, outputs, kernel, stride, padding, groups)
    layer.weight, layer.bias = random(*layer.tensors()["weight"].shape), random(outputs, seed=1)
    x = random(2, channels, 7, 10, seed=2)
    expected = convolution_by_definition(x, layer.weight, layer.bias, stride, padding, groups)
    y = layer(x)
    assert y.shape == expected.shape == tuple(layer(layers.Shape(x.shape)))
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


def pool_by_definition(x: np.ndarray, kernel: int, stride: int, padding: int, mode: str) -> np.ndarray:
    batch, channels, height, width = x.shape
    out_height = (height + 2 * padding - kernel) // stride + 1
    out_width = (width + 2 * padding - kernel) // stride + 1
    y = np.empty((batch, channels, out_height, out_width))
    for n, c, i, j in np.ndindex(*y.shape):
        top, left = i * stride - padding, j * stride - padding
        inside = [
            x[n, c, row, column]
            for row, column in itertools.product(range(top, top + kernel), range(left, left + kernel))
            if 0 <= row < height and 0 <= column < width
        ]
        y[n, c, i, j] = max(inside) if mode == "max" else sum(inside) / len(inside)
    return y


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 1, 1)])
def test_max_pool_equals_its_definition_and_pads_with_minus_infinity(kernel: int, stride: int, padding: int) -> None:
    x = random(2, 3, 7, 10) - 5  # all negative: a padding of zeros would win at the edges
    expected = pool_by_definition(x, kernel, stride, padding, "max")
    np.testing.assert_array_equal(layers.MaxPool2d(kernel, stride, padding)(x), expected)


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 2), (3, 3)])
def test_average_pool_equals_its_definition(kernel: int, stride: int) -> None:
    x = random(2, 3, 7, 10)
    expected = pool_by_definition(x, kernel, stride, 0, "avg")
    np.testing.assert_allclose(layers.AvgPool2d(kernel, stride)(x), expected, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(layers.GlobalAvgPool2d()(x)[:, :, 0, 0], x.mean((2, 3)), rtol=1e-13)


def test_convolution_and_pooling_reproduce_the_examples_of_the_book() -> None:
    # Dive into Deep Learning, 7.2 and 7.5.
    conv = layers.Conv2d(1, 1, 2)
    conv.weight, conv.bias = np.array([[[[0.0, 1], [2, 3]]]]), np.zeros(1)
    np.testing.assert_array_equal(conv(np.arange(9.0).reshape(1, 1, 3, 3))[0, 0], [[19, 25], [37, 43]])
    x = np.arange(16.0).reshape(1, 1, 4, 4)
    np.testing.assert_array_equal(layers.MaxPool2d(3)(x)[0, 0], [[10]])
    np.testing.assert_array_equal(layers.MaxPool2d(3, 2, 1)(x)[0, 0], [[5, 7], [13, 15]])


@pytest.mark.parametrize(("layer", "shape"), [(layers.BatchNorm2d(3), (4, 3, 5, 6)), (layers.BatchNorm1d(3), (4, 3))])
def test_batch_norm_equals_its_definition(layer: layers.BatchNorm2d, shape: tuple[int, ...]) -> None:
    x = random(*shape) * 3 + 1
    layer.weight, layer.bias = np.array([0.5, 1, 2]), np.array([-1.0, 0, 1])
    layer.running_mean, layer.running_var = np.array([0.1, 0.2, 0.3]), np.array([1.0, 2, 3])
    y = layer(x)
    for c in range(3):
        normalized = (x[:, c] - layer.running_mean[c]) / math.sqrt(layer.running_var[c] + 1e-5)
        np.testing.assert_allclose(y[:, c], normalized * layer.weight[c] + layer.bias[c], rtol=1e-12, atol=1e-14)
    layer.train()
    y = layer(x)
    for c, (mean, variance) in enumerate(zip((0.1, 0.2, 0.3), (1, 2, 3), strict=True)):
        values = [float(value) for value in x[:, c].reshape(-1)]
        batch_mean = math.fsum(values) / len(values)
        biased = math.fsum((value - batch_mean) ** 2 for value in values) / len(values)
        normalized = (x[:, c] - batch_mean) / math.sqrt(biased + 1e-5)
        np.testing.assert_allclose(y[:, c], normalized * layer.weight[c] + layer.bias[c], rtol=1e-12, atol=1e-13)
        assert math.isclose(layer.running_mean[c], 0.9 * mean + 0.1 * batch_mean, rel_tol=1e-12)
        assert math.isclose(layer.running_var[c], 0.9 * variance + 0.1 * biased, rel_tol=1e-12)


def test_sigmoid_is_exact_for_large_inputs_and_does_not_overflow() -> None:
    x = np.array([-1000.0, -1, 0, 1, 1000])
    expected = [0, 1 / (1 + math.e), 0.5, 1 / (1 + 1 / math.e), 1]
    np.testing.assert_allclose(layers.Sigmoid()(x), expected, rtol=1e-15)


def test_dropout_zeroes_and_scales_in_training_only() -> None:
    layer, x = layers.Dropout(0.25), np.ones((100, 1000))
    assert layer(x) is x
    layer.train()
    first, second = layer(x), layer(x)
    assert set(np.unique(first)) == {0, 1 / 0.75}
    assert abs((first == 0).mean() - 0.25) < 0.01
    assert (first != second).any()


@pytest.mark.parametrize("name", FACTS)
def test_description_equals_the_facts(name: str) -> None:
    description = reference.describe(catalog.get(name))
    facts = FACTS[name]
    manifest = {key: list(tensor.shape) for key, tensor in description.manifest.items()}
    assert list(manifest.items()) == list(facts["manifest"].items())
    assert description.parameters == facts["parameters"]
    assert description.statistics == facts["statistics"]
    assert description.multiply_accumulates == facts["multiply_accumulates_conv_and_dense"]


@pytest.mark.parametrize("name", FACTS)
def test_summary_equals_the_facts_except_for_the_name_of_the_global_pool(name: str) -> None:
    description = reference.describe(catalog.get(name))
    found = [[row.kind, list(row.shape)] for row in rows(description.calls, description, "Sequential")]
    named = [["AdaptiveAvgPool2d" if kind == "GlobalAvgPool2d" else kind, shape] for kind, shape in found]
    assert named == FACTS[name]["summary"]


def test_dense_layers_store_the_shape_of_a_flattened_image() -> None:
    manifest = reference.describe(catalog.get("alexnet")).manifest
    assert manifest["fc1.weight"].image == (256, 5, 5)
    assert manifest["fc2.weight"].image is None
    # A 1x1 image has no order to permute, but is an image all the same.
    assert reference.describe(catalog.get("resnet18")).manifest["head.fc.weight"].image == (512, 1, 1)


def test_taps_are_layers_with_weights_pools_blocks_stages_and_logits_in_order() -> None:
    taps = list(reference.describe(catalog.get("resnet", arch=[[1, 8]])).taps)
    assert taps == [
        "stem.conv",
        "stem.bn",
        "stem.pool",
        "stage1.block1.conv1",
        "stage1.block1.bn1",
        "stage1.block1.conv2",
        "stage1.block1.bn2",
        "stage1.block1.shortcut.conv",
        "stage1.block1",
        "stage1",
        "head.pool",
        "head.fc",
        "logits",
    ]


@pytest.mark.parametrize(
    ("name", "size", "layer"),
    [
        ("alexnet", [64, 224], "pool3"),
        ("vgg11", [31, 31], "stage5.pool"),
        ("lenet", [4, 28], "conv2"),
        ("densenet", [16, 16], "transition3.pool"),
    ],
)
def test_error_for_a_small_input_names_the_layer_and_the_smallest_size(name: str, size: list[int], layer: str) -> None:
    with pytest.raises(ConfigError) as raised:
        reference.describe(catalog.get(name, input_size=size))
    message = str(raised.value)
    assert f"too small for {name}: {layer} runs out of pixels" in message
    smallest = int(message.rpartition("x")[2])
    reference.describe(catalog.get(name, input_size=[smallest, smallest]))
    with pytest.raises(ConfigError):
        reference.describe(catalog.get(name, input_size=[smallest - 1, smallest - 1]))


def test_error_for_another_input_shape_names_the_layer() -> None:
    network = catalog.get("lenet")
    model = reference.build(network)
    reference.load(model, weights.initialize(network, "probe"))
    with pytest.raises(InputError, match="conv1 expects 1 channels; the input has 3"):
        reference.trace(model, np.zeros((1, 3, 28, 28)))
    with pytest.raises(InputError, match=r"conv1 expects \(N, C, H, W\); the input has shape \(1, 784\)"):
        reference.trace(model, np.zeros((1, 784)))


def test_only_training_uses_batch_statistics_and_updates_the_running_ones() -> None:
    network = catalog.get("bn_lenet")
    model = reference.build(network)
    start = weights.initialize(network, "probe", dtype="float64")
    reference.load(model, start)
    x = random(3, 1, 28, 28)
    evaluated = reference.trace(model, x)["logits"]
    assert all((reference.weights(model)[name] == start[name]).all() for name in start)
    model.train()
    trained = reference.trace(model, x)["logits"]
    moved = {name for name in start if (reference.weights(model)[name] != start[name]).any()}
    assert moved == {f"bn{i}.running_{which}" for i in (1, 2, 3, 4) for which in ("mean", "var")}
    assert np.abs(trained - evaluated).max() > 0.01
