"""Execution paths and artifacts of each port, compared with the reference."""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from support import ROOT

from common import catalog, images, reference, weights
from common.backends import environments, registry
from common.deploy.execution_paths import PATHS
from common.deploy.export.fold_batch_norm import folded_layers
from common.deploy.export.formats import FORMATS, Export
from common.errors import BackendError, ConfigError
from common.optimizers import OptimizerConfig
from common.parity.tolerances import Limits
from common.reference.loss import cross_entropy

FOLDED = {"torch": "torch-channels-last", "jax": "jax-deploy", "tf": "tf-function", "mxnet": "mxnet-hybrid"}
"""Of each port the path that runs its deploy form and takes the least time to compile it."""

SIZES = {"lenet": [28, 28], "bn_lenet": [28, 28], "bn_lenet_scratch": [28, 28], "alexnet": [67, 71], "nin": [67, 71]}
"""Input sizes; all others run at 33x38."""

MIXED = catalog.get("resnet", arch=[[1, 8], [1, 16]], input_size=[33, 38], in_channels=2)
"""Quick to compile: convolutions with normalizations to fold, a shortcut with and one without a projection."""
JOINED = catalog.get("densenet", arch=[1, 1], growth_rate=4, num_channels=8, input_size=[33, 38], in_channels=2)
"""Normalizations that cannot be folded beside one that can."""
WIDE = catalog.get("resnet", arch=[[1, 128]], input_size=[67, 58], in_channels=2)
"""Convolutions that are wide enough for Winograd's algorithm, and images that are large enough."""
FLAT = catalog.get("bn_lenet", in_channels=2)
"""A dense layer that knows how large the image was, and a normalization behind one."""


def small(name: str) -> catalog.Network:
    return catalog.get(name, input_size=SIZES.get(name, [33, 38]), in_channels=2)


def probe(network: catalog.Network, dtype: str) -> dict[str, np.ndarray]:
    return weights.initialize(network, "probe", 3, dtype)


def truth(network: catalog.Network, dtype: str, x: np.ndarray) -> np.ndarray:
    """Return the reference's logits, computed in float64 from weights and images of a dtype."""
    model = reference.build(network)
    reference.load(model, {name: array.astype("float64") for name, array in probe(network, dtype).items()})
    return model(x.astype("float64"))


def check(network: catalog.Network, dtype: str, x: np.ndarray, found: np.ndarray) -> None:
    expected = truth(network, dtype, x)
    assert found.shape == expected.shape
    assert found.dtype == np.dtype(dtype)
    error = np.max(np.abs(found - expected)) / np.max(np.abs(expected))
    assert error <= Limits("forward", network, len(x)).tap("logits", dtype).tolerance


def noise(network: catalog.Network, dtype: str, batch: int, seed: int) -> np.ndarray:
    return images.noise_batch(network, batch, seed).astype(dtype)


@pytest.fixture(scope="module")
def deploy(port: ModuleType) -> ModuleType:
    return importlib.import_module(f"{port.__name__}.deploy")


