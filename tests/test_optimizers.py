"""The definitions of optimizers and schedules, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from common.errors import ConfigError
from common.optimizers import OptimizerConfig, Schedule, update


def run(config: OptimizerConfig, rates: list[float], w: float = 1.0, g: float = 2.0) -> list[float]:
    """Return a single parameter after each step, its gradient being the same throughout."""
    parameters, slots, path = {"w": np.array([w])}, {}, []
    for step, rate in enumerate(rates, start=1):
        parameters, slots = update(config, parameters, {"w": np.array([g])}, slots, step, rate)
        path.append(float(parameters["w"][0]))
    return path


@pytest.mark.parametrize(
    ("config", "rates", "expected"),
    [
        (OptimizerConfig("sgd"), [0.1, 0.2], [0.8, 0.4]),
        # 1 - 0.1 (2 + 0.5 * 1) and 0.75 - 0.1 (2 + 0.5 * 0.75)
        (OptimizerConfig("sgd", weight_decay=0.5), [0.1, 0.1], [0.75, 0.5125]),
        (OptimizerConfig("sgd", clip_norm=0.5), [0.1], [0.95]),
        (OptimizerConfig("sgd", clip_norm=3.0), [0.1], [0.8]),
        # velocities 2 and 3; the second rate applies to the whole of the velocity
        (OptimizerConfig("momentum", momentum=0.5), [0.1, 0.2], [0.8, 0.2]),
        # 2 + 0.5 * 2 and 2 + 0.5 * 3
        (OptimizerConfig("nesterov", momentum=0.5), [0.1, 0.2], [0.7, 0.0]),
        # corrected mean 2 and square 4 at every step: 2 / (2 + 0.5) = 0.8
        (OptimizerConfig("adam", epsilon=0.5), [0.1, 0.2], [0.92, 0.76]),
        # gradient 2 + 1: 3 / (3 + 1)
        (OptimizerConfig("adam", epsilon=1, weight_decay=1), [0.1], [0.925]),
        # 0.8 + 0.5 * 1
        (OptimizerConfig("adamw", epsilon=0.5, weight_decay=0.5), [0.1], [0.87]),
    ],
)
def test_steps_equal_manual_calculations(config: OptimizerConfig, rates: list[float], expected: list[float]) -> None:
    assert run(config, rates) == pytest.approx(expected, rel=1e-12)


def test_adam_corrects_the_bias_of_its_moments() -> None:
    config = OptimizerConfig("adam", beta1=0.5, beta2=0.75, epsilon=1e-30)
    parameters, slots = {"w": np.array([0.0])}, {}
    for step, gradient in enumerate([1.0, 3.0], start=1):
        parameters, slots = update(config, parameters, {"w": np.array([gradient])}, slots, step, 1.0)
    # mean 0.25 + 1.5 over 1 - 0.25; square 0.1875 + 2.25 over 1 - 0.5625
    assert parameters["w"][0] == pytest.approx(-1 - (1.75 / 0.75) / math.sqrt(2.4375 / 0.4375), rel=1e-12)


def test_clipping_uses_the_norm_of_all_gradients_together() -> None:
    gradients = {"a": np.array([3.0]), "b": np.array([[0.0, 4.0]])}
    zeros = {name: np.zeros_like(g) for name, g in gradients.items()}
    after, _ = update(OptimizerConfig("sgd", clip_norm=1.0), zeros, gradients, {}, 1, 1.0)
    np.testing.assert_allclose(after["a"], [-0.6])
    np.testing.assert_allclose(after["b"], [[0.0, -0.8]])


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule("constant", 0.3, 4), [0.3, 0.3, 0.3, 0.3]),
        (Schedule("constant", 0.3, 4, warmup=3), [0.1, 0.2, 0.3, 0.3]),
        (Schedule("step", 1.0, 5, every=2, factor=0.5), [1, 1, 0.5, 0.5, 0.25]),
        (Schedule("step", 1.0, 5, every=2, factor=0.5, warmup=1), [1, 1, 1, 0.5, 0.5]),
        (Schedule("cosine", 2.0, 4), [2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5)]),
        (Schedule("cosine", 2.0, 6, warmup=2), [1, 2, 2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5)]),
    ],
)
def test_learning_rates_equal_manual_calculations(schedule: Schedule, expected: list[float]) -> None:
    rates = [schedule.learning_rate(step) for step in range(schedule.total)]
    assert rates == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimizerConfig("sdg"), "there is no optimizer 'sdg'; did you mean sgd?"),
        (lambda: OptimizerConfig("momentum", momentum=1.0), "`momentum` (=1.0) must be"),
        (lambda: OptimizerConfig("adam", beta2=-0.1), "`beta2` (=-0.1) must be a number at least 0 and below 1"),
        (lambda: OptimizerConfig(weight_decay=math.nan), "`weight_decay` (=nan)"),
        (lambda: OptimizerConfig(clip_norm=0.0), "`clip_norm` (=0.0)"),
        (lambda: Schedule("cosin"), "did you mean cosine?"),
        (lambda: Schedule(base=0.0), "`learning_rate` (=0.0) must be a number above 0 and at most 1e+06"),
        (lambda: Schedule(base=math.inf), "`learning_rate` (=inf)"),
        (lambda: Schedule(total=10, warmup=11), "`warmup` (=11) must be a number at least 0 and at most 10"),
    ],
)
def test_constants_out_of_range_are_rejected(make, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        make()
    assert message in str(error.value)
