"""The port that `--backend` names, against the NumPy reference, the facts and its own framework."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import FACTS

from common import catalog, images, reference, weights
from common.errors import ConfigError, InputError, WeightsError
from common.parity.comparison import compare, first_divergence, spread
from common.parity.tolerances import Check, Limits
from common.view.summary import rows

pytestmark = pytest.mark.port

ODD = {"num_classes": 7, "in_channels": 3, "input_size": [57, 83]}
"""Odd, not square, several channels: 57x83 where a network allows it."""

CASES = [
    *((name, {**ODD, "input_size": [97, 71] if name in ("alexnet", "nin") else [57, 83]}) for name in catalog.NETWORKS),
    ("vgg", {**ODD, "arch": [[1, 8], [3, 5]]}),
    ("resnet", {**ODD, "arch": [[1, 8], [2, 16]]}),
    ("resnet", {**ODD, "arch": [[11, 8]]}),  # block10 comes after block2
    ("resnext", {**ODD, "arch": [[1, 32, 8, 0.5], [2, 24, 4, 1]]}),
    ("densenet", {**ODD, "arch": [2, 3, 1], "growth_rate": 7, "num_channels": 9}),
    ("anynet", {**ODD, "arch": [[2, 24, 8, 1], [1, 32, 8, 0.5]], "stem_channels": 10}),
]
"""Every network and family, at sizes that are nobody's default."""

IDS = [f"{name}-{i}" for i, (name, _) in enumerate(CASES)]


def traces(
    backend, network: catalog.Network, dtype: str, batch: int, training: bool = False
) -> tuple[dict, dict, dict, dict]:
    """Return what reference and port compute from the same weights and input, and their weights afterwards."""
    tensors = weights.initialize(network, "probe", 3, "float64")
    x = images.noise_batch(network, batch, 5)
    truth = reference.build(network)
    reference.load(truth, tensors)
    truth.train(training)
    expected = reference.trace(truth, x)
    model = backend.build(network, dtype)
    backend.load(model, tensors)
    return expected, backend.trace(model, x, training), reference.weights(truth), backend.weights(model)


def assert_agrees(network: catalog.Network, dtype: str, expected: dict, found: dict, check: Check = "forward") -> None:
    assert list(found) == list(expected)
    limits = Limits(check, network, len(expected["logits"]))
    divergence = first_divergence(compare(expected, found, dtype, lambda tap: limits.tap(tap, dtype)))
    assert divergence is None, f"{divergence.tap}: {divergence.error:.2e}, {divergence.limit} {divergence.note}"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("name", "config"), CASES, ids=IDS)
def test_every_tap_is_the_references(backend, name: str, config: dict, dtype: str) -> None:
    network = catalog.get(name, **config)
    expected, found, *_ = traces(backend, network, dtype, batch=3)
    assert min(spread(values) for values in expected.values()) > 1e-4  # else agreement would mean nothing
    assert_agrees(network, dtype, expected, found)


@pytest.mark.parametrize("name", ["lenet", "bn_lenet", "googlenet", "resnet18", "densenet", "regnetx32"])
def test_a_batch_of_one_at_the_default_size_agrees_and_run_gives_the_traces_logits(backend, name: str) -> None:
    network = catalog.get(name)
    expected, found, *_ = traces(backend, network, "float64", batch=1)
    assert_agrees(network, "float64", expected, found)
    model = backend.build(network, "float64")
    backend.load(model, weights.initialize(network, "probe", 3, "float64"))
    logits = backend.run(model, images.noise_batch(network, 1, 5))
    np.testing.assert_allclose(logits, expected["logits"], rtol=1e-11)


TRAINED = [
    (name, {**config, "dropout": 0.0} if hasattr(catalog.get(name).config, "dropout") else config)
    for name, config in CASES
]


@pytest.mark.parametrize(("name", "config"), TRAINED, ids=IDS)
def test_training_normalizes_by_the_batch_and_moves_the_biased_statistics(
    backend, backend_name: str, name: str, config: dict
) -> None:
    network = catalog.get(name, **config)
    expected, found, expected_weights, found_weights = traces(backend, network, "float64", batch=3, training=True)
    assert_agrees(network, "float64", expected, found, "gradients")
    start = weights.initialize(network, "probe", 3, "float64")
    for tensor, values in expected_weights.items():
        error = np.abs(found_weights[tensor] - values).max() / np.abs(values).max()
        assert error <= 1e-12, f"{tensor}: {error:.1e}"
        assert (values != start[tensor]).any() == (".running_" in tensor), tensor