def own_paths(*, training: bool = False) -> list[Any]:
    """Return every path that runs a port's own code, for `pytest_generate_tests` to choose this port's from."""
    return [path.name for path in PATHS.values() if not path.format and (path.trains or not training)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize over the paths and formats of the port that is tested."""
    backend = metafunc.config.getoption("--backend")
    if "path" in metafunc.fixturenames:
        metafunc.parametrize("path", [name for name in own_paths() if PATHS[name].backend == backend])
    if "training_path" in metafunc.fixturenames:
        names = own_paths(training=True)
        metafunc.parametrize("training_path", [name for name in names if PATHS[name].backend == backend])
    if "trained" in metafunc.fixturenames:
        # MXNet's fast path rewrites what a residual network sums and pools.
        metafunc.parametrize("trained", [FLAT, MIXED] if backend == "mxnet" else [FLAT], ids=lambda each: each.name)
    if "own_format" in metafunc.fixturenames:
        names = [name for name, each in FORMATS.items() if each.makers.get(backend) == each.environment]
        metafunc.parametrize("own_format", names)


@pytest.mark.port
@pytest.mark.parametrize("name", ["lenet", *filter(lambda name: folded_layers(small(name)), catalog.NETWORKS)])
def test_the_deploy_form_is_the_same_function(deploy: ModuleType, backend_name: str, name: str) -> None:
    network = small(name)
    session = deploy.session(network, probe(network, "float64"), FOLDED[backend_name], "cpu")
    x = noise(network, "float64", 2, 5)
    check(network, "float64", x, session.logits(session.run(session.prepare(x))))


RUN = """
import sys
import numpy as np
from common import weights
from tf_impl import deploy
for given, images, logits in zip(*[iter(sys.argv[1:])] * 3):
    file = weights.read(given)
    session = deploy.session(file.network, file.tensors, "tf-function", "cpu")
    np.save(logits, session.logits(session.run(session.prepare(np.load(images)))))
"""


@pytest.mark.port
@pytest.mark.parametrize("onednn", ["0", "1"])
def test_groups_stay_one_operation_with_onednn_and_without(backend_name: str, tmp_path: Path, onednn: str) -> None:
    """Grappler fuses other operations with it than without it, and TensorFlow turns it on by the processor."""
    if backend_name != "tf":
        pytest.skip("only TensorFlow chooses what to fuse by the processor")
    network = small("regnetx32")
    arguments = []
    for dtype in ("float64", "float32"):
        files = [str(tmp_path / f"{dtype}-{name}") for name in ("weights.safetensors", "images.npy", "logits.npy")]
        weights.write(files[0], network, probe(network, dtype))
        np.save(files[1], noise(network, dtype, 2, 5))
        arguments += files
    variables = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": onednn}
    subprocess.run([sys.executable, "-c", RUN, *arguments], check=True, cwd=ROOT, env=variables, timeout=300)
    for dtype in ("float64", "float32"):
        check(network, dtype, noise(network, dtype, 2, 5), np.load(tmp_path / f"{dtype}-logits.npy"))


@pytest.mark.port
@pytest.mark.parametrize(
    ("network", "dtype"), [(MIXED, "float64"), (JOINED, "float32")], ids=lambda value: getattr(value, "name", value)
)
def test_every_path_answers_as_the_reference(
    deploy: ModuleType, path: str, network: catalog.Network, dtype: str
) -> None:
    session = deploy.session(network, probe(network, dtype), path, "cpu")
    batches = [noise(network, dtype, 2, seed) for seed in (5, 6)]
    prepared = [session.prepare(x) for x in batches]
    for x, each in zip(batches, prepared, strict=True):
        answer = session.run(each)
        check(network, dtype, x, session.logits(answer))
    # It has made nothing of the first batch a constant, and spoilt none.
    check(network, dtype, batches[0], session.logits(session.run(prepared[0])))


@pytest.mark.port
def test_every_path_takes_the_steps_of_the_trainer(
    deploy: ModuleType, backend, training_path: str, trained: catalog.Network
) -> None:
    network, tensors = trained, probe(trained, "float64")
    given = {name: array.copy() for name, array in tensors.items()}
    x, labels = noise(network, "float64", 4, 5), np.array([3, 0, 9, 3])
    step = deploy.training_step(network, tensors, training_path, "cpu", x, labels, 0.05)
    found = [step() for _ in range(3)]
    model = backend.build(network, "float64")
    backend.load(model, given)
    trainer = backend.trainer(model, OptimizerConfig("sgd"))
    assert found == pytest.approx([trainer.step(x, labels, 0.05)[0] for _ in range(3)], rel=1e-9)
    truth = reference.build(network)
    truth.train(True)
    reference.load(truth, given)
    assert found[0] == pytest.approx(cross_entropy(truth(x), labels), rel=1e-11)
    assert found[2] < found[0]
    # The weights that it was given are still what they were, for the next path.
    assert all(np.array_equal(array, given[name]) for name, array in tensors.items())


@pytest.mark.port
def test_a_gpu_that_is_not_there_is_one_line(deploy: ModuleType, backend_name: str) -> None:
    path = own_paths()[[PATHS[name].backend for name in own_paths()].index(backend_name)]
    try:
        deploy.session(FLAT, probe(FLAT, "float32"), path, "gpu")
    except BackendError as error:
        assert "sees no GPU" in str(error)  # noqa: PT017 (a machine may have one)


CASES = {
    "fixed": (FLAT, 2, True),
    "any-batch": (JOINED, None, True),
    "any-size": (MIXED, None, False),
    "wide": (WIDE, 2, True),
}
"""Exports: network, batch size, and True for a fixed image size."""
WINOGRAD = "torch-aot-winograd"


def cases(name: str) -> list[str]:
    """Return what is exported to a format: of those that take long to compile, what is most unlike."""
    return {WINOGRAD: ["wide"], "torch-aot": ["fixed", "any-size"]}.get(name, ["fixed", "any-batch", "any-size"])


def order(folder: Path, name: str, case: str, dtype: str) -> dict[str, Any]:
    """Return what to export and to serve, as JSON: its weights and images lie in `folder` when this returns."""
    network, batch, sized = CASES[case]
    stem = f"{name}-{case}-{dtype}"
    size = list(network.config.input_size)
    np.savez(folder / f"{stem}.npz", **probe(network, dtype))
    served = network if sized else network.configured(input_size=(size[0] + 12, size[1] + 7))
    inputs = [noise(served, dtype, batch or 3, seed) for seed in (5, 6)]
    np.savez(folder / f"{stem}-inputs.npz", *inputs)
    return {
        **{"network": network.name, "config": network.settings(), "weights": str(folder / f"{stem}.npz")},
        **{"format": name, "dtype": dtype, "path": str(folder / f"{stem}{FORMATS[name].suffix}")},
        **{"batch": batch, "size": size if sized else None, "inputs": str(folder / f"{stem}-inputs.npz")},
    }


def export(maker: ModuleType, ordered: dict[str, Any]) -> dict[str, Any]:
    """Export as ordered, and return the manifest."""
    network = catalog.get(ordered["network"], **ordered["config"])
    size = tuple(ordered["size"]) if ordered["size"] else None
    request = Export(ordered["format"], ordered["dtype"], Path(ordered["path"]), ordered["batch"], size)
    with np.load(ordered["weights"]) as tensors:
        signature = maker.export(network, dict(tensors), request)
    height, width = size or (None, None)
    shapes = {"NCHW": [network.config.in_channels, height, width], "NHWC": [height, width, network.config.in_channels]}
    layout = {"layout": signature.layout, "shape": [request.batch, *shapes[signature.layout]]}
    return {
        **{"format": request.format, "dtype": request.dtype, "network": network.name},
        "processor": dict(signature.processor),
        "input": {"name": signature.input, "dtype": request.dtype, **layout},
        "output": {"name": signature.output, "dtype": request.dtype},
    }


SERVE = """
import importlib.util, json, sys
import numpy as np
module, *orders = sys.argv[1:]
spec = importlib.util.spec_from_file_location("server", module)
server = importlib.util.module_from_spec(spec)
spec.loader.exec_module(server)
for order in map(json.loads, orders):
    session = server.load(order["path"], order["manifest"], 1)
    with np.load(order["inputs"]) as inputs:
        answers = [session.logits(session.run(session.prepare(x))) for x in inputs.values()]
    np.savez(order["answers"], *answers)
print(*{name.partition(".")[0] for name in sys.modules})
"""
MAKE = """
import json, sys
from pathlib import Path
import test_deploy
from common.backends import registry
backend, *orders = sys.argv[1:]
registry.load(backend)
maker = __import__(f"{registry.get(backend).package}.export", fromlist=["export"])
for order in map(json.loads, orders):
    manifest = test_deploy.export(maker, order)
    Path(f"{order['path']}.json").write_text(json.dumps(manifest))
"""


def serve(python: Path, name: str, orders: list[dict[str, Any]], manifests: list[dict[str, Any]]) -> None:
    """Serve artifacts in a fresh process without this project, and compare its answers with the reference's."""
    for server in FORMATS[name].servers:
        given = [
            json.dumps({**each, "manifest": manifest, "answers": f"{each['path']}-{server}.npz"})
            for each, manifest in zip(orders, manifests, strict=True)
        ]
        module = ROOT / "common" / "deploy" / "serving" / f"{server}.py"
        imported = run([python, "-I", "-c", SERVE, module, *given]).splitlines()[-1].split()
        assert not {"common", *(info.package for info in registry.BACKENDS.values())} & set(imported)
        for each in orders:
            network = catalog.get(each["network"], **each["config"])
            with np.load(each["inputs"]) as inputs, np.load(f"{each['path']}-{server}.npz") as answers:
                for key, x in inputs.items():
                    seen = network.configured(input_size=x.shape[2:])
                    check(seen, each["dtype"], x, answers[key])


def run(command: Iterable[object], **options: Any) -> str:
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=300, check=False, **options
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


@pytest.fixture(scope="module")
def maker(port: ModuleType) -> ModuleType:
    return importlib.import_module(f"{port.__name__}.export")


@pytest.mark.port
def test_every_artifact_answers_as_the_reference_without_this_project(
    maker: ModuleType, own_format: str, tmp_path: Path
) -> None:
    orders = [order(tmp_path, own_format, case, "float32") for case in cases(own_format)]
    if "float64" in FORMATS[own_format].dtypes:
        orders.append(order(tmp_path, own_format, cases(own_format)[0], "float64"))
    manifests = [export(maker, each) for each in orders]
    serve(Path(sys.executable), own_format, orders, manifests)
    if own_format == WINOGRAD:
        # For each pair of channels of its two wide convolutions, 36 numbers in place of 9.
        assert Path(orders[0]["path"]).stat().st_size > 2 * 36 * 128 * 128 * 4


@pytest.mark.port
@pytest.mark.parametrize("given", [{"batch": None}, {"size": None}], ids=str)
def test_tiles_are_chosen_for_one_batch_and_size(
    maker: ModuleType, backend_name: str, tmp_path: Path, given: dict[str, None]
) -> None:
    if FORMATS[WINOGRAD].makers.get(backend_name) is None:
        pytest.skip("only torch computes in tiles")
    request = Export(WINOGRAD, "float32", tmp_path / "a.pt2", **{"batch": 2, "size": (67, 58), **given})
    with pytest.raises(ConfigError, match="give --batch and --size, or export to torch-aot"):
        maker.export(WIDE, probe(WIDE, "float32"), request)
    assert not request.path.exists()


LACKING = """
import sys
import torch
sys.path.insert(0, sys.argv[1])
import exported_program
for vectors in ("DEFAULT", "AVX2", "AVX512", "SVE256"):
    try:
        exported_program.load("none.pt2", {"input": {"dtype": "float32"}, "processor": {
            "machine": sys.argv[2], "vectors": vectors}}, 1)
    except RuntimeError as error:
        print(vectors, "refused" if "export it again here" in str(error) else "no such file")
"""


@pytest.mark.port
@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors have other vectors")
@pytest.mark.parametrize(
    ("machine", "capability", "fit"),
    [
        ("x86_64", "default", ["DEFAULT"]),
        ("x86_64", "avx2", ["DEFAULT", "AVX2"]),
        ("aarch64", "avx2", []),
    ],
)
def test_a_package_for_another_processor_is_refused(
    backend_name: str, machine: str, capability: str, fit: list[str]
) -> None:
    """By what torch says of the processor, which a variable may have it underrate."""
    if backend_name != "torch":
        pytest.skip("only torch's packages are compiled for a processor")
    serving = ROOT / "common" / "deploy" / "serving"
    variables = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    printed = run([sys.executable, "-c", LACKING, serving, machine], env=variables)
    said = dict(line.split(" ", 1) for line in printed.splitlines())
    assert len(said) == 4
    assert [vectors for vectors, answer in said.items() if answer != "refused"] == fit


@pytest.mark.port
def test_a_network_that_flattens_images_cannot_take_any_size(
    maker: ModuleType, backend_name: str, tmp_path: Path
) -> None:
    name = next(name for name, each in FORMATS.items() if each.makers.get(backend_name) == backend_name)
    request = Export(name, "float32", tmp_path / f"a{FORMATS[name].suffix}", None, None)
    with pytest.raises(ConfigError, match=r"bn_lenet.*size"):
        maker.export(FLAT, probe(FLAT, "float32"), request)
    assert not request.path.exists()


ACROSS = [
    (name, backend)
    for name, each in FORMATS.items()
    for backend, environment in each.makers.items()
    if environment != each.environment
]
"""Formats written in one environment and served in another."""


MODULES = {"runtimes": ("onnxruntime", "openvino", "ai_edge_litert"), "jax_tf": ("jax", "tensorflow")}
"""Modules of the environments that are not a backend's."""


def environment(name: str) -> Path:
    """Return the interpreter of an environment; where it is missing, the test fails."""
    found = environments.find_environment(name, MODULES.get(name) or registry.get(name).modules)
    assert found is not None, f"{name}: install it {environments.install_hint(name)}"
    return found.path


@pytest.mark.across
@pytest.mark.parametrize(("name", "backend"), ACROSS, ids=lambda value: value)
def test_every_artifact_answers_as_the_reference_in_another_environment(
    name: str, backend: str, tmp_path: Path
) -> None:
    orders = [order(tmp_path, name, case, "float32") for case in cases(name)]
    search = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "ports")))}
    python = environment(FORMATS[name].makers[backend])
    run([python, "-c", MAKE, backend, *map(json.dumps, orders)], env={**os.environ, **search})
    manifests = [json.loads(Path(f"{each['path']}.json").read_text()) for each in orders]
    serve(environment(FORMATS[name].environment), name, orders, manifests)
