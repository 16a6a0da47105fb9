"""Keras's own tools on the TensorFlow port: saving, cloning, training, summaries and export of models and layers."""

from __future__ import annotations

import copy
import importlib
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from support import ROOT

from common import catalog, images, weights

pytestmark = [
    pytest.mark.port("tf"),
    pytest.mark.usefixtures("backend"),
    # Keras saves its variables as NumPy arrays, by a conversion that NumPy 2 deprecates.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _register_the_classes_of_this_copy(port: ModuleType) -> None:
    """Register the port's classes with Keras once more: changed copies, in tests of mutants, take the same names."""
    import keras

    for name, module in sys.modules.items():
        for value in vars(module).values() if name.startswith("tf_impl") else ():
            if isinstance(value, type) and value.__module__ == name and hasattr(value, "get_config"):
                registered = keras.saving.get_registered_name(value)
                package, _, own = registered.rpartition(">")
                if package:
                    keras.saving.register_keras_serializable(package, own)(value)


CASES: dict[str, dict[str, Any]] = {
    "lenet": {},
    "alexnet": {"input_size": [67, 75]},
    "vgg11": {"input_size": [32, 41]},
    "vgg11_small": {"input_size": [32, 41]},
    "nin": {"input_size": [83, 67]},
    "googlenet": {"input_size": [38, 51]},
    "bn_lenet": {},
    "bn_lenet_scratch": {},
    "resnet18": {"input_size": [33, 38]},
    "densenet": {"input_size": [38, 33]},
    "regnetx32": {"input_size": [33, 38]},
    "vgg": {"arch": [[1, 8], [2, 16]], "input_size": [13, 18]},
    "resnet": {"arch": [[1, 8], [2, 16], [1, 16]], "input_size": [38, 51], "in_channels": 3},
    "resnext": {"arch": [[1, 8, 4, 1.0], [2, 16, 8, 0.5]], "input_size": [38, 51], "num_classes": 7},
    "densenet-family": {"arch": [2, 1, 2], "growth_rate": 4, "num_channels": 8, "input_size": [38, 51]},
    "anynet": {"arch": [[2, 24, 8, 1], [1, 32, 8, 0.5]], "stem_channels": 10, "input_size": [38, 51]},
}
"""Every network of the catalog at a small size, and every family in a small configuration."""
LARGE = ["alexnet", "vgg11", "vgg11_small"]
"""Networks with layers of 4096 units; in float32 they take half the time."""
FAMILIES = ["lenet", "bn_lenet_scratch", "vgg", "resnet", "resnext", "densenet-family", "anynet"]
"""Small networks that together use every kind of layer."""


def network_of(case: str) -> catalog.Network:
    return catalog.get(case.removesuffix("-family"), **CASES[case])


def build(case: str, dtype: str = "float32") -> Any:
    """A model whose every weight is random, biases and statistics too."""
    import tf_impl
    from tf_impl.weights import from_canonical

    network = network_of(case)
    model = tf_impl.build(network.name, dtype=dtype, **network.settings())
    from_canonical(model, weights.initialize(network, "probe", 3, dtype))
    return model


def batch_for(model: Any, count: int = 2) -> np.ndarray:
    """Images for a model: (N, H, W, C)."""
    return images.noise_batch(model.network, count, 5).transpose(0, 2, 3, 1).astype(model.dtype)


def assert_same(model: Any, other: Any) -> None:
    """Check that two models are the same network in the same dtype, with the same weights and logits."""
    from tf_impl.weights import named_layers, to_canonical

    assert type(other) is type(model)
    assert other.network == model.network
    assert {layer.dtype_policy.name for _, layer in named_layers(other)} == {model.dtype}
    tensors, others = to_canonical(model), to_canonical(other)
    assert list(tensors) == list(others)
    for name, array in tensors.items():
        np.testing.assert_array_equal(others[name], array, name)
    x = batch_for(model)
    for training in (False, True):
        if not training or not hasattr(model.network.config, "dropout"):
            np.testing.assert_array_equal(other(x, training=training), model(x, training=training))


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(case: str) -> Any:
    return build(case, "float32" if case in LARGE else "float64")


def test_a_saved_model_loads_with_its_weights_and_dtype(model, tmp_path: Path) -> None:
    import keras

    import tf_impl

    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert_same(model, loaded)
    files = [tmp_path / "model.safetensors", tmp_path / "loaded.safetensors"]
    for each, file in zip((model, loaded), files, strict=True):
        tf_impl.save_weights(each, file)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_clone_is_the_same_network_with_weights_of_its_own(model) -> None:
    import keras

    clone = keras.models.clone_model(model)
    assert not {id(variable) for variable in clone.variables} & {id(variable) for variable in model.variables}
    clone.set_weights(model.get_weights())
    assert_same(model, clone)


def test_a_model_can_be_made_from_its_configuration(model) -> None:
    import keras

    config = model.get_config()
    made = type(model).from_config(config)
    made.set_weights(model.get_weights())
    assert_same(model, made)
    from_json = keras.models.model_from_json(model.to_json())
    from_json.set_weights(model.get_weights())
    assert_same(model, from_json)
    assert json.dumps(from_json.get_config()) == json.dumps(config)


def test_weights_saved_by_keras_load_into_a_new_model(model, case: str, tmp_path: Path) -> None:
    import tf_impl

    model.save_weights(tmp_path / "m.weights.h5")
    network = network_of(case)
    other = tf_impl.build(network.name, dtype=model.dtype, **network.settings())
    other.load_weights(tmp_path / "m.weights.h5")
    assert_same(model, other)


def test_a_summary_shows_shapes_and_parameters(model) -> None:
    lines: list[str] = []
    model.summary(print_fn=lines.append)
    text = "\n".join(lines)
    assert "unbuilt" not in text
    assert f"Total params: {model.count_params():,}" in text
    rows = {line.split("│")[1].split(" ")[1]: line for line in text.splitlines() if line.count("│") == 4}
    for layer in model.layers:
        assert layer.name in rows
        if layer.weights:
            shape = rows[layer.name].split("│")[2].strip()
            assert shape.startswith("(None, "), rows[layer.name]
            assert f"{layer.count_params():,}" in rows[layer.name]
    head = model.layers[-1]
    assert head.weights == [] or f"(None, {model.network.config.num_classes})" in rows[head.name]


def test_an_exported_model_gives_the_same_logits(model, tmp_path: Path) -> None:
    import tensorflow as tf

    model.export(tmp_path / "exported", verbose=False)
    x = batch_for(model)
    exported = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(exported.serve(x), model(x), rtol=1e-4 if model.dtype == "float32" else 1e-12, atol=1e-6)


@pytest.mark.parametrize("case", FAMILIES)
def test_deepcopy_copies_a_model(case: str) -> None:
    model = build(case, "float64")
    assert_same(model, copy.deepcopy(model))


def test_keras_trains_evaluates_and_predicts_and_what_it_saves_goes_on(case: str, tmp_path: Path) -> None:
    import keras

    model = build(case)
    before = model.get_weights()
    model.compile(
        keras.optimizers.Adam(1e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    x, y = batch_for(model, 4), np.arange(4) % model.network.config.num_classes
    history = model.fit(x, y, batch_size=2, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert all((now != then).any() for now, then in zip(model.get_weights(), before, strict=True) if then.ndim > 1)
    logits = model.predict(x, verbose=0)
    np.testing.assert_allclose(logits, model(x), rtol=1e-3, atol=1e-4 * np.abs(logits).max())
    evaluated = model.evaluate(x, y, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.evaluate(x, y, verbose=0) == pytest.approx(evaluated, rel=1e-5)
    assert_same(model, loaded)
    assert int(loaded.optimizer.iterations) == 2
    loaded.fit(x, y, batch_size=2, epochs=1, verbose=0)
    assert int(loaded.optimizer.iterations) == 4


def test_a_new_process_that_imports_only_the_port_loads_a_saved_model(tmp_path: Path) -> None:
    expected = {}
    for case in FAMILIES:
        model = build(case, "float64")
        model.save(tmp_path / f"{case}.keras")
        expected[case] = batch_for(model), model(batch_for(model)).numpy()
    np.savez(tmp_path / "inputs.npz", **{case: x for case, (x, _) in expected.items()})
    program = """
import keras, numpy as np, tf_impl
with np.load("inputs.npz") as inputs:
    np.savez("outputs.npz", **{case: keras.models.load_model(f"{case}.keras")(inputs[case]) for case in inputs})
"""
    command = [sys.executable, "-c", program]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=300)
    with np.load(tmp_path / "outputs.npz") as outputs:
        for case, (_, logits) in expected.items():
            np.testing.assert_allclose(outputs[case], logits, rtol=1e-12, err_msg=case)


def test_a_network_takes_its_dtype_and_name_as_any_keras_model_does() -> None:
    import tensorflow as tf

    import tf_impl

    model = tf_impl.ResNet(arch=[[1, 8], [1, 16]], input_size=[33, 38], dtype="float64", name="teacher")
    assert {variable.dtype for variable in model.weights} == {"float64"}
    assert model(batch_for(model)).dtype == tf.float64
    assert model.name == "teacher"
    assert model.network == catalog.get("resnet", arch=[[1, 8], [1, 16]], input_size=[33, 38])
    assert tf_impl.build("resnet18", input_size=[33, 38]).name == "resnet18"
    mixed = tf_impl.LeNet(dtype="mixed_bfloat16")
    assert mixed(np.zeros((1, 28, 28, 1))).dtype == tf.bfloat16
    assert {variable.dtype for variable in mixed.weights} == {"float32"}


def layers() -> dict[str, tuple[Callable[[], Any], tuple[int, ...]]]:
    """Every public layer and block, and a shape that it takes: (H, W, C), or (H, W) without a batch."""
    import tf_impl
    from tf_impl import heads, operators
    from tf_impl import layers as own

    return {
        "Conv2D": (lambda: own.Conv2D(6, (3, 5), strides=2, padding=1, groups=2), (9, 8, 4)),
        "MaxPool2D": (lambda: own.MaxPool2D((3, 2), strides=2, padding=1), (9, 8, 4)),
        "GlobalAvgPool2D": (own.GlobalAvgPool2D, (9, 8, 4)),
        "BatchNormalization": (lambda: own.BatchNormalization(momentum=0.5, epsilon=0.1), (9, 8, 4)),
        "BatchNorm": (tf_impl.BatchNorm, (9, 8, 4)),
        "Stem": (lambda: heads.Stem(6), (33, 30, 3)),
        "Head": (lambda: heads.Head(5), (3, 4, 6)),
        "VGGStage": (lambda: tf_impl.VGGStage(2, 6), (9, 8, 4)),
        "NiNStage": (lambda: tf_impl.NiNStage(6, 5, stride=2, padding=2), (9, 8, 4)),
        "Inception": (lambda: tf_impl.Inception(2, (3, 4), (5, 6), 7), (9, 8, 4)),
        "Residual": (lambda: tf_impl.Residual(6, stride=2, projection=True), (9, 8, 4)),
        "ResNeXtBlock": (lambda: tf_impl.ResNeXtBlock(8, 2, 0.5, stride=2, projection=True), (9, 8, 4)),
        "DenseBlock": (lambda: tf_impl.DenseBlock(3, 2), (9, 8, 4)),
        "Transition": (lambda: tf_impl.Transition(2), (9, 8, 4)),
        "operators.Conv2D": (lambda: operators.Conv2D((2, 3)), (8,)),
    }


LAYERS = [
    "Conv2D",
    "MaxPool2D",
    "GlobalAvgPool2D",
    "BatchNormalization",
    "BatchNorm",
    "Stem",
    "Head",
    "VGGStage",
    "NiNStage",
    "Inception",
    "Residual",
    "ResNeXtBlock",
    "DenseBlock",
    "Transition",
    "operators.Conv2D",
]


def randomize(layer: Any) -> None:
    """Give every weight random numbers, so that none is equal to its initial value."""
    numbers = np.random.default_rng(0)
    layer.set_weights([numbers.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_can_be_made_from_its_configuration_and_built_for_a_shape(name: str) -> None:
    import keras

    make, shape = layers()[name]
    layer = make()
    x = np.random.default_rng(1).standard_normal((9, *shape)).astype("float32")
    layer(x)
    randomize(layer)
    twin = type(layer).from_config(json.loads(json.dumps(layer.get_config())))
    twin.build((None if name != "operators.Conv2D" else 9, *shape))
    assert [weight.shape for weight in twin.weights] == [weight.shape for weight in layer.weights]
    twin.set_weights(layer.get_weights())
    y = layer(x)
    np.testing.assert_array_equal(twin(x), y)
    assert twin.compute_output_spec(keras.KerasTensor(x.shape)).shape == y.shape


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LAYERS[:-1])  # the last takes an image without a batch
def test_a_model_with_a_layer_loads_with_its_weights(name: str, dtype: str, tmp_path: Path) -> None:
    import keras

    make, shape = layers()[name]
    layer = type(make()).from_config({**make().get_config(), "dtype": dtype})
    inputs = keras.Input(shape, dtype=dtype)
    model = keras.Model(inputs, layer(inputs))
    randomize(model)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    x = np.random.default_rng(1).standard_normal((2, *shape)).astype(dtype)
    assert loaded(x).dtype == dtype
    for training in (False, True):
        np.testing.assert_array_equal(loaded(x, training=training), model(x, training=training))


def test_every_class_of_the_port_is_registered_under_a_name_of_its_own() -> None:
    import keras

    import tf_impl

    modules = [importlib.import_module(f"tf_impl.{each.name}") for each in pkgutil.iter_modules(tf_impl.__path__)]
    classes = [
        cls
        for module in modules
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, keras.Layer) and cls.__module__ == module.__name__
    ]
    for cls in classes:
        if cls.__name__ not in ("Block", "Network"):  # base classes, of which there are no instances
            name = keras.saving.get_registered_name(cls)
            assert name.startswith("rosetta>"), cls
            assert keras.saving.get_registered_object(name) is cls, cls


def test_each_layer_of_a_stage_has_its_canonical_name_and_other_models_keep_their_own() -> None:
    import keras

    from tf_impl.weights import named_layers, variables

    model = build("resnet")
    assert "stage2.block1.conv1.weight" in variables(model)
    assert [path for path, _ in named_layers(build("vgg")) if path.count(".") == 1][:5] == [
        "stage1.conv1",
        "stage1.relu1",
        "stage1.pool",
        "stage2.conv1",
        "stage2.conv2",
    ]

    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.stages = [keras.layers.Dense(2), keras.layers.ReLU()]

    assert [path for path, _ in named_layers(Own())] == ["stages.0", "stages.1"]


def test_tracing_leaves_the_model_and_keras_as_they_were(backend) -> None:
    import keras

    from tf_impl.weights import named_layers

    call, initializer = keras.Layer.__call__, keras.initializers.GlorotUniform.__call__
    network = network_of("resnet")
    model = backend.build(network, "float32")
    backend.load(model, weights.initialize(network, "probe", 3, "float32"))
    x = images.noise_batch(network, 2, 5)
    logits = backend.run(model, x)
    np.testing.assert_array_equal(backend.trace(model, x)["logits"], logits)
    with pytest.raises(ValueError, match="expected"):
        backend.trace(model, x[:, :1])
    assert not [path for path, layer in named_layers(model) if "call" in vars(layer)]
    np.testing.assert_array_equal(backend.run(model, x), logits)
    assert keras.Layer.__call__ is call
    assert keras.initializers.GlorotUniform.__call__ is initializer
    assert isinstance(keras.layers.Dense(2).kernel_initializer, keras.initializers.GlorotUniform)
