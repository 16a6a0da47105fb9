"""Tests of the comparison of activations: what passes and what never does."""

from __future__ import annotations

import math

import numpy as np
import pytest

from common import catalog, reference
from common.parity.comparison import Limit, TapError, compare, first_divergence, spread, worst
from common.parity.tolerances import depths


def check(reference: dict, candidate: dict, dtype: str = "float64") -> list:
    return compare(reference, candidate, dtype, lambda tap: Limit(1e-3, 8e-3))


def test_error_is_the_largest_difference_over_the_largest_reference_value() -> None:
    (error,) = check({"a": np.array([1.0, -4, 2])}, {"a": np.array([1.0, -3, 2])})
    assert error.error == 0.25
    assert error.tolerance_used == 31.25
    assert not error.agrees


@pytest.mark.parametrize("error", [math.nan, math.inf, -math.inf])
def test_an_error_that_is_not_finite_never_passes(error: float) -> None:
    assert not TapError("", "a", error, Limit(math.inf, math.inf)).agrees


def test_an_error_above_the_largest_measured_passes_up_to_its_tolerance() -> None:
    limit = Limit(1.0, 8.0)
    agrees = {error: TapError("", "a", error, limit).agrees for error in (1.0, 1.5, 8.0, 8.1)}
    assert agrees == {1.0: True, 1.5: True, 8.0: True, 8.1: False}


def test_worst_uses_most_of_its_tolerance_and_need_not_be_the_largest_error() -> None:
    deep, shallow = TapError("", "deep", 3.0, Limit(4.0, 32.0)), TapError("", "shallow", 1.0, Limit(1.0, 8.0))
    assert worst([deep, shallow]) is shallow
    wrong = TapError("", "wrong", 3.0, Limit(4.0, 2.0))
    assert worst([deep, shallow, wrong]) is wrong


def test_first_divergence_is_the_first_in_order_and_worst_the_largest() -> None:
    truth = {tap: np.ones(2) for tap in "abc"}
    errors = check(truth, {"a": truth["a"], "b": truth["b"] + 0.01, "c": truth["c"] + 0.1})
    assert first_divergence(errors).tap == "b"
    assert worst(errors).tap == "c"
    assert first_divergence(check(truth, truth)) is None


def test_permuted_and_scaled_values_do_not_pass() -> None:
    values = np.random.default_rng(0).standard_normal((2, 3, 4, 4))
    for other in (values[:, ::-1], values.transpose(0, 1, 3, 2), values * 1.01, np.sort(values)):
        assert first_divergence(check({"a": values}, {"a": np.ascontiguousarray(other)})) is not None


@pytest.mark.parametrize(
    ("candidate", "note"),
    [
        ({}, "missing"),
        ({"a": np.ones(3)}, "shape (3,), expected (2,)"),
        ({"a": np.ones(2, np.float32)}, "float32, expected float64"),
        ({"a": np.array([1, math.nan])}, "not finite"),
        ({"a": np.array([1, math.inf])}, "not finite"),
        ({"a": np.ones(2), "b": np.ones(2)}, "not in the reference"),
    ],
)
def test_tensors_that_cannot_be_compared_differ_with_a_reason(candidate: dict, note: str) -> None:
    divergence = first_divergence(compare({"a": np.ones(2)}, candidate, "float64", lambda tap: Limit(1e300, 1e300)))
    assert divergence.error == math.inf
    assert note in divergence.note


def test_any_difference_from_an_all_zero_reference_is_infinite() -> None:
    (error,) = check({"a": np.zeros(2)}, {"a": np.array([0, 1e-30])})
    assert error.error == math.inf
    (error,) = check({"a": np.zeros(2)}, {"a": np.zeros(2)})
    assert error.error == 0


def test_spread_is_zero_for_a_tap_that_does_not_vary() -> None:
    assert spread(np.zeros((2, 3))) == 0
    assert spread(np.array([[1.0, 2], [1, 2]])) == 0  # the same for every example
    assert spread(np.array([[1.0, 2], [1, 4]])) == 0.5
    assert spread(np.full((1, 3), 7.0)) == 0
    assert spread(np.array([[1.0, 2]])) == 0.5  # a batch of one varies over its entries
    assert spread(np.array([[3.0]])) == 1  # one number cannot vary


def test_depth_counts_the_layers_with_weights_so_far() -> None:
    depth = depths(reference.describe(catalog.get("bn_lenet")))
    assert [depth[tap] for tap in ("conv1", "bn1", "pool1", "conv2", "fc3", "logits")] == [1, 2, 2, 3, 9, 9]
