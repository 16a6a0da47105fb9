"""Training in each port: gradients, optimizer steps, dropout, and resuming from a state."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from common import catalog, images, reference, weights
from common.backends import registry
from common.errors import BackendError
from common.optimizers import OptimizerConfig, update
from common.parity import finite_differences
from common.parity.gradients import biases_before_normalization
from common.parity.tolerances import MAX_QUOTIENT_ERROR
from common.reference.loss import cross_entropy

pytestmark = pytest.mark.port

SMALL = {"lenet": [28, 28], "bn_lenet": [28, 28], "bn_lenet_scratch": [28, 28], "alexnet": [67, 71], "nin": [67, 71]}
"""Input sizes; all others run at 33x38."""

SHALLOW = {
    "vgg11": {"arch": [[1, 16], [1, 32], [2, 64]]},
    "resnet18": {"arch": [[1, 64], [2, 128]]},
    "densenet": {"arch": [2, 2]},
}
"""Of each kind of block one that comes first in its stage and one that does not."""

BATCH = 4
LABELS = np.array([3, 0, 9, 3])

CONFIGS = [
    OptimizerConfig("sgd"),
    OptimizerConfig("sgd", weight_decay=0.01),
    OptimizerConfig("sgd", clip_norm=0.05),
    OptimizerConfig("momentum", momentum=0.8),
    OptimizerConfig("momentum", weight_decay=0.01, clip_norm=0.05),
    OptimizerConfig("nesterov"),
    OptimizerConfig("nesterov", weight_decay=0.01),
    OptimizerConfig("adam", epsilon=1e-3),
    OptimizerConfig("adam", beta1=0.8, beta2=0.95, epsilon=1e-3, weight_decay=0.01, clip_norm=0.05),
    OptimizerConfig("adamw", epsilon=1e-3, weight_decay=0.01),
    OptimizerConfig("adamw", epsilon=1e-2, weight_decay=0.1),
]
# Adam divides by a gradient's size and epsilon: with the usual 1e-8, the rounding of a small gradient would be seen.

RATES = [0.1, 0.05, 0.2]
"""Learning rates that differ from step to step, as those of a schedule do."""


def small(name: str, **config: object) -> catalog.Network:
    if "dropout" in catalog.get(name).settings():
        config = {"dropout": 0.0, **config}
    return catalog.get(name, **{"input_size": SMALL.get(name, [33, 38]), **config})


def make(backend, network: catalog.Network, dtype: str = "float64", scheme: str = "probe"):
    tensors = weights.initialize(network, scheme, 3, "float64")
    model = backend.build(network, dtype)
    backend.load(model, tensors)
    return model, tensors


def batches(network: catalog.Network, count: int, dtype: str = "float64") -> list[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(7)
    return [
        (images.noise_batch(network, BATCH, seed).astype(dtype), generator.integers(0, 10, BATCH))
        for seed in range(count)
    ]


def copied(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in tensors.items()}


def largest_difference(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> tuple[float, str]:
    """Return the largest difference of any entry, relative to its tensor's largest, and the tensor."""
    assert list(found) == list(expected)
    errors = [
        (float(np.max(np.abs(found[name] - array)) / (np.max(np.abs(array)) or 1)), name)
        for name, array in expected.items()
    ]
    return max(errors, default=(0.0, ""))


@pytest.mark.parametrize("name", catalog.NETWORKS)
def test_gradients_are_the_derivatives_of_the_references_loss(backend, name: str) -> None:
    # The reference runs twice for each kind of tensor of each layer; parity does so at full depth, in two directions.
    network = small(name, in_channels=2, **SHALLOW.get(name, {}))
    model, tensors = make(backend, network)
    # Of two images normalized over the batch alone one is the other's negative.
    labels = LABELS if name.startswith("bn_") else LABELS[:2]
    x = images.noise_batch(network, len(labels), 5)
    found = backend.gradients(model, x, labels)
    truth = reference.build(network)
    truth.train(True)
    reference.load(truth, tensors)
    assert found.loss == pytest.approx(cross_entropy(truth(x), labels), rel=1e-11)
    learned = {name for group in finite_differences.groups(network).values() for name in group}
    expected = {name: tensors[name].shape for name in tensors if name in learned}
    assert {name: gradient.shape for name, gradient in found.parameters.items()} == expected
    assert list(found.parameters) == list(expected)
    assert found.input.shape == x.shape
    assert {gradient.dtype for gradient in [found.input, *found.parameters.values()]} == {np.dtype("float64")}
    by_name = {**found.parameters, "input": found.input}
    errors = finite_differences.disagreements(
        finite_differences.derivatives(network, tensors, x, labels, directions=1), {**tensors, "input": x}, by_name
    )
    assert max(errors.values()) < MAX_QUOTIENT_ERROR, errors