@pytest.mark.parametrize("name", ["resnet18", "regnetx32"])
def test_the_statistics_are_the_biased_ones_in_float32_too(backend, name: str) -> None:
    # A framework may have another operation for it, as TensorFlow does. The unbiased ones would be 1e-4 off, or more.
    network = catalog.get(name, input_size=[33, 38])
    *_, expected, found = traces(backend, network, "float32", batch=3, training=True)
    for tensor in (tensor for tensor in expected if ".running_" in tensor):
        error = np.abs(found[tensor] - expected[tensor]).max() / np.abs(expected[tensor]).max()
        assert error <= 2e-5, f"{tensor}: {error:.1e}"


def test_evaluation_leaves_the_statistics_alone(backend) -> None:
    network = catalog.get("bn_lenet")
    tensors = weights.initialize(network, "probe", 3, "float64")
    *_, found = traces(backend, network, "float64", batch=3)
    assert all((found[name] == tensors[name]).all() for name in tensors)


@pytest.mark.parametrize("name", FACTS)
def test_manifest_and_summary_are_those_of_the_facts(backend, backend_name: str, name: str) -> None:
    network = catalog.get(name)
    model = backend.build(network, "float32")
    tensors = weights.initialize(network)
    backend.load(model, tensors)
    found = backend.weights(model)
    manifest = {tensor: list(values.shape) for tensor, values in found.items()}
    assert list(manifest.items()) == list(FACTS[name]["manifest"].items())
    description = reference.describe(network)
    layers = rows(backend.summary(model), description, backend.container)
    facts = FACTS[name]["summary"]
    assert [list(row.shape) for row in layers] == [native(backend_name, shape) for _, shape in facts]
    assert [row.kind for row in layers] == kinds(backend_name, name)


def native(backend_name: str, shape: list[int]) -> list[int]:
    """A shape in the backend's own layout."""
    if len(shape) == 4 and backend_name in ("jax", "tf"):
        batch, channels, height, width = shape
        return [batch, height, width, channels]
    return shape


STAGES = {
    "vgg11": ["VGGStage"] * 5,
    "vgg11_small": ["VGGStage"] * 5,
    "nin": ["NiNStage"] * 4,
    "googlenet": ["Sequential", "Sequential", "Stage1", "Stage2", "Sequential"],
    "resnet18": ["Stem", *["ResNetStage"] * 4, "Head"],
    "densenet": ["Stem", *["Transition"] * 3, "DenseHead"],
    "regnetx32": ["SmallStem", *["ResNeXtStage"] * 2, "Head"],
}
"""Blocks that replace the Sequentials of the facts in a framework without named Sequentials, in order."""

KINDS = {
    "torch": {"DenseBlock": "Sequential"},
    "jax": {
        "Conv2d": "Conv",
        "BatchNorm1d": "BatchNorm",
        "BatchNorm2d": "BatchNorm",
        "AvgPool2d": "AvgPool",
        "MaxPool2d": "MaxPool",
        "AdaptiveAvgPool2d": "GlobalAvgPool",
        "Flatten": "flatten",
        "ReLU": "relu",
        "Sigmoid": "sigmoid",
    },
    "tf": {
        "Conv2d": "Conv2D",
        "Linear": "Dense",
        "BatchNorm1d": "BatchNormalization",
        "BatchNorm2d": "BatchNormalization",
        "AvgPool2d": "AveragePooling2D",
        "MaxPool2d": "MaxPooling2D",
        "AdaptiveAvgPool2d": "GlobalAveragePooling2D",
        "Sigmoid": "Activation",
    },
    "mxnet": {
        "Conv2d": "Conv2D",
        "Linear": "Dense",
        "BatchNorm1d": "BatchNorm",
        "BatchNorm2d": "BatchNorm",
        "AvgPool2d": "AvgPool2D",
        "MaxPool2d": "MaxPool2D",
        "AdaptiveAvgPool2d": "GlobalAvgPool2D",
        "ReLU": "Activation",
        "Sigmoid": "Activation",
        "Sequential": "HybridSequential",
    },
}
"""Class names of the layers of the facts in each framework."""


