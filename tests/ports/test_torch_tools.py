"""PyTorch's own tools on the PyTorch port: slicing, copying, saving, exporting, compiling and tracing."""

from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from common import catalog, images, weights
from common.mutants.generic import MODULES

pytestmark = [pytest.mark.port("torch"), pytest.mark.usefixtures("backend")]

SIZES = {"lenet": [28, 28], "bn_lenet": [28, 28], "bn_lenet_scratch": [28, 28], "alexnet": [67, 71], "nin": [67, 71]}
"""Input sizes; all other networks of the catalog run at 33x38."""

SMALL = {network.name: network for networks in MODULES.values() for network in networks}
NETWORKS = {
    **{name: catalog.get(name, input_size=SIZES.get(name, [33, 38]), num_classes=7) for name in catalog.NETWORKS},
    **{f"{family}_small": SMALL[family] for family in ("resnet", "resnext", "densenet", "anynet")},
    "vgg_small": catalog.get("vgg", arch=[[1, 8], [2, 16]], input_size=[13, 18]),
}
"""Every network of the catalog, and a small configuration of every family."""


def built(port: ModuleType, name: str) -> Any:
    """Return a network in float64 and evaluation mode, with random weights and statistics."""
    network = NETWORKS[name]
    model = port.build(network.name, dtype="float64", **network.settings())
    tensors = weights.initialize(network, "probe", 3, "float64")
    model.load_state_dict({name: torch_tensor(array) for name, array in tensors.items()})
    return model.eval()


def torch_tensor(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(array)


@pytest.fixture(scope="module", params=NETWORKS)
def model(request: pytest.FixtureRequest, port: ModuleType) -> Any:
    """A network that several tests share; no test changes it."""
    return built(port, request.param)


@pytest.fixture
def x(model) -> Any:
    return batch(model)


def batch(model: Any) -> Any:
    """Return two images."""
    return torch_tensor(images.noise_batch(model.network, 2, 5))


def run(function: Any, x: Any) -> Any:
    """Call a model, or a function of images, without gradients."""
    import torch

    with torch.no_grad():
        return function(x)


def assert_equal(found: Any, expected: Any) -> None:
    import torch

    # Two compilations may add in different orders.
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


# --- containers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [slice(-1), slice(2), slice(2, 5), slice(1, None), slice(0, 0), slice(None)], ids=str)
def test_a_slice_computes_what_its_layers_compute(model, x, index: slice) -> None:
    from torch import nn

    part = model[index]
    # The same layers under the same names, as in a slice of a plain nn.Sequential.
    assert type(part) is nn.Sequential
    assert list(part.named_children()) == list(model.named_children())[index]
    x = run(model[: index.start or 0], x)
    expected = x
    for layer in list(model.children())[index]:
        expected = run(layer, expected)
    assert_equal(run(part, x), expected)


def test_two_slices_together_compute_what_the_network_computes(model, x) -> None:
    assert_equal(run(model[2:], run(model[:2], x)), run(model, x))
    assert_equal(run(model[:2] + model[2:], x), run(model, x))
    assert [*model[:2].state_dict(), *model[2:].state_dict()] == list(model.state_dict())


def test_layers_stages_and_blocks_are_indexed_and_iterated_over(model) -> None:
    from torch import nn

    containers = [module for module in model.modules() if isinstance(module, nn.Sequential)]
    containers += [module for name, module in model.named_modules() if name.rpartition(".")[2].startswith("stage")]
    for container in containers:
        children = list(container.children())
        assert len(container) == len(children)
        assert list(container) == children
        assert [container[i] for i in range(-len(children), len(children))] == 2 * children
        assert list(container[1:].named_children()) == list(container.named_children())[1:]
        with pytest.raises(IndexError):
            container[len(children)]


def test_a_layer_is_replaced_and_appended(port) -> None:
    from torch import nn

    model = built(port, "lenet")
    expected = run(model[:-1], batch(model)) @ model[-1].weight[:3].T + model[-1].bias[:3]
    last = nn.Linear(84, 3, dtype=model[-1].weight.dtype)
    last.load_state_dict({name: tensor[:3] for name, tensor in model[-1].state_dict().items()})
    model[-1] = last
    assert model.fc3 is last
    assert_equal(run(model, batch(model)), expected)
    model.append(nn.Softmax(dim=1))
    assert_equal(run(model, batch(model)), expected.softmax(dim=1))


def test_modules_run_in_the_order_of_their_names(model, x) -> None:
    ran: list[str] = []
    leaves = {name: module for name, module in model.named_modules() if not list(module.children())}
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: ran.append(name)) for name, module in leaves.items()
    ]
    run(model, x)
    for handle in handles:
        handle.remove()
    assert ran == list(leaves)


# --- copying and saving -----------------------------------------------------------------------------------------------


