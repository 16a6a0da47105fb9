"""Tests that diagnosis finds the wrong layer and names the mistake."""

from __future__ import annotations

import numpy as np
import pytest

from common import catalog, images, reference, weights
from common.backends import protocol, registry
from common.mutants import pitfalls
from common.parity import patched_import
from common.parity.comparison import Limit, TapError, compare
from common.parity.diagnosis import LayerTrace, common_factor, describe_statistics, findings, merge_findings

RESNET = ("resnet", {"arch": [[1, 8], [1, 16]], "input_size": [33, 41]})
ALEXNET = ("alexnet", {"input_size": [96, 76]})
LENET = ("lenet", {})
BN_LENET = ("bn_lenet", {})
GOOGLENET = ("googlenet", {"input_size": [33, 41]})


def errors_of(layer_trace: LayerTrace, taps: dict[str, np.ndarray]) -> list[TapError]:
    """Return the errors of a trace, with a tolerance of a few roundings."""
    return compare(layer_trace.taps, taps, "float64", lambda _: Limit(1e-14, 1e-13))


def layer_trace_of(name: str, config: dict, training: bool = False) -> tuple[catalog.Network, LayerTrace]:
    network = catalog.get(name, **config)
    tensors = weights.initialize(network, "probe", 0, "float64")
    return network, LayerTrace(network, tensors, images.noise_batch(network, 3, 0), training)


def guesses_of(backend: protocol.Backend, name: str, config: dict, training: bool = False) -> dict[str, str]:
    """Return the explanation of each wrong layer of a backend."""
    network, layer_trace = layer_trace_of(name, config, training)
    model = backend.build(network, "float64")
    backend.load(model, layer_trace.tensors)
    taps = backend.trace(model, layer_trace.x, training, layer_trace.taps)
    assert list(taps) == list(reference.describe(network).taps)
    return {finding.tap: finding.guess for finding in findings(layer_trace, taps, errors_of(layer_trace, taps))}


@pytest.mark.port
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("name", "config"), [RESNET, GOOGLENET, LENET, ("densenet", {"input_size": [33, 33]})])
def test_a_right_port_has_no_wrong_layer(backend, name: str, config: dict, training: bool) -> None:
    assert guesses_of(backend, name, config, training) == {}


@pytest.mark.port
@pytest.mark.parametrize("name", ["stem.conv.weight", "stage1.block1.bn1.running_var", "head.fc.bias"])
def test_a_mistake_in_one_layer_shows_in_that_layer_only(backend, name: str) -> None:
    network, layer_trace = layer_trace_of(*RESNET)
    model = backend.build(network, "float64")
    backend.load(model, {**layer_trace.tensors, name: layer_trace.tensors[name] * 1.5})
    alone = backend.trace(model, layer_trace.x, False, layer_trace.taps)
    wrong = [error.tap for error in errors_of(layer_trace, alone) if not error.agrees]
    assert wrong == [name.rpartition(".")[0], *(["logits"] if wrong[-1] == "logits" else [])]
    together = backend.trace(model, layer_trace.x)
    assert len([error for error in errors_of(layer_trace, together) if not error.agrees]) >= len(wrong)


def pitfall(backend_name: str, number: int) -> list[protocol.Backend]:
    """Return the port with a pitfall put in, in a list that is empty if the port cannot have it."""
    return [
        patched_import.load(backend_name, mutant.edits)
        for mutant in pitfalls.pitfall_mutants(backend_name)
        if mutant.name.split()[0] == str(number)
    ]


@pytest.mark.port
def test_another_epsilon_is_named_in_every_batch_norm(backend_name: str, backend) -> None:
    (mutant,) = pitfall(backend_name, 5)
    found = guesses_of(mutant, *RESNET)
    norms = [tap for tap in reference.describe(catalog.get(RESNET[0], **RESNET[1])).taps if ".bn" in tap]
    assert list(found) == norms
    assert set(found.values()) == {"behaves as with an epsilon of 0.001; expected 1e-05"}