def kinds(backend_name: str, name: str) -> list[str]:
    """The layers of the facts in the backend's own terms."""
    stages = iter(STAGES.get(name, ()) if backend_name in ("jax", "tf") else ())
    named = (next(stages, kind) if kind == "Sequential" else kind for kind, _ in FACTS[name]["summary"])
    return [KINDS[backend_name].get(kind, kind) for kind in named]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "name", ["alexnet", "nin", "googlenet", "bn_lenet_scratch", "resnet", "resnext", "densenet", "anynet"]
)
def test_canonical_to_native_and_back_is_the_same_bytes(backend, port, tmp_path: Path, name: str, dtype: str) -> None:
    config = next(config for case, config in CASES if case == name)
    network = catalog.get(name, **config)
    first, second = tmp_path / "first", tmp_path / "second"
    weights.write_initial(first, network, "probe", 3, dtype)
    model = backend.build(network, dtype)
    port.load_weights(model, first)
    port.save_weights(model, second)
    assert first.read_bytes() == second.read_bytes()


def test_loading_checks_the_whole_file_before_it_touches_the_model(port, tmp_path: Path) -> None:
    path = tmp_path / "w"
    model = port.build("lenet")
    port.save_weights(model, tmp_path / "before")
    for network in (catalog.get("bn_lenet"), catalog.get("lenet", num_classes=7)):
        weights.write_initial(path, network)
        with pytest.raises(WeightsError, match="this model is lenet"):
            port.load_weights(model, path)
    weights.write_initial(path, catalog.get("lenet"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        port.load_weights(model, path)
    port.save_weights(model, tmp_path / "after")
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()
    with pytest.raises(InputError, match="there is no folder"):
        port.save_weights(model, tmp_path / "absent" / "w")


def test_float64_weights_load_into_a_float32_model_rounded(port, tmp_path: Path) -> None:
    weights.write_initial(tmp_path / "wide", catalog.get("lenet"), "probe", 3, "float64")
    weights.write_initial(tmp_path / "narrow", catalog.get("lenet"), "probe", 3, "float32")
    model = port.build("lenet")
    port.load_weights(model, tmp_path / "wide")
    port.save_weights(model, tmp_path / "saved")
    assert (tmp_path / "saved").read_bytes() == (tmp_path / "narrow").read_bytes()


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("resnet19", {}, "did you mean resnet18"),
        ("lenet", {"num_clases": 7}, "did you mean num_classes"),
        ("alexnet", {"input_size": (64, 64)}, "pool3 runs out of pixels"),
        ("anynet", {"arch": ((1, 30, 16, 1),)}, "must be a positive multiple of the group width"),
    ],
)
def test_build_refuses_what_cannot_be(port, name: str, config: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        port.build(name, **config)


def test_every_package_has_the_same_public_names(port) -> None:
    expected = {
        *("LeNet", "AlexNet", "VGG", "NiN", "GoogLeNet", "BNLeNet", "BNLeNetScratch", "ResNet", "ResNeXt", "DenseNet"),
        *("AnyNet", "VGGStage", "NiNStage", "Inception", "Residual", "ResNeXtBlock", "DenseBlock", "Transition"),
        *("BatchNorm", "batch_norm", "build", "load_weights", "save_weights"),
    }
    assert set(port.__all__) == expected
    assert all(hasattr(port, name) for name in expected)


def test_native_initialization_is_no_constant_and_differs_from_model_to_model(port, backend, backend_name: str) -> None:
    first, second = (port.build("lenet", **({"seed": seed} if backend_name == "jax" else {})) for seed in (0, 1))
    for name, values in backend.weights(first).items():
        if name.endswith("weight"):
            assert len(np.unique(values)) > values.size // 2, name
            assert (values != backend.weights(second)[name]).mean() > 0.9, name


# The framework's own ways: a block alone, a compiled model, a training step.


class Torch:
    """PyTorch's own ways."""

    def block_shape(self, port, kind: str, arguments: tuple, shape: tuple[int, ...]) -> tuple[int, ...]:
        import torch

        return tuple(getattr(port, kind)(shape[1], *arguments)(torch.zeros(shape)).shape)

    def compiled(self, model, x: np.ndarray) -> np.ndarray:
        import torch

        # Inductor takes a fresh machine minutes for GoogLeNet; what it makes of blocks is seen where they are deployed.
        backend = "inductor" if "lenet" in model.network.name.split("_") else "aot_eager"
        # Of the models that came before: it compiles eight of one class, and runs the next as they are.
        torch._dynamo.reset()
        compiled = torch.compile(model.eval(), fullgraph=True, backend=backend)
        with torch.no_grad():
            return compiled(torch.from_numpy(x).float()).numpy()

    def train(self, model, x: np.ndarray, labels: np.ndarray, steps: int) -> list[float]:
        import torch

        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses = []
        model.train()
        for _ in range(steps):
            loss = torch.nn.functional.cross_entropy(model(torch.from_numpy(x).float()), torch.from_numpy(labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses


class Jax:
    """JAX's and Flax NNX's own ways."""

    def block_shape(self, port, kind: str, arguments: tuple, shape: tuple[int, ...]) -> tuple[int, ...]:
        import jax
        from flax import nnx

        def run(images):
            return getattr(port, kind)(channels, *arguments, rngs=nnx.Rngs(0))(images)

        # Layer by layer XLA would compile each operation of each shape, and be asked for shapes alone.
        batch, channels, height, width = shape
        output = jax.eval_shape(run, jax.ShapeDtypeStruct((batch, height, width, channels), "float32"))
        batch, height, width, channels = output.shape
        return batch, channels, height, width

    def compiled(self, model, x: np.ndarray) -> np.ndarray:
        import jax
        import jax.numpy as jnp
        from flax import nnx

        graph, state = nnx.split(model)

        @jax.jit
        def run(state, images):
            model = nnx.merge(graph, state)
            model.eval()
            return model(images)

        return np.asarray(run(state, jnp.asarray(x.transpose(0, 2, 3, 1), jnp.float32)))

    def train(self, model, x: np.ndarray, labels: np.ndarray, steps: int) -> list[float]:
        import jax.numpy as jnp
        import optax
        from flax import nnx

        images = jnp.asarray(x.transpose(0, 2, 3, 1), jnp.float32)
        optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)

        @nnx.jit
        def step(model, optimizer):
            def loss_of(model):
                return optax.softmax_cross_entropy_with_integer_labels(model(images), jnp.asarray(labels)).mean()

            loss, gradients = nnx.value_and_grad(loss_of)(model)
            optimizer.update(model, gradients)
            return loss

        model.train()
        return [float(step(model, optimizer)) for _ in range(steps)]


class Tf:
    """TensorFlow's and Keras's own ways."""

    def block_shape(self, port, kind: str, arguments: tuple, shape: tuple[int, ...]) -> tuple[int, ...]:
        import tensorflow as tf

        batch, channels, height, width = shape
        output = getattr(port, kind)(*arguments)(tf.zeros((batch, height, width, channels)))
        batch, height, width, channels = output.shape
        return batch, channels, height, width

    def compiled(self, model, x: np.ndarray) -> np.ndarray:
        import tensorflow as tf

        return tf.function(model)(tf.constant(x.transpose(0, 2, 3, 1), tf.float32)).numpy()

    def train(self, model, x: np.ndarray, labels: np.ndarray, steps: int) -> list[float]:
        import keras

        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss)
        images = x.transpose(0, 2, 3, 1).astype(np.float32)
        return model.fit(images, labels, batch_size=len(x), epochs=steps, verbose=0).history["loss"]


class Mxnet:
    """MXNet's and Gluon's own ways."""

    def block_shape(self, port, kind: str, arguments: tuple, shape: tuple[int, ...]) -> tuple[int, ...]:
        import mxnet as mx

        block = getattr(port, kind)(*arguments)
        block.initialize()
        return block(mx.np.zeros(shape)).shape

    def compiled(self, model, x: np.ndarray) -> np.ndarray:
        import mxnet as mx

        model.hybridize(static_alloc=True, static_shape=True)
        return model(mx.np.array(x, dtype="float32")).asnumpy()

    def train(self, model, x: np.ndarray, labels: np.ndarray, steps: int) -> list[float]:
        import mxnet as mx

        loss_of = mx.gluon.loss.SoftmaxCrossEntropyLoss()
        trainer = mx.gluon.Trainer(model.collect_params(), "sgd", {"learning_rate": 0.1})
        losses = []
        for _ in range(steps):
            with mx.autograd.record():
                loss = loss_of(model(mx.np.array(x, dtype="float32")), mx.np.array(labels))
            loss.backward()
            trainer.step(len(x))
            losses.append(float(loss.mean()))
        return losses


@pytest.fixture(scope="session")
def native_ways(backend_name: str, backend):
    return {"torch": Torch, "jax": Jax, "tf": Tf, "mxnet": Mxnet}[backend_name]()


@pytest.mark.parametrize(
    ("kind", "arguments", "given", "expected"),
    [
        ("VGGStage", (2, 8), (4, 3, 7, 10), (4, 8, 3, 5)),
        ("NiNStage", (8, 11, 4, 0), (4, 3, 57, 83), (4, 8, 12, 19)),
        ("Inception", (8, (4, 6), (2, 5), 3), (4, 3, 7, 10), (4, 22, 7, 10)),
        ("Residual", (3,), (4, 3, 6, 6), (4, 3, 6, 6)),
        ("Residual", (6, 2, True), (4, 3, 6, 6), (4, 6, 3, 3)),
        ("ResNeXtBlock", (32, 16, 1), (4, 32, 96, 96), (4, 32, 96, 96)),
        ("DenseBlock", (2, 10), (4, 3, 8, 8), (4, 23, 8, 8)),
        ("Transition", (10,), (4, 23, 8, 8), (4, 10, 4, 4)),
    ],
)
def test_a_block_alone_has_the_shape_of_its_source(
    native_ways, port, kind: str, arguments: tuple, given: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert native_ways.block_shape(port, kind, arguments, given) == expected


@pytest.mark.parametrize("name", ["lenet", "bn_lenet_scratch", "googlenet", "resnet", "resnext", "densenet"])
def test_a_compiled_model_computes_the_same(native_ways, backend, port, tmp_path: Path, name: str) -> None:
    config = {"arch": [[1, 8], [1, 16]]} if name == "resnet" else {}
    config = {"arch": [[1, 16, 8, 1]]} if name == "resnext" else config
    config = {"arch": [2, 2]} if name == "densenet" else config
    network = catalog.get(name, input_size=[33, 41], **config)
    weights.write_initial(tmp_path / "w", network, "probe", 3)
    model = port.build(name, **network.settings())
    port.load_weights(model, tmp_path / "w")
    x = images.noise_batch(network, 2, 5)
    truth = reference.build(network)
    reference.load(truth, weights.read(tmp_path / "w").tensors)
    expected = reference.trace(truth, x)["logits"]
    found = native_ways.compiled(model, x)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["lenet", "bn_lenet", "bn_lenet_scratch", "resnet"])
def test_a_built_model_trains_as_any_other(native_ways, port, backend, name: str) -> None:
    config = {"arch": [[1, 8], [1, 16]], "input_size": [32, 32]} if name == "resnet" else {}
    model = port.build(name, **config)
    network = catalog.get(name, **config)
    before = {tensor: values.copy() for tensor, values in backend.weights(model).items()}
    _, labels = images.digits()
    chosen = np.random.default_rng(0).choice(len(labels), 32, replace=False)
    x = images.enlarge(images.digits()[0][chosen] / 255, network.config.input_size)[:, None]
    losses = native_ways.train(model, x, labels[chosen].astype(np.int64), 12)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    after = backend.weights(model)
    assert all((before[tensor] != after[tensor]).any() for tensor in before)


def test_a_model_can_be_printed(port) -> None:
    assert "LeNet" in repr(port.build("lenet"))


@pytest.mark.parametrize("name", ["bn_lenet", "bn_lenet_scratch"])
def test_batch_normalization_begins_as_the_identity(backend, name: str) -> None:
    first = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}
    drawn = backend.initial(catalog.get(name), "float32", 0)
    norms = [tensor for tensor in drawn if tensor.startswith("bn")]
    assert len(norms) == 16
    for tensor in norms:
        assert (drawn[tensor] == first[tensor.rpartition(".")[2]]).all(), tensor