def test_the_statistics_move_once_with_the_gradients(backend) -> None:
    network = small("bn_lenet")
    model, tensors = make(backend, network)
    x = images.noise_batch(network, BATCH, 5)
    truth = reference.build(network)
    reference.load(truth, tensors)
    truth.train(True)
    truth(x)
    backend.gradients(model, x, LABELS)
    expected, found = reference.weights(truth), backend.weights(model)
    assert largest_difference(found, expected)[0] < 1e-12
    assert any(np.any(found[name] != tensors[name]) for name in found if name.endswith("running_mean"))


@pytest.mark.parametrize("name", ["lenet", "bn_lenet"])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.name}-{CONFIGS.index(config)}")
def test_each_step_is_the_definitions(backend, name: str, config: OptimizerConfig) -> None:
    network = small(name)
    model, _ = make(backend, network)
    probe = backend.build(network, "float64")
    trainer = backend.trainer(model, config)
    nothing = biases_before_normalization(reference.describe(network))
    for step, ((x, labels), rate) in enumerate(zip(batches(network, 3), RATES, strict=True), start=1):
        before, slots = copied(backend.weights(model)), copied(trainer.state())
        backend.load(probe, before)
        gradients = backend.gradients(probe, x, labels)
        loss, right = trainer.step(x, labels, rate)
        parameters = {parameter: before[parameter] for parameter in gradients.parameters}
        expected, kept = update(config, parameters, gradients.parameters, slots, step, rate)
        after = backend.weights(model)
        # Of a gradient that is zero but for rounding Adam makes steps that may be seen.
        seen = [parameter for parameter in expected if not ("mean" in config.slots and parameter in nothing)]
        error, where = largest_difference({p: after[p] for p in seen}, {p: expected[p] for p in seen})
        # A parameter moves by some hundredths of itself at a step, so that the fourth digit of a step is seen here.
        assert error < 1e-12, where
        state = trainer.state()
        assert list(state) == list(kept)
        # Such a gradient is rounding only, and so are the optimizer slots computed from it.
        told = [slot for slot in kept if slot.partition(".")[2] not in nothing]
        error, where = largest_difference({slot: state[slot] for slot in told}, {slot: kept[slot] for slot in told})
        assert error < 1e-11, where
        assert loss == pytest.approx(gradients.loss, rel=1e-12)
        assert right == np.sum(np.argmax(backend.run(probe, x, training=True), axis=1) == labels)
    assert trainer.steps == 3


@pytest.mark.parametrize("config", [CONFIGS[i] for i in (0, 4, 6, 8, 10)], ids=lambda config: config.name)
def test_float32_takes_the_same_steps_to_its_rounding(backend, config: OptimizerConfig) -> None:
    network = small("bn_lenet")
    after = {}
    for dtype in ("float64", "float32"):
        model, _ = make(backend, network, dtype)
        trainer = backend.trainer(model, config)
        for (x, labels), rate in zip(batches(network, 3, dtype), RATES, strict=True):
            trainer.step(x, labels, rate / 10)
        after[dtype] = copied(backend.weights(model))
        assert {array.dtype for array in after[dtype].values()} == {np.dtype(dtype)}
    names = after["float64"].keys() - biases_before_normalization(reference.describe(network))
    # Biases in front of a batch norm have no gradient but rounding, which Adam makes whole steps of.
    error, where = largest_difference(*({n: after[d][n] for n in sorted(names)} for d in ("float32", "float64")))
    assert error < 1e-3, where


@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[4], CONFIGS[8]], ids=lambda config: config.name)
@pytest.mark.parametrize("name", ["bn_lenet", "nin"])
def test_a_run_carried_on_from_its_state_ends_in_the_same_bytes(backend, name: str, config: OptimizerConfig) -> None:
    network = small(name, **({"dropout": 0.5} if name == "nin" else {}))
    model, _ = make(backend, network, "float32", "xavier")
    trainer = backend.trainer(model, config, seed=5)
    work = batches(network, 5, "float32")
    for step, (x, labels) in enumerate(work):
        if step == 2:
            kept = copied(backend.weights(model)), copied(trainer.state())
        trainer.step(x, labels, 0.01)
    again, _ = make(backend, network, "float32")
    backend.load(again, kept[0])
    resumed = backend.trainer(again, config, seed=5)
    resumed.load_state(kept[1], 2)
    for x, labels in work[2:]:
        resumed.step(x, labels, 0.01)
    assert resumed.steps == 5
    for before, after in ((backend.weights(model), backend.weights(again)), (trainer.state(), resumed.state())):
        assert [name for name in before if before[name].tobytes() != after[name].tobytes()] == []


def test_logits_are_those_of_evaluation_and_change_nothing(backend) -> None:
    network = small("bn_lenet", in_channels=2)
    model, tensors = make(backend, network)
    trainer = backend.trainer(model, OptimizerConfig())
    x = images.noise_batch(network, BATCH, 5)
    truth = reference.build(network)
    reference.load(truth, tensors)
    np.testing.assert_allclose(trainer.logits(x), truth(x), rtol=1e-10)
    assert all(np.array_equal(array, tensors[name]) for name, array in backend.weights(model).items())


