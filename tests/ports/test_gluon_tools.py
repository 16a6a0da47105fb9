"""Gluon's own tools work on every network: slicing, saving, exporting, hybridizing, copying and printing."""

from __future__ import annotations

import copy
import functools
import itertools
import subprocess
import sys
import textwrap
import warnings
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support import ROOT

from common import catalog, images, reference
from common import weights as canonical
from common.catalog import Network
from common.mutants.generic import MODULES
from common.parity.tolerances import Limits

if TYPE_CHECKING:
    from mxnet.gluon import HybridBlock

pytestmark = [pytest.mark.port("mxnet"), pytest.mark.usefixtures("backend")]

# The mutants' networks: those of the catalog at small sizes, and a small configuration of every family.
NETWORKS = {network.name: network for networks in MODULES.values() for network in networks}
# The rest of the catalog with its own widths and depths, except vgg11 and vgg11_small: vgg11 above is a smaller one.
NETWORKS |= {
    f"{name} of the catalog": catalog.get(name, input_size=(38, 51)) for name in ("resnet18", "densenet", "regnetx32")
}
every_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)


def make(network: Network) -> HybridBlock:
    """Return the network with probe weights."""
    import mxnet_impl
    from mxnet_impl.weights import from_canonical

    model = mxnet_impl.build(network.name, **network.settings())
    from_canonical(model, probe_weights(network))
    return model


@functools.cache
def probe_weights(network: Network) -> dict[str, np.ndarray]:
    """Return random weights, none of which is zero or one as some of Gluon's own initial ones are."""
    return canonical.initialize(network, "probe", 3)


def batch(network: Network, dtype: str = "float32") -> Any:
    from mxnet import np as mx_np

    return mx_np.array(images.noise_batch(network, 2, 5), dtype=dtype)


def equal(x: Any, y: Any) -> bool:
    """True if two MXNet arrays hold the same numbers."""
    return np.array_equal(x.asnumpy(), y.asnumpy())


def agrees_with_reference(network: Network, x: Any, logits: Any) -> bool:
    truth = reference.build(network)
    reference.load(truth, probe_weights(network))
    expected = truth(x.asnumpy().astype("float64"))
    error = np.max(np.abs(logits.asnumpy() - expected)) / np.max(np.abs(expected))
    return error <= Limits("forward", network, len(x)).tap("logits", logits.dtype.name).tolerance


@every_network
def test_a_slice_computes_what_its_layers_compute(network: Network) -> None:
    from mxnet.gluon import nn

    net, x = make(network), batch(network)
    layers = [net[i] for i in range(len(net))]
    assert net[-1] is layers[-1]
    for start, stop in itertools.pairwise((0, 1, 2, len(net) - 1, len(net))):
        part = net[start:stop]
        assert isinstance(part, nn.HybridSequential)
        assert [part[i] for i in range(len(part))] == layers[start:stop]
        expected = x
        for layer in layers[start:stop]:
            expected = layer(expected)
        x = part(x)
        assert equal(x, expected)
    assert equal(x, net(batch(network)))
    assert len(net[2:5]) == len(layers[2:5])


@every_network
def test_a_slice_keeps_the_names_of_its_layers(network: Network, tmp_path: Path) -> None:
    net = make(network)
    names = list(net._collect_params_with_prefix())
    backbone = net[:-1]
    kept = list(backbone._collect_params_with_prefix())
    assert kept == names[: len(kept)]
    # So a network's file has the weights for its backbone.
    net.save_parameters(str(tmp_path / "net.params"))
    other = make(network)
    for parameter in other.collect_params().values():
        parameter.set_data(parameter.data() * 0)
    other[:-1].load_parameters(str(tmp_path / "net.params"), ignore_extra=True)
    x = batch(network)
    assert equal(other[:-1](x), backbone(x))


@every_network
def test_every_layer_is_an_attribute_and_is_printed(network: Network) -> None:
    from mxnet_impl.weights import named_blocks

    net = make(network)
    printed = str(net)
    for path, block in named_blocks(net):
        assert attrgetter(path)(net) is block
        assert f"({path.rpartition('.')[2]}): " in printed


@every_network
def test_export_and_import(network: Network, tmp_path: Path) -> None:
    from mxnet import gluon

    net, x = make(network), batch(network)
    net.hybridize()
    logits = net(x)
    net.export(str(tmp_path / "net"))
    with warnings.catch_warnings():
        # Gluon infers types with no input at hand, and says so.
        warnings.filterwarnings("ignore", "Cannot decide type")
        imported = gluon.SymbolBlock.imports(f"{tmp_path}/net-symbol.json", ["data"], f"{tmp_path}/net-0000.params")
    assert equal(imported(x), logits)
    assert equal(imported(x[:1]), net(x[:1]))


