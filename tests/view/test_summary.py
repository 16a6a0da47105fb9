"""Tests of summaries: costs against each framework's own counts, receptive fields by experiment."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from unittest import mock

import numpy as np
import pytest

from common import catalog, layout, reference, weights
from common.reference import layers
from common.view import summary

NETWORKS = [
    catalog.get(name, **config)
    for name, config in (
        ("lenet", {"input_size": [33, 41]}),
        ("alexnet", {"input_size": [97, 71]}),
        ("vgg", {"input_size": [33, 41], "in_channels": 3, "arch": [[1, 8], [3, 5]]}),
        ("nin", {"input_size": [97, 71]}),
        ("googlenet", {"input_size": [57, 83]}),
        ("bn_lenet", {}),
        ("bn_lenet_scratch", {}),
        ("resnet", {"input_size": [57, 83], "arch": [[1, 8], [2, 16]]}),
        ("resnext", {"input_size": [57, 83], "arch": [[1, 32, 8, 0.5], [2, 24, 4, 1]]}),
        ("densenet", {"input_size": [57, 83], "arch": [2, 3, 1], "growth_rate": 7, "num_channels": 9}),
        ("anynet", {"input_size": [57, 83], "arch": [[2, 24, 8, 1], [1, 32, 8, 0.5]], "stem_channels": 10}),
    )
]
"""Every family, with odd and non-square inputs where possible."""


def summarized(name: str, everything: bool = True, **config: object) -> dict[str, summary.Row]:
    description = reference.describe(catalog.get(name, **config))
    return {row.path: row for row in summary.rows(description.calls, description, "Sequential", everything)}


# Receptive fields

SEEN = [
    ("lenet", {"input_size": [33, 41]}),
    ("bn_lenet", {}),
    ("vgg", {"input_size": [33, 41], "arch": [[1, 4], [2, 3]]}),
    ("nin", {"input_size": [83, 67], "num_classes": 3}),
    ("googlenet", {"input_size": [67, 41]}),
    ("resnet", {"input_size": [97, 71], "arch": [[1, 8], [1, 8]]}),
    ("resnext", {"input_size": [97, 71], "arch": [[1, 8, 4, 1], [1, 8, 4, 1]]}),
    ("densenet", {"input_size": [97, 71], "arch": [2, 1], "growth_rate": 3, "num_channels": 4}),
    # A 1x1 convolution of stride 2 skips pixels; at these sizes it does not skip the middle ones.
    ("anynet", {"input_size": [43, 59], "arch": [[1, 8, 4, 1], [1, 8, 4, 1]], "stem_channels": 4}),
]
_TOO_WIDE = {"googlenet": "stage1.block2", "nin": "pool3"}
"""From these parts on, every position sees the whole of a small image, so that any field would pass."""


def spread_of_pixels(network: catalog.Network, pixels: list[tuple[int, int]]) -> dict[str, np.ndarray]:
    """Return for each module which outputs depend on each of the pixels: (pixels, H, W), or (pixels,) for a vector.

    A NaN pixel makes exactly those outputs NaN that depend on it.
    """
    model = reference.build(network)
    reference.load(model, weights.initialize(network, "probe", 0, "float64"))
    x = np.random.default_rng(0).standard_normal((len(pixels), *network.input_shape))
    for example, (row, column) in zip(x, pixels, strict=True):
        example[:, row, column] = np.nan
    reached: dict[str, np.ndarray] = {}

    def look(module: layers.Module, given: np.ndarray, output: np.ndarray) -> None:
        values = given if isinstance(module, layers.Flatten) else output
        reached[module.path] = np.isnan(values).any(axis=1)

    model.observe(look)
    with np.errstate(invalid="ignore"):
        model(x)
    return reached


@pytest.mark.parametrize(("name", "config"), SEEN, ids=[name for name, _ in SEEN])
def test_a_receptive_field_covers_exactly_the_pixels_that_change_the_output(name: str, config: dict) -> None:
    network = catalog.get(name, **config)
    height, width = network.config.input_size
    fields = {row.path: row.fields for row in summarized(name, **config).values()}
    verified = set()
    for axis, length in enumerate((height, width)):
        middle = (width // 2, height // 2)[axis]
        line = [(i, middle) if axis == 0 else (middle, i) for i in range(length)]
        reached: dict[str, list[np.ndarray]] = {}
        for start in range(0, length, 16):
            for path, found in spread_of_pixels(network, line[start : start + 16]).items():
                reached.setdefault(path, []).append(found)
        assert set(reached) == {*fields, ""}
        for path, (size, stride, start) in ((path, pair[axis]) for path, pair in fields.items()):
            depends = np.concatenate(reached[path])
            if depends.ndim == 3:
                depends = depends.any(axis=2 - axis)  # (pixels, positions)
            else:
                assert stride == 0, path
                depends = depends[:, None]
            for position, pixels in enumerate(depends.T):
                first = start + position * stride
                expected = [pixel for pixel in range(length) if first <= pixel < first + size]
                assert np.flatnonzero(pixels).tolist() == expected, f"{path}, position {position} of axis {axis}"
                if 0 < len(expected) < length:
                    verified.add(path)
    spatial = [path for path, pair in fields.items() if pair[0].stride]
    wide = spatial.index(_TOO_WIDE[name]) if name in _TOO_WIDE else len(spatial)
    assert verified >= set(spatial[:wide])  # behind these, every position sees the whole image


@pytest.mark.parametrize(
    ("name", "config", "path", "size", "stride", "offset"),
    [
        # Araujo, Norris and Sim, Computing receptive fields of convolutional neural networks (Distill, 2019).
        ("vgg", {"arch": [[2, 64], [2, 128], [3, 256], [3, 512], [3, 512]]}, "stage5.pool", 212, 32, -90),
        ("alexnet", {}, "pool3", 195, 32, None),
        ("resnet18", {}, "stage4", 435, 32, -217),
    ],
)
def test_receptive_fields_match_the_literature(
    name: str, config: dict, path: str, size: int, stride: int, offset: int | None
) -> None:
    for field in summarized(name, **config)[path].fields:
        assert field[:2] == (size, stride)
        assert offset in (None, field.start)


def test_the_receptive_field_of_a_join_is_the_union_of_its_inputs() -> None:
    one, other = layers.Shape((1, 2, 5, 5)), layers.Shape((1, 2, 5, 5))
    one.fields, other.fields = (layers.Field(3, 2, -1),) * 2, (layers.Field(5, 2, 0),) * 2
    for made in (layers.add(one, other), layers.concatenate([one, other])):
        assert made.fields == ((6, 2, -1),) * 2


# Costs


def test_costs_of_lenet_counted_by_hand() -> None:
    found = summarized("lenet")
    conv2 = found["conv2"]
    assert (conv2.parameters, conv2.statistics) == (16 * 6 * 5 * 5 + 16, 0)
    assert conv2.multiply_accumulates == 16 * 10 * 10 * 6 * 5 * 5
    assert conv2.activations == 16 * 10 * 10
    assert conv2.fields == ((14, 2, -2),) * 2
    assert (found["pool2"].parameters, found["pool2"].multiply_accumulates, found["pool2"].activations) == (0, 0, 400)
    assert found["fc3"].multiply_accumulates == 840


@pytest.mark.parametrize("name", catalog.NETWORKS)
def test_costs_of_rows_and_parts_add_up(name: str) -> None:
    description = reference.describe(catalog.get(name))
    for cost in ("parameters", "statistics", "multiply_accumulates", "activations"):
        total = getattr(description, cost)
        direct = summarized(name, everything=False).values()
        assert sum(getattr(row, cost) for row in direct) == total
        every = summarized(name)
        for path, row in every.items():
            parts = [part for inner, part in every.items() if inner.rpartition(".")[0] == path]
            if parts:
                assert getattr(row, cost) == sum(getattr(part, cost) for part in parts), path


def test_parts_are_in_order_of_execution_before_their_own_parts() -> None:
    found = list(summarized("resnet", arch=[[1, 8]]))
    assert found[:7] == ["stem", "stem.conv", "stem.bn", "stem.relu", "stem.pool", "stage1", "stage1.block1"]
    assert found[7:] == [
        *(f"stage1.block1.{layer}" for layer in ("conv1", "bn1", "relu1", "conv2", "bn2")),
        *("stage1.block1.shortcut", "stage1.block1.shortcut.conv", "stage1.block1.relu2"),
        *("head", "head.pool", "head.flatten", "head.fc"),
    ]


# Counts of the frameworks


class Counter:
    """Counts parameters and operations with a framework's own tools."""

    def build(self, backend, network: catalog.Network):
        return backend.build(network, "float32")


