"""Tests of the checks in training mode: finite differences, error scales and the median."""

from __future__ import annotations

import numpy as np
import pytest

from common import catalog, images, reference, weights
from common.parity import finite_differences, gradients, perturbation, training_mode
from common.parity.comparison import Limit
from common.parity.results import Cell, Settings
from common.parity.tolerances import Limits
from common.parity.training_runs import TrainingCase
from common.reference.loss import cross_entropy


def test_the_loss_is_the_mean_of_minus_the_logarithm_of_the_softmax() -> None:
    logits = np.log([[1.0, 2.0, 5.0], [3.0, 3.0, 2.0]]) + np.array([[7.0], [-900.0]])
    assert cross_entropy(logits, np.array([2, 0])) == pytest.approx(-(np.log(5 / 8) + np.log(3 / 8)) / 2, rel=1e-12)


def test_derivatives_match_an_analytic_gradient() -> None:
    """The gradient of lenet's last bias is the mean of softmax minus label."""
    network = catalog.get("lenet")
    tensors = weights.initialize(network, "probe", 0, "float64")
    x, labels = images.noise_batch(network, 3, 0), np.array([1, 5, 5])
    model = reference.build(network)
    reference.load(model, tensors)
    logits = reference.trace(model, x)["logits"]
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    share[np.arange(3), labels] -= 1
    gradients = {"fc3.bias": share.mean(axis=0)}
    found = [d for d in finite_differences.derivatives(network, tensors, x, labels) if d.group == "fc3 vectors"]
    assert len(found) == 2
    assert finite_differences.disagreements(found, tensors, gradients)["fc3 vectors"] < 1e-6
    assert (
        finite_differences.disagreements(found, tensors, {"fc3.bias": 1.0001 * gradients["fc3.bias"]})["fc3 vectors"]
        > 5e-5
    )


def test_every_parameter_is_in_a_group() -> None:
    for network in catalog.NETWORKS.values():
        grouped = [name for names in finite_differences.groups(network).values() for name in names]
        manifest = reference.describe(network).manifest
        assert sorted(grouped) == sorted(name for name in manifest if ".running_" not in name)


ZERO_GRADIENT_BIASES = {
    "lenet": set(),
    "bn_lenet": {"conv1.bias", "conv2.bias", "fc1.bias", "fc2.bias"},
    "googlenet": set(),
}


@pytest.mark.parametrize("name", ZERO_GRADIENT_BIASES)
def test_biases_before_a_batch_norm_are_found(name: str) -> None:
    assert gradients.biases_before_normalization(reference.describe(catalog.get(name))) == ZERO_GRADIENT_BIASES[name]


@pytest.mark.parametrize("name", ["resnet18", "densenet", "regnetx32"])
def test_exactly_the_biases_before_a_batch_norm_leave_the_loss_unchanged(name: str) -> None:
    network = training_mode.reduced_for_training(catalog.get(name))
    tensors = weights.initialize(network, "probe", 0, "float64")
    x, labels = images.noise_batch(network, 4, 0), np.array([1, 5, 5, 0])
    model = reference.build(network)
    model.train(True)

    def loss(changed: dict) -> float:
        reference.load(model, {**tensors, **changed})
        return cross_entropy(model(x), labels)

    before = loss({})
    found = gradients.biases_before_normalization(reference.describe(network))
    biases = [bias for bias in tensors if ".conv" in bias and bias.endswith(".bias")]
    assert biases
    for bias in biases:
        moved = abs(loss({bias: tensors[bias] + 0.5}) - before) / before
        assert (moved < 1e-12) == (bias in found), f"{bias}: {moved:.1e}"


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_the_elementwise_median_is_numpys(count: int) -> None:
    arrays = [np.random.default_rng(i).standard_normal((7, 5)) for i in range(count)]
    np.testing.assert_allclose(training_mode.elementwise_median(arrays), np.median(arrays, axis=0), rtol=1e-15)


