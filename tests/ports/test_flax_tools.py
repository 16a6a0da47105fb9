"""Flax's own tools on every model of the JAX port: they must work as on any other `nnx.Module`."""

from __future__ import annotations

import copy
import functools
import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from common import catalog, images, reference, weights
from common.mutants.generic import MODULES

pytestmark = [pytest.mark.port("jax"), pytest.mark.usefixtures("backend")]

SIZES = {"alexnet": [67, 67], "nin": [67, 67], "vgg11": [32, 32], "vgg11_small": [32, 32]}
"""The smallest images, where 33x38 pixels do not do."""

CATALOG = [catalog.get(name, input_size=SIZES.get(name, [33, 38])) for name in catalog.NETWORKS]
ANYNET = catalog.get("anynet", arch=[[1, 8, 4, 1.0], [2, 16, 8, 0.5]], stem_channels=4, input_size=[33, 38])
SMALL = [
    *({network.family: network for networks in MODULES.values() for network in networks} | {"anynet": ANYNET}).values()
]
"""One network of each family, with few channels and layers."""


class Case(NamedTuple):
    """A network, its model in float64 and evaluation mode, images (N, H, W, C), and the model's logits for them."""

    network: catalog.Network
    model: object
    images: np.ndarray
    logits: np.ndarray


@functools.cache
def compiled_once():
    """Return a function that runs a model, compiled quickly; copies of a model share the program."""
    import jax

    from jax_impl.compilation import RUN_ONCE

    return jax.jit(lambda model, images: model(images), compiler_options=RUN_ONCE)


def run(model, x: np.ndarray) -> np.ndarray:
    return np.asarray(compiled_once()(model, x))


def case_of(backend, network: catalog.Network) -> Case:
    model = backend.build(network, "float64")
    backend.load(model, weights.initialize(network, "probe", 3, "float64"))
    x = images.noise_batch(network, 2, 5).transpose(0, 2, 3, 1).astype("float64")
    return Case(network, model, x, run(model, x))


def name_of(network: catalog.Network) -> str:
    return network.name


# One model at a time is held: some have weights of hundreds of megabytes.
@pytest.fixture(scope="module", params=CATALOG, ids=name_of)
def case(request: pytest.FixtureRequest, backend) -> Case:
    return case_of(backend, request.param)


@pytest.fixture(scope="module", params=SMALL, ids=name_of)
def small(request: pytest.FixtureRequest, backend) -> Case:
    return case_of(backend, request.param)


def assert_same_logits(case: Case, model: object) -> None:
    np.testing.assert_array_equal(run(model, case.images), case.logits)


def test_split_and_merge_give_the_same_model(case: Case) -> None:
    from flax import nnx

    graphdef, parameters, statistics, rest = nnx.split(case.model, nnx.Param, nnx.BatchStat, ...)
    assert_same_logits(case, nnx.merge(graphdef, parameters, statistics, rest))


@pytest.mark.parametrize("way", ["nnx.clone", "copy.deepcopy"])
def test_a_copy_computes_the_same_and_shares_no_weights(small: Case, way: str) -> None:
    import jax
    from flax import nnx

    other = nnx.clone(small.model) if way == "nnx.clone" else copy.deepcopy(small.model)
    assert_same_logits(small, other)
    nnx.update(other, jax.tree.map(np.zeros_like, nnx.state(other, nnx.Param)))
    assert not run(other, small.images).any()
    assert_same_logits(small, small.model)


@pytest.mark.parametrize("network", CATALOG, ids=name_of)
def test_train_and_eval_switch_every_layer(backend, network: catalog.Network) -> None:
    from flax import nnx

    from jax_impl.batch_norm import BatchNorm

    model = backend.build(network, "float64")
    layers = [module for _, module in nnx.iter_modules(model)]
    norms = [layer for layer in layers if isinstance(layer, nnx.BatchNorm | BatchNorm)]
    dropouts = [layer for layer in layers if isinstance(layer, nnx.Dropout)]
    assert bool(norms) == any(".running_" in name for name in reference.describe(network).manifest)
    assert bool(dropouts) == hasattr(network.config, "dropout")
    for evaluation in (False, True):
        if evaluation:
            model.eval()
        else:
            model.train()
        assert all(layer.use_running_average == evaluation for layer in norms)
        assert all(layer.deterministic == evaluation for layer in dropouts)