@pytest.mark.port
def test_another_padding_is_named(backend_name: str, backend) -> None:
    (mutant,) = pitfall(backend_name, 4)
    found = guesses_of(mutant, *ALEXNET)
    assert found == {"conv1": "behaves as with padding (0, 0); expected (1, 1)"}


@pytest.mark.port
def test_uneven_padding_is_named(backend_name: str, backend) -> None:
    for mutant in pitfall(backend_name, 1):  # only in ports that can pad unevenly
        found = guesses_of(mutant, "resnet", {"arch": [[1, 8], [1, 16]], "input_size": [32, 32]})
        assert found == {
            "stem.conv": "behaves as with padding (2, 3); expected (3, 3)",
            "stage2.block1.conv1": "behaves as with padding (0, 1); expected (1, 1)",
        }


@pytest.mark.port
def test_a_transposed_kernel_is_named(backend_name: str, backend) -> None:
    (mutant,) = pitfall(backend_name, 11)
    found = guesses_of(mutant, *RESNET)
    assert "stem.conv" in found
    assert all(".conv" in tap for tap in found)
    assert set(found.values()) == {"behaves as with its kernel's height and width exchanged"}


@pytest.mark.port
def test_the_order_of_flattening_is_named(backend_name: str, backend) -> None:
    for mutant in pitfall(backend_name, 10):  # only in channels-last ports
        order = "behaves as if its input were flattened in the order H, W, C; its weights are for C, H, W"
        assert guesses_of(mutant, *LENET) == {"fc1": order}


@pytest.mark.port
def test_weights_exchanged_between_layers_are_named(backend) -> None:
    network, layer_trace = layer_trace_of("resnet", {"arch": [[2, 8], [1, 16]], "input_size": [33, 41]})
    one, other = "stage1.block2.conv1", "stage1.block2.conv2"
    mixed = dict(layer_trace.tensors)
    for leaf in ("weight", "bias"):
        mixed[f"{one}.{leaf}"], mixed[f"{other}.{leaf}"] = mixed[f"{other}.{leaf}"], mixed[f"{one}.{leaf}"]
    model = backend.build(network, "float64")
    backend.load(model, mixed)
    taps = backend.trace(model, layer_trace.x, False, layer_trace.taps)
    found = findings(layer_trace, taps, errors_of(layer_trace, taps))
    assert [(finding.tap, finding.description) for finding in found] == [
        (one, f"behaves as with the weights of {other}"),
        (other, f"behaves as with the weights of {one}"),
    ]


@pytest.mark.port
def test_another_momentum_is_named(backend_name: str, backend) -> None:
    (mutant,) = pitfall(backend_name, 6)
    network, layer_trace = layer_trace_of(*BN_LENET, training=True)
    model = mutant.build(network, "float64")
    mutant.load(model, layer_trace.tensors)
    mutant.trace(model, layer_trace.x, training=True)
    moved = mutant.weights(model)
    names = [name for name in layer_trace.tensors if ".running_" in name]
    found = describe_statistics(layer_trace, moved, names, 1e-11)
    assert found == dict.fromkeys(names, "keeps 0.99 of the old value; expected 0.9")


@pytest.mark.port
def test_a_mutant_leaves_the_port_as_it_is(backend_name: str, backend) -> None:
    assert pitfall(backend_name, 5)
    assert guesses_of(registry.load(backend_name), *RESNET) == {}


# Layers on inputs that no network of the catalog produces.


def traces_with(backend: protocol.Backend, name: str, config: dict, dtype: str, taps: dict, training: bool) -> dict:
    """Return the taps of the reference and of a port after replacing some: name -> (right, found)."""
    network, layer_trace = layer_trace_of(name, config)
    model = backend.build(network, dtype)
    backend.load(model, layer_trace.tensors)
    found = backend.trace(
        model, layer_trace.x.astype(dtype), training, {tap: y.astype(dtype) for tap, y in taps.items()}
    )
    layer_trace.model.train(training)
    right = reference.trace(
        layer_trace.model, layer_trace.x, {tap: y.astype(dtype).astype(float) for tap, y in taps.items()}
    )
    return {tap: (right[tap], found[tap]) for tap in right}