class Torch(Counter):
    """Counts with PyTorch's module tree and FlopCounterMode."""

    def parameters(self, model) -> Iterator[tuple[str, int, int]]:
        for path, module in model.named_modules():
            statistics = [buffer for name, buffer in module.named_buffers() if "running_" in name]
            yield path, sum(p.numel() for p in module.parameters()), sum(buffer.numel() for buffer in statistics)

    def multiply_accumulates(self, model, network) -> Callable[[str, np.ndarray], float]:
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.eval()(torch.zeros(1, *network.input_shape))
        counts = {path: sum(each.values()) for path, each in counter.get_flop_counts().items()}
        return lambda path, _: counts.get(f"{type(model).__name__}.{path}", 0) / 2


class Jax(Counter):
    """Counts with Flax NNX's module tree and XLA's cost analysis."""

    def parameters(self, model) -> Iterator[tuple[str, int, int]]:
        import jax
        from flax import nnx

        from jax_impl.weights import modules_by_path

        for path, module in modules_by_path(model).items():
            sizes = [
                sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, kind)))
                for kind in (nnx.Param, nnx.BatchStat)
            ]
            yield path, *sizes

    def multiply_accumulates(self, model, network) -> Callable[[str, np.ndarray], float]:
        import jax
        from flax import nnx

        from jax_impl import grouped_convolution
        from jax_impl.weights import modules_by_path

        modules = modules_by_path(model)

        def count(path: str, given: np.ndarray) -> float:
            graphdef, state = nnx.split(modules[path])
            x = jax.ShapeDtypeStruct(layout.nchw_to_nhwc(given).shape, np.float32)
            # A dense convolution in place of groups would also count multiplications by the zeros between groups.
            with mock.patch.object(grouped_convolution, "_DENSE_CHANNELS", 1):
                lowered = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x)).lower(state, x)
            additions_of_the_bias = math.prod(lowered.out_info.shape)
            return (lowered.cost_analysis()["flops"] - additions_of_the_bias) / 2

        return count