def test_differences_are_relative_to_the_largest_value_or_infinite() -> None:
    truth = {"a.weight": np.array([1.0, -4.0]), "a.bias": np.array([0.0, 1e-12]), "b": np.ones(2), "c": np.ones(2)}
    found = {
        "a.weight": np.array([1.0, -3.0]),
        "a.bias": np.array([4e-12, 0.0]),
        "b": np.ones(3),
        "c": np.full(2, np.nan),
    }
    errors = perturbation.differences(found, truth, {"a.bias": "a.weight"})
    assert errors == {"a.weight": 0.25, "a.bias": 1e-12, "b": np.inf, "c": np.inf}
    assert perturbation.differences({}, truth, {}) == dict.fromkeys(truth, np.inf)


def test_networks_are_reduced_for_training_unless_their_size_was_configured() -> None:
    assert training_mode.reduced_for_training(catalog.get("vgg11")).settings() == {
        **catalog.get("vgg11").settings(),
        "input_size": (32, 32),
        "dropout": 0.0,
    }
    assert training_mode.reduced_for_training(catalog.get("lenet")) == catalog.get("lenet")
    configured = catalog.get("resnet18", input_size=[64, 48])
    assert training_mode.reduced_for_training(configured) == configured


def run_limit(rounding_spread: float) -> Limit:
    return Limits("training", catalog.get("lenet"), 4).run("float64", rounding_spread)


def finished(values: dict[str, dict[str, float]], tmp_path, rounding_spread: float = 1e-13) -> dict[str, Cell]:
    """Judge runs that ended with these values, by backend."""
    settings = Settings([catalog.get("lenet")], list(values), ("training",), ("float64",))
    case = TrainingCase(settings.networks[0], settings, tmp_path, "sgd")
    case.scales = {}
    case.rounding_spread["float64"] = {"loss": rounding_spread}
    case.read = lambda name, dtype: {key: np.array([value]) for key, value in values[name].items()}
    for name in values:
        case.outputs[name, "float64"] = {}
        case.cells.append(case.empty_cell(name, "float64"))
    case.finish()
    return {cell.backend: cell for cell in case.cells}


def test_only_the_wrong_backend_differs(tmp_path) -> None:
    right = {"loss": 1.0, "w": 2.0}
    cells = finished(
        {"a": right, "b": {**right, "w": 2.0 + 1e-10}, "c": right, "d": {**right, "w": 2.0 + 1e-13}}, tmp_path
    )
    assert {name: cell.status for name, cell in cells.items()} == {
        "a": "agree",
        "b": "disagree",
        "c": "agree",
        "d": "agree",
    }
    assert cells["b"].first_divergence.tap == "w"
    assert cells["b"].worst.limit.tolerance == run_limit(1e-13).tolerance < 1e-11
    assert cells["a"].rounding_spread == 1e-13


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e300])
def test_only_a_backend_without_finite_numbers_differs(tmp_path, wrong: float) -> None:
    cells = finished({"a": {"w": 1.0}, "b": {"w": wrong}, "c": {"w": 1.0}, "d": {"w": 1.0}}, tmp_path)
    assert cells["b"].status == "disagree"
    assert {cells[name].status for name in "acd"} == {"agree"}


def test_runs_that_prove_nothing_are_vacuous(tmp_path) -> None:
    assert finished({"a": {"w": 1.0}}, tmp_path)["a"].status == "vacuous"
    chaotic = finished({"a": {"w": 1.0}, "b": {"w": 1.0}}, tmp_path, rounding_spread=1e-7)
    assert {cell.status for cell in chaotic.values()} == {"vacuous"}
    assert "rounding alone moves this run" in chaotic["a"].detail


def test_one_ulp_is_the_next_number_above_or_below() -> None:
    array = np.linspace(-3, 5, 101).astype(np.float32)
    moved = perturbation.one_ulp(np.random.default_rng(0), array)
    up, down = np.nextafter(array, np.float32(np.inf)), np.nextafter(array, np.float32(-np.inf))
    assert moved.dtype == np.float32
    assert ((moved == up) | (moved == down)).all()
    assert (moved == up).any()
    assert (moved == down).any()