@pytest.mark.port
def test_a_padded_maximum_of_negative_images_is_negative(backend_name: str, backend) -> None:
    shape = reference.describe(catalog.get(GOOGLENET[0], **GOOGLENET[1])).taps["stage1.block1"]
    negative = {"stage1.block1": -1 - np.random.default_rng(0).random((3, *shape[1:]))}
    pool = "stage1.block2.branch4.pool"
    right, found = traces_with(backend, *GOOGLENET, "float64", negative, training=False)[pool]
    assert right.max() < 0
    np.testing.assert_array_equal(found, right)
    for mutant in pitfall(backend_name, 3):
        right, found = traces_with(mutant, *GOOGLENET, "float64", negative, training=False)[pool]
        assert found.max() == 0


@pytest.mark.port
def test_a_large_mean_costs_a_batch_norm_no_digits(backend_name: str, backend) -> None:
    shape = reference.describe(catalog.get("bn_lenet")).taps["conv1"]
    bright = {"conv1": 300 + np.random.default_rng(0).standard_normal((3, *shape[1:]))}

    def error(port: protocol.Backend) -> float:
        right, found = traces_with(port, *BN_LENET, "float32", bright, training=True)["bn1"]
        return float(np.abs(found - right).max() / np.abs(right).max())

    # The mean itself is rounded by 300 * 2^-24 = 2e-5 of a deviation; its square by 300 times as much.
    assert error(backend) < 1e-4
    for mutant in pitfall(backend_name, 9):
        assert error(mutant) > 1e-3


# Without a framework: the reference with a mistake in one layer.


def mistaken(path: str, name: str, config: dict, compute, training: bool = False) -> dict[str, str]:
    """Return the explanations after the reference's layer at `path` has computed something else."""
    _, layer_trace = layer_trace_of(name, config, training)
    taps = {**layer_trace.taps, path: compute(layer_trace, layer_trace.inputs[path])}
    return {finding.tap: finding.guess for finding in findings(layer_trace, taps, errors_of(layer_trace, taps))}


def test_a_missing_activation_is_named_at_the_next_layer() -> None:
    found = mistaken("fc2", *LENET, lambda s, x: s.modules["fc2"].compute(s.inputs["sigmoid3"]))
    assert found == {"fc2": "behaves as without the Sigmoid before it (sigmoid3)"}


def test_another_activation_is_named() -> None:
    found = mistaken("fc2", *LENET, lambda s, x: s.modules["fc2"].compute(np.tanh(s.inputs["sigmoid3"])))
    assert found == {"fc2": "behaves as with tanh before it, expected Sigmoid"}


@pytest.mark.parametrize(
    ("path", "change", "expected"),
    [
        (
            "stem.bn",
            lambda s, x: _training(s, "stem.bn", x),
            "behaves as in training: normalized by the batch's statistics, expected the running ones",
        ),
        ("head.fc", lambda s, x: x @ s.modules["head.fc"].weight.T, "behaves as without its bias"),
        ("stem.conv", lambda s, x: 2.5 * s.taps["stem.conv"], "is 2.5 times its expected size"),
        ("stem.conv", lambda s, x: s.taps["stem.conv"][:, ::-1], "has the right channels in another order"),
        ("stem.conv", lambda s, x: np.full_like(s.taps["stem.conv"], np.nan), "gives values that are not finite"),
        (
            "stem.conv",
            lambda s, x: s.taps["stem.conv"].astype(np.float32).astype(float),
            "has the precision of float32, expected float64",
        ),
        (
            "stage1.block1",
            lambda s, x: np.maximum(s.taps["stage1.block1.bn2"], 0),
            "behaves as without the addition to its last layer",
        ),
        ("stage1.block1", lambda s, x: s.inputs["stage1.block1.relu2"], "behaves as without its last ReLU"),
        (
            "stem.pool",
            lambda s, x: (
                s.taps["stem.pool"]
                + 0.1 * np.sin(np.arange(s.taps["stem.pool"].size).reshape(s.taps["stem.pool"].shape))
            ),
            "",
        ),
    ],
)
def test_mistakes_of_layers_are_named(path: str, change, expected: str) -> None:
    assert mistaken(path, *RESNET, change) == {path: expected}


