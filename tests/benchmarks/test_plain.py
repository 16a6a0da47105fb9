"""The plain ports of `benchmarks/plain` compute the same network and loss as the reference."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
from support import ROOT

from common import catalog, images, reference, weights
from common.reference.loss import cross_entropy

pytestmark = pytest.mark.port

NETWORKS = ("resnet18", "vgg11", "googlenet", "densenet", "regnetx32")
SMALL = {"in_channels": 3, "num_classes": 7, "input_size": [64, 48]}
"""Not square. VGG is left out: its plain port accepts one size only."""


@pytest.fixture(scope="module")
def plain(backend_name: str):
    with pytest.MonkeyPatch.context() as patch:
        # benchmarks/ is not part of the installed package.
        patch.syspath_prepend(ROOT)
        yield from _module(backend_name)


def _module(backend_name: str) -> Iterator[ModuleType]:
    if backend_name != "jax":
        yield importlib.import_module(f"benchmarks.plain.in_{backend_name}")
        return
    import jax

    # Compiled functions run at most twice here, so optimization does not pay.
    jax.config.update("jax_disable_most_optimizations", True)
    yield importlib.import_module("benchmarks.plain.in_jax")
    jax.config.update("jax_disable_most_optimizations", False)


def parameters(backend_name: str, build, network: catalog.Network) -> int:
    """Return the number of trainable parameters, counted by the framework."""
    if backend_name == "jax":
        import jax
        from flax import nnx

        model = nnx.eval_shape(lambda: build(network))
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    model = build(network)
    match backend_name:
        case "torch":
            return sum(tensor.numel() for tensor in model.parameters())
        case "tf":
            return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
        case "mxnet":
            trained = [each for each in model.collect_params().values() if each.grad_req != "null"]
            return sum(int(np.prod(each.shape)) for each in trained)


@pytest.mark.parametrize("name", NETWORKS)
def test_plain_network_has_the_same_number_of_parameters(plain, backend_name: str, name: str) -> None:
    network = catalog.get(name)
    assert parameters(backend_name, plain.build, network) == reference.describe(network).parameters


OTHERS = {"tf": ("plain-tf-eager", "plain-litert"), "mxnet": ("plain-mxnet-imperative",)}
"""Other execution paths to test by framework; XLA is left out because it compiles slowly."""


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "vgg11"])
def test_plain_network_computes_the_logits_of_the_reference(plain, backend_name: str, name: str) -> None:
    network = catalog.get(name, **SMALL)
    tensors = weights.initialize(network, "probe", 3, "float32")
    x = images.noise_batch(network, 2, 5).astype(np.float32)
    truth = reference.build(network)
    reference.load(truth, tensors)
    expected = truth(x.astype(np.float64))
    for path in (f"plain-{backend_name}", *(OTHERS.get(backend_name, ()) if name in ("resnet18", "googlenet") else ())):
        session = plain.session(network, tensors, path, "cpu")
        found = session.logits(session.run(session.prepare(x)))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=path)


def test_a_training_step_returns_the_loss_of_the_reference_and_reduces_it(plain, backend_name: str) -> None:
    network = catalog.get("densenet", **{**SMALL, "input_size": [32, 32]})
    tensors = weights.initialize(network, "probe", 3, "float32")
    x, labels = images.noise_batch(network, 4, 5).astype(np.float32), np.array([1, 6, 0, 3])
    truth = reference.build(network)
    reference.load(truth, tensors)
    truth.train()
    expected = cross_entropy(truth(x.astype(np.float64)), labels)
    step = plain.training_step(network, tensors, f"plain-{backend_name}", "cpu", x, labels, 0.01)
    losses = [step(), step()]
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    assert losses[1] < losses[0]