def test_repeated_stages_and_blocks_are_lists_in_network_order(backend) -> None:
    from flax import nnx

    network = catalog.get("resnet", arch=[[1, 4], [11, 4]], input_size=[33, 38])  # block10 comes after block2
    model = backend.build(network, "float64")
    assert [type(stage).__name__ for stage in model.stages] == ["ResNetStage"] * 2
    blocks = [path for path, _ in nnx.iter_modules(model) if path[:1] == ("stages",) and path[-2:-1] == ("blocks",)]
    assert blocks == [("stages", 0, "blocks", 0), *(("stages", 1, "blocks", i) for i in range(11))]
    state = [path[:4] for path, _ in nnx.to_flat_state(nnx.state(model)) if path[0] == "stages"]
    assert [path for path, _ in itertools.groupby(state)] == blocks


def test_display_and_tabulate_show_every_layer(small: Case) -> None:
    import jax
    import treescope
    from flax import nnx

    nnx.display(small.model)
    assert type(small.model).__name__ in treescope.render_to_text(small.model)
    tables: list[str] = []
    # Tracing is enough; outside a trace `tabulate` would compile each layer.
    jax.eval_shape(lambda x: tables.append(nnx.tabulate(small.model, x, console_kwargs={"width": 400})), small.images)
    for path, module in nnx.iter_modules(small.model):
        if isinstance(module, nnx.Conv | nnx.Linear | nnx.BatchNorm):
            assert f" {'/'.join(map(str, path))} " in tables[0]


def test_jit_computes_the_same(small: Case) -> None:
    from flax import nnx

    logits = nnx.jit(lambda model, images: model(images))(small.model, small.images)
    np.testing.assert_allclose(logits, small.logits, rtol=1e-12)


def test_vmap_over_single_images_computes_the_same(small: Case) -> None:
    import jax
    from flax import nnx

    from jax_impl.compilation import RUN_ONCE

    each = jax.jit(nnx.vmap(lambda model, image: model(image[None])[0], in_axes=(None, 0)), compiler_options=RUN_ONCE)
    np.testing.assert_allclose(each(small.model, small.images), small.logits, rtol=1e-11)


def test_grad_gives_the_slope_of_the_loss(small: Case) -> None:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from jax_impl.compilation import RUN_ONCE

    differentiate = nnx.value_and_grad(lambda model, images: jnp.square(model(images)).mean())
    loss, gradients = jax.jit(differentiate, compiler_options=RUN_ONCE)(small.model, small.images)
    np.testing.assert_allclose(loss, np.square(small.logits).mean(), rtol=1e-12)
    # The slope along the gradient is its squared norm.
    slope = sum(float(jnp.vdot(leaf, leaf)) for leaf in jax.tree.leaves(gradients))
    step = 1e-6 * float(loss) / slope

    def loss_after(step: float) -> float:
        moved = nnx.clone(small.model)
        nnx.update(moved, jax.tree.map(lambda p, g: p + step * g, nnx.state(moved, nnx.Param), gradients))
        return np.square(run(moved, small.images)).mean()

    np.testing.assert_allclose((loss_after(step) - loss_after(-step)) / (2 * step), slope, rtol=1e-4)


def test_orbax_saves_and_restores(backend, small: Case, tmp_path: Path) -> None:
    import orbax.checkpoint as ocp
    from flax import nnx

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "checkpoint", nnx.state(small.model))
        checkpointer.wait_until_finished()
        other = backend.build(small.network, "float64")
        nnx.update(other, checkpointer.restore(tmp_path / "checkpoint", nnx.state(other)))
    assert_same_logits(small, other)


def test_classes_are_as_before_when_a_trace_fails(backend) -> None:
    from flax import nnx

    from jax_impl import LeNet
    from jax_impl.layers import Conv

    class Failing(nnx.Module):
        def __call__(self, x):
            raise RuntimeError("this layer fails")

    network = catalog.get("lenet")
    model = backend.build(network, "float64")
    backend.load(model, weights.initialize(network, "probe", 3, "float64"))
    model.fc3 = Failing()
    before = [vars(cls).get("__call__") for cls in (LeNet, Conv, Failing)]
    for use in (backend.trace, backend.calls):
        with pytest.raises(RuntimeError, match="this layer fails"):
            use(model, images.noise_batch(network, 1, 5))
    with pytest.raises(RuntimeError, match="this layer fails"):
        backend.summary(model)
    assert [vars(cls).get("__call__") for cls in (LeNet, Conv, Failing)] == before