class Tf(Counter):
    """Counts with Keras's layers and TensorFlow's profiler."""

    def parameters(self, model) -> Iterator[tuple[str, int, int]]:
        from tf_impl.weights import named_layers

        for path, layer in named_layers(model):
            trained = sum(math.prod(weight.shape) for weight in layer.trainable_weights)
            yield path, trained, layer.count_params() - trained

    def multiply_accumulates(self, model, network) -> Callable[[str, np.ndarray], float]:
        import tensorflow as tf
        from tensorflow.python.profiler.model_analyzer import profile
        from tensorflow.python.profiler.option_builder import ProfileOptionBuilder

        from tf_impl.weights import named_layers

        named = dict(named_layers(model))
        options = ProfileOptionBuilder(ProfileOptionBuilder.float_operation())
        options = options.with_empty_output().with_accounted_types(["Conv2D", "MatMul"]).build()

        def count(path: str, given: np.ndarray) -> float:
            spec = tf.TensorSpec(layout.nchw_to_nhwc(given).shape, tf.float32)
            graph = tf.function(named[path]).get_concrete_function(spec).graph
            return profile(graph, options=options).total_float_ops / 2

        return count


class Mxnet(Counter):
    """Counts with Gluon's parameters. MXNet does not count operations."""

    def build(self, backend, network: catalog.Network):
        # The Backend switches gradients off, but Gluon distinguishes parameters from statistics by them.
        import mxnet_impl

        return mxnet_impl.build(network.name, **network.settings())

    def parameters(self, model) -> Iterator[tuple[str, int, int]]:
        from mxnet_impl.weights import named_blocks

        for path, block in named_blocks(model):
            of = {"write": 0, "null": 0}
            for parameter in block.collect_params().values():
                of[parameter.grad_req] += math.prod(parameter.shape)
            yield path, of["write"], of["null"]