def test_an_exported_custom_operator_needs_this_package(tmp_path: Path) -> None:
    """The graph names the operator of bn_lenet_scratch; its Python code is in mxnet_impl."""
    net, x = make(catalog.get("bn_lenet_scratch")), batch(catalog.get("bn_lenet_scratch"))
    net.hybridize()
    logits = net(x)
    net.export(str(tmp_path / "net"))
    np.save(tmp_path / "x.npy", x.asnumpy())
    code = textwrap.dedent("""
        import sys
        import numpy
        from mxnet import gluon, np, npx
        npx.set_np()
        if sys.argv[1] == "with":
            import mxnet_impl
        net = gluon.SymbolBlock.imports("net-symbol.json", ["data"], "net-0000.params")
        numpy.save("logits.npy", net(np.array(numpy.load("x.npy"), dtype="float32")).asnumpy())
    """)

    def run(package: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, package],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )

    without = run("without")
    assert without.returncode != 0
    assert "choose_statistics" in without.stderr
    assert run("with").returncode == 0
    assert np.array_equal(np.load(tmp_path / "logits.npy"), logits.asnumpy())


@every_network
def test_save_and_load_parameters(network: Network, tmp_path: Path) -> None:
    import mxnet_impl

    net, x = make(network), batch(network)
    net.save_parameters(str(tmp_path / "net.params"))
    fresh = mxnet_impl.build(network.name, **network.settings())
    assert not equal(fresh(x), net(x))
    fresh.load_parameters(str(tmp_path / "net.params"))
    assert equal(fresh(x), net(x))


@pytest.mark.parametrize("options", [{}, {"static_alloc": True, "static_shape": True}], ids=str)
@every_network
def test_hybridized_equals_imperative(network: Network, options: dict[str, bool]) -> None:
    net, x = make(network), batch(network)
    imperative = net(x)
    net.hybridize(**options)
    for _ in range(2):  # the first call records the graph
        assert equal(net(x), imperative)


@every_network
def test_summary_counts_every_parameter(network: Network, capsys: pytest.CaptureFixture[str]) -> None:
    make(network).summary(batch(network))
    lines = dict(line.split(":") for line in capsys.readouterr().out.splitlines() if ":" in line)
    known = reference.describe(network)
    assert int(lines["Unique parameters in model"]) == known.parameters + known.statistics
    assert int(lines["   Trainable params"]) == known.parameters
    assert int(lines["   Non-trainable params"]) == known.statistics


@every_network
def test_a_deep_copy_has_its_own_parameters(network: Network) -> None:
    net, x = make(network), batch(network)
    net.hybridize()
    logits = net(x)
    # Gluon copies no compiled graph, of any model.
    net.hybridize(active=False)
    other = copy.deepcopy(net)
    assert equal(other(x), logits)
    for parameter in other.collect_params().values():
        parameter.set_data(parameter.data() * 0)
    assert not other(x).any()
    assert equal(net(x), logits)


@pytest.mark.parametrize("hybridized", [False, True])
@every_network
def test_cast_to_float64(network: Network, hybridized: bool) -> None:
    net, x = make(network), batch(network, "float64")
    net.cast("float64")
    if hybridized:
        net.hybridize()
    logits = net(x)
    assert logits.dtype == np.float64
    assert agrees_with_reference(network, x, logits)


def test_observing_a_model_changes_no_class_of_gluon(backend) -> None:
    from mxnet.gluon import Block, HybridBlock

    network = catalog.get("lenet")
    model = backend.build(network, "float32")
    backend.load(model, canonical.initialize(network, "probe"))
    methods = (Block.__call__, Block.forward, HybridBlock.forward)
    during = []
    model.register_forward_hook(lambda *_: during.append((Block.__call__, Block.forward, HybridBlock.forward)))
    x = images.noise_batch(network, 2)
    backend.trace(model, x)
    backend.calls(model, x)
    assert during == [methods] * 2


def test_a_failed_trace_leaves_the_model_as_it_was(backend) -> None:
    network = catalog.get("lenet")
    model = backend.build(network, "float32")
    backend.load(model, canonical.initialize(network, "probe"))
    x = images.noise_batch(network, 2)
    logits = backend.run(model, x)
    attributes = [vars(block).keys() for block in model]
    with pytest.raises(Exception, match="hape"):
        backend.trace(model, x, given={"pool1": x[:, :, 1:]})
    assert [vars(block).keys() for block in model] == attributes
    assert np.array_equal(backend.run(model, x), logits)