DROPS = {"in_channels": 1, "arch": [[1, 4], [1, 4]], "input_size": [4, 4], "num_classes": 10}
"""A network with a dropout behind each of its two wide dense layers, and little else."""


def dropping(backend, rate: float, seed: int = 0):
    """Return a trainer of a network whose logits are 4,096 kept activations, added up with weights of 1 / 4096.

    Its first dense layer gives 1 at every one of its outputs, and so does the second for any input but zero.
    """
    network = catalog.get("vgg", **DROPS, dropout=rate)
    tensors = {name: np.zeros_like(array) for name, array in weights.initialize(network, "xavier", 0).items()}
    tensors["head.fc1.bias"][:] = 1
    tensors["head.fc2.bias"][:] = 1
    tensors["head.fc3.weight"][:] = np.eye(10, 4096)
    model = backend.build(network, "float32")
    backend.load(model, tensors)
    return network, model, backend.trainer(model, OptimizerConfig(), seed)


@pytest.mark.parametrize("rate", [0.5, 0.2])
def test_dropout_drops_its_share_and_scales_the_rest(backend, rate: float) -> None:
    """The gradient of the third layer's weights by a constant is the mask itself, scaled."""
    network, model, _ = dropping(backend, rate)
    x = np.ones((BATCH, *network.input_shape), np.float32)
    # All logits are alike at first, so the gradient is (1/10 - [label]) times the kept activation, averaged.
    gradient = backend.gradients(model, x[:1], np.array([0])).parameters["head.fc3.weight"]
    kept = gradient[1] / np.exp(0)
    zeros = np.mean(kept == 0)
    assert abs(zeros - rate) < 5 * np.sqrt(rate * (1 - rate) / 4096)
    values = np.unique(np.round(kept[kept != 0] / kept.max(), 5))
    assert len(values) == 1
    # In evaluation nothing is dropped and nothing scaled: each of the ten logits is one activation, 1.
    np.testing.assert_array_equal(backend.run(model, x), np.ones((BATCH, 10)))
    # In training a kept activation is 1 / (1 - rate).
    logits = np.concatenate([backend.run(model, x, training=True) for _ in range(3)])
    assert set(np.round(logits.reshape(-1), 4)) == {0, np.float32(round(1 / (1 - rate), 4))}


def test_two_dropouts_of_a_network_draw_masks_of_their_own(backend) -> None:
    network, model, _ = dropping(backend, 0.5)
    x = np.ones((1, *network.input_shape))
    gradients = backend.gradients(model, x, np.array([0])).parameters
    # A weight has a gradient where the activation that it multiplies was kept.
    second = gradients["head.fc3.weight"][1] != 0
    rows = gradients["head.fc2.weight"][:10][second[:10]]
    assert len(rows)
    first = rows[0] != 0
    assert abs(np.mean(first) - 0.5) < 0.05
    assert abs(np.mean(first == second) - 0.5) < 0.05


def masks(trainer, model, backend, steps: int) -> list[bytes]:
    """Return what each of some steps kept of the second dropout's activations, seen in what it changed."""
    found = []
    for _ in range(steps):
        before = np.array(backend.weights(model)["head.fc3.weight"])
        trainer.step(np.ones((1, 1, 4, 4), np.float32), np.array([0]), 1e-4)
        found.append((backend.weights(model)["head.fc3.weight"][1] != before[1]).tobytes())
    return found


def test_masks_are_fresh_at_each_step_and_reproducible_from_the_seed(backend) -> None:
    runs = {}
    for seed, again in itertools.product((1, 2), (False, True)):
        _, model, trainer = dropping(backend, 0.5, seed)
        runs[seed, again] = masks(trainer, model, backend, 3)
    assert len(set(runs[1, False])) == 3
    assert runs[1, False] == runs[1, True]
    assert runs[2, False] == runs[2, True]
    assert not set(runs[1, False]) & set(runs[2, False])
    # Nor do they depend on what was drawn before.
    _, model, trainer = dropping(backend, 0.5, 1)
    trainer.load_state({}, 1)
    assert masks(trainer, model, backend, 2) == runs[1, False][1:]


def test_every_example_of_a_batch_has_a_mask_of_its_own(backend) -> None:
    network, model, _ = dropping(backend, 0.5)
    rows = backend.run(model, np.ones((8, *network.input_shape)), training=True)
    assert len({row.tobytes() for row in rows}) > 1


def test_a_gpu_that_is_not_there_is_one_line(backend_name: str) -> None:
    try:
        registry.load(backend_name, "gpu")
    except BackendError as error:
        assert "sees no GPU" in str(error)  # noqa: PT017 (a machine may have one)