@pytest.fixture(scope="session")
def counter(backend_name: str, backend):
    return {"torch": Torch, "jax": Jax, "tf": Tf, "mxnet": Mxnet}[backend_name]()


@pytest.mark.port
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.family)
def test_parameters_and_statistics_match_the_framework(counter, backend, network: catalog.Network) -> None:
    rows = summarized(network.name, **network.settings())
    counted = {path: sizes for path, *sizes in counter.parameters(counter.build(backend, network))}
    for path, row in rows.items():
        # An activation that is a function is not in the module tree.
        assert [row.parameters, row.statistics] == counted.get(path, [0, 0]), path
    assert {path for path, sizes in counted.items() if any(sizes)} <= {"", *rows}


@pytest.mark.port
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.family)
def test_output_shapes_in_the_framework_match_the_reference(
    backend, backend_name: str, network: catalog.Network
) -> None:
    description = reference.describe(network)
    model = backend.build(network, "float32")
    backend.load(model, weights.initialize(network))
    calls = backend.summary(model)
    found = summary.rows(calls, description, backend.container, everything=True)
    expected = summarized(network.name, **network.settings())
    assert [row.path for row in found] == list(expected)
    for row in found:
        shape = expected[row.path].shape
        if len(shape) == 4 and backend_name in ("jax", "tf"):
            shape = (shape[0], *shape[2:], shape[1])
        assert row.shape == shape, row.path
    left_out = {call.kind for call in calls} - {row.kind for row in found}
    assert left_out <= {"Identity"}


def padding_share(row: summary.Row, given: np.ndarray, layer: layers.Conv2d) -> float:
    """Return the fraction of a convolution's multiplications with padding, which XLA does not count."""
    inside = [
        sum(
            0 <= i * layer.stride + u - layer.padding < pixels
            for i, u in itertools.product(range(positions), range(layer.kernel))
        )
        / (positions * layer.kernel)
        for positions, pixels in zip(row.shape[2:], given.shape[2:], strict=True)
    ]
    return 1 - math.prod(inside)


@pytest.mark.port
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.family)
def test_multiply_accumulates_match_the_framework(
    counter, backend_name: str, backend, network: catalog.Network
) -> None:
    if not hasattr(counter, "multiply_accumulates"):
        pytest.skip("the framework does not count operations")
    count = counter.multiply_accumulates(counter.build(backend, network), network)
    truth = reference.build(network)
    reference.load(truth, weights.initialize(network))
    given = {path: x for path, (x, _) in reference.calls(truth, np.zeros((1, *network.input_shape))).items()}
    rows = summarized(network.name, **network.settings())
    counted = 0
    for layer in truth.modules():
        if isinstance(layer, layers.Conv2d | layers.Linear):
            row, x = rows[layer.path], given[layer.path]
            padding = padding_share(row, x, layer) if backend_name == "jax" and x.ndim == 4 else 0
            expected = row.multiply_accumulates * (1 - padding)
            assert count(layer.path, x) == pytest.approx(expected, rel=1e-9), layer.path
            counted += 1
        else:
            assert not isinstance(layer, layers.Layer) or rows[layer.path].multiply_accumulates == 0
    assert counted == sum(tensor.kind != "vector" for tensor in reference.describe(network).manifest.values())
