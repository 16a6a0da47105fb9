"""LiteRT files of float16 and int8, served without TensorFlow, against the reference."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from common import backends, catalog, images, reference, weights
from common.deploy.formats import FORMATS

NETWORKS = {
    "padded-pool": catalog.get("densenet", arch=[1, 1], growth_rate=8, num_channels=8, input_size=[36, 41]),
    "groups": catalog.get("anynet", arch=[[1, 16, 4, 1.0]], stem_channels=8, input_size=[33, 38]),
}

TOLERANCES = {"float16": 2e-3, "int8": 0.08}
"""Of logits, relative to the largest: about three times as far as was measured on the networks of the catalogue."""

MAKE = """
import json, sys
from pathlib import Path
import numpy as np
from common import catalog
from common.deploy.formats import Export
from tf_impl.export import export
config, dtype, folder = json.loads(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
network = catalog.get(config.pop("name"), **config)
size = network.config.input_size
with np.load(folder / "weights.npz") as tensors, np.load(folder / "images.npz") as images:
    request = Export("litert", dtype, folder / "artifact.tflite", None, size, images["calibration"])
    export(network, dict(tensors), request)
"""

SERVE = """
import runpy, sys
import numpy as np
module, folder = sys.argv[1:]
session = runpy.run_path(module)["load"](f"{folder}/artifact.tflite", {"input": {"layout": "NHWC"}}, 1)
with np.load(f"{folder}/images.npz") as images:
    np.save(f"{folder}/logits.npy", session.logits(session.run(session.prepare(images["asked"]))))
"""


def run(environment: str, *arguments: object, **options: object) -> None:
    found = backends.find_environment(environment, ())
    assert found is not None, f"install it {backends.install_hint(environment)}"
    result = subprocess.run(
        [str(found.path), *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False, **options
    )
    assert result.returncode == 0, result.stderr[-4000:]


@pytest.mark.across
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("case", NETWORKS)
def test_fewer_bits_are_near_the_reference(case: str, dtype: str, tmp_path: Path) -> None:
    network = NETWORKS[case]
    tensors = weights.initialise(network, "probe", 3)
    asked, calibration = (images.noise_batch(network, 16, seed).astype("float32") for seed in (5, 6))
    np.savez(tmp_path / "weights.npz", **tensors)
    np.savez(tmp_path / "images.npz", asked=asked, calibration=calibration)
    config = json.dumps({"name": network.name, **network.settings()})
    run("tf", "-c", MAKE, config, dtype, tmp_path, env={"PYTHONPATH": str(ROOT)})
    run("runtimes", "-I", "-c", SERVE, ROOT / "common/deploy/serving" / f"{FORMATS['litert'].server}.py", tmp_path)
    model = reference.build(network)
    reference.load(model, {name: array.astype("float64") for name, array in tensors.items()})
    expected, found = model(asked.astype("float64")), np.load(tmp_path / "logits.npy")
    error = np.max(np.abs(found - expected)) / np.max(np.abs(expected))
    # It has kept fewer bits, or the test could not fail.
    assert 1e-5 < error <= TOLERANCES[dtype]