def _training(layer_trace: LayerTrace, path: str, x: np.ndarray) -> np.ndarray:
    layer = layer_trace.modules[path]
    mean, variance = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
    scale = layer.weight / np.sqrt(variance + 1e-5)
    return (x - mean[:, None, None]) * scale[:, None, None] + layer.bias[:, None, None]


def test_zeros_around_a_maximum_are_named() -> None:
    def padded_by_zeros(layer_trace: LayerTrace, x: np.ndarray) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), (2, 3))
        return windows[:, :, ::2, ::2].max(axis=(4, 5))

    # After a ReLU, zeros never win; this input is negative.
    _, layer_trace = layer_trace_of(*RESNET)
    layer_trace.inputs["stem.pool"] = layer_trace.inputs["stem.relu"] - 3
    layer_trace.taps["stem.pool"] = layer_trace.modules["stem.pool"].compute(layer_trace.inputs["stem.pool"])
    wrong = {**layer_trace.taps, "stem.pool": padded_by_zeros(layer_trace, layer_trace.inputs["stem.pool"])}
    (found,) = findings(layer_trace, wrong, errors_of(layer_trace, wrong))
    assert found.guess == "behaves as with zeros around the image; expected minus infinity"


def test_branches_joined_in_another_order_are_named() -> None:
    def joined(layer_trace: LayerTrace, _: np.ndarray) -> np.ndarray:
        paths = [f"stage1.block1.branch{i}" for i in (2, 1, 3, 4)]
        return np.concatenate([layer_trace.modules[path](layer_trace.inputs[path]) for path in paths], axis=1)

    found = mistaken("stage1.block1", *GOOGLENET, joined)
    assert found == {"stage1.block1": "behaves as if joined in the order branch2, branch1, branch3, branch4"}


def test_a_variance_of_n_minus_1_in_the_statistics_is_named() -> None:
    _, layer_trace = layer_trace_of(*BN_LENET, training=True)
    x, old = layer_trace.inputs["bn1"], layer_trace.tensors["bn1.running_var"]
    found = {"bn1.running_var": 0.9 * old + 0.1 * x.var(axis=(0, 2, 3), ddof=1)}
    described = describe_statistics(layer_trace, found, list(found), 1e-11)
    assert described == {"bn1.running_var": "moves toward a variance divided by n - 1; expected n"}
    still = describe_statistics(layer_trace, {"bn1.running_var": old}, list(found), 1e-11)
    assert still == {"bn1.running_var": "is not updated in training"}


def test_a_factor_is_found_only_if_all_arrays_share_it() -> None:
    right = {"a": np.arange(4.0), "b": np.ones((2, 2))}
    assert common_factor({name: 4 * array for name, array in right.items()}, right, 1e-9) == 4.0
    assert common_factor(right, right, 1e-9) is None
    assert common_factor({"a": 4 * right["a"], "b": 3 * right["b"]}, right, 1e-9) is None


def test_equal_findings_are_merged() -> None:
    many = [(f"bn{i}", "is wrong") for i in range(1, 8)]
    assert merge_findings([("a", "is wrong"), ("b", "is large"), ("c", "is wrong")]) == [
        "a is wrong (also c)",
        "b is large",
    ]
    assert merge_findings(many) == ["bn1 is wrong (also bn2, bn3, bn4, bn5, and 2 more)"]
    assert merge_findings([]) == []