def test_a_deep_copy_is_the_same_network_with_weights_of_its_own(model, x) -> None:
    duplicate = copy.deepcopy(model)
    assert type(duplicate) is type(model)
    assert duplicate.network == model.network
    assert_equal(run(duplicate, x), run(model, x))
    pointers = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert pointers.isdisjoint(tensor.data_ptr() for tensor in duplicate.state_dict().values())
    part = copy.deepcopy(model[1:-1])
    assert list(part.state_dict()) == list(model[1:-1].state_dict())


def test_a_saved_state_loads_into_a_new_model(model, x, port, tmp_path: Path) -> None:
    import torch

    torch.save(model.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert isinstance(state, OrderedDict)
    other = port.build(model.network.name, dtype="float64", **model.network.settings())
    assert other.load_state_dict(state, strict=True).missing_keys == []
    assert_equal(run(other.eval(), x), run(model, x))


def test_a_weights_file_is_a_state_dict(model, x, port, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    port.save_weights(model, tmp_path / "weights.safetensors")
    other = port.build(model.network.name, dtype="float64", **model.network.settings())
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=True)
    assert_equal(run(other.eval(), x), run(model, x))


# --- modes, dtypes, printing ------------------------------------------------------------------------------------------


def test_a_model_moves_between_dtypes_and_modes(port) -> None:
    import torch

    for name in ("resnet_small", "bn_lenet_scratch"):
        model = built(port, name)
        x = batch(model)
        expected = run(model, x)
        model.train()
        assert all(module.training for module in model.modules())
        model.eval()
        assert not any(module.training for module in model.modules())
        assert_equal(run(model, x), expected)
        model.to(torch.float32)
        assert {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()} == {torch.float32}
        torch.testing.assert_close(run(model, x.float()).double(), expected, rtol=1e-4, atol=1e-4)
        assert run(model.to(torch.bfloat16), x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("training", [False, True])
def test_an_image_without_a_batch_is_refused_by_batch_normalization(port, training: bool) -> None:
    import torch

    model = built(port, "resnet_small").train(training)
    with pytest.raises(ValueError, match="expected 4D input"):
        model(torch.zeros(model.network.input_shape, dtype=torch.float64))


def test_a_printed_model_shows_each_layer_by_its_name(model) -> None:
    text = str(model)
    assert text.startswith(f"{type(model).__name__}(\n")
    for name, module in model.named_modules():
        assert f"({name.rpartition('.')[2]}): {type(module).__name__}(" in text or not name


# --- exporting, compiling, tracing ------------------------------------------------------------------------------------


def test_an_exported_program_computes_the_same(model, x) -> None:
    import torch

    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    assert program.state_dict.keys() == model.state_dict().keys()
    assert_equal(run(program.module(), x), run(model, x))
    assert_equal(run(program.module(), x[:1].repeat(3, 1, 1, 1)), run(model, x[:1]).repeat(3, 1))


def test_a_model_compiles_to_one_graph(model, x) -> None:
    import torch

    torch._dynamo.reset()
    assert_equal(run(torch.compile(model, fullgraph=True, backend="eager"), x), run(model, x))


@pytest.mark.parametrize("name", ["lenet", "bn_lenet_scratch", "resnet_small"])
def test_a_step_of_training_compiles_to_one_graph(port, name: str) -> None:
    import torch

    torch._dynamo.reset()
    x, results = batch(built(port, name)), []
    for compile_model in (lambda model: model, lambda model: torch.compile(model, fullgraph=True, backend="aot_eager")):
        model = built(port, name).train()
        compile_model(model)(x).square().sum().backward()
        results.append([*(parameter.grad for parameter in model.parameters()), *model.buffers()])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_inductor_compiles_a_model(port) -> None:
    import torch

    torch._dynamo.reset()
    model = built(port, "bn_lenet")
    assert_equal(run(torch.compile(model, fullgraph=True), batch(model)), run(model, batch(model)))


def test_a_symbolic_trace_computes_the_same(model, x) -> None:
    from torch import fx

    traced = fx.symbolic_trace(model)
    assert_equal(run(traced, x), run(model, x))
    # Nothing computed from weights or statistics became a constant. The counters are not used in evaluation mode.
    counters = {name for name in model.state_dict() if name.endswith("num_batches_tracked")}
    assert traced.state_dict().keys() == model.state_dict().keys() - counters


@pytest.mark.parametrize("name", ["bn_lenet", "bn_lenet_scratch", "resnet_small", "densenet_small"])
def test_a_symbolic_trace_in_training_mode_moves_the_statistics(port, name: str) -> None:
    from torch import fx

    model = built(port, name).train()
    before = copy.deepcopy(model.state_dict())
    traced = fx.symbolic_trace(copy.deepcopy(model))
    x = batch(model)
    for _ in range(2):
        found, expected = traced(x), model(x)
        assert_equal(found, expected)
        found.sum().backward()
    for tensor, values in model.state_dict().items():
        assert_equal(traced.state_dict()[tensor], values)
        moves = tensor.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")
        assert (values != before[tensor]).any() == moves, tensor
