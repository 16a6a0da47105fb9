"""A runner whose framework is NumPy under PyTorch's, JAX's or TensorFlow's name, and has one fault; for test_bench.py.

`python faulty_runner.py FAULT -m common.deploy.MODULE ...` is the true module; only what FAULT names is broken.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from types import ModuleType

import numpy as np

from common import reference
from common.backends.numpy.deploy import session
from common.reference.loss import cross_entropy

FAULT = sys.argv[1]


def faulty_session(network, tensors, path, device):
    if FAULT == "crash":
        os.abort()
    if FAULT == "silent":
        os._exit(0)
    if FAULT == "raises":
        raise RuntimeError("no kernel for this\nin the second line")
    if FAULT == "missing":
        raise ModuleNotFoundError("No module named 'framework'", name="framework")
    caches = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    caches.mkdir(parents=True, exist_ok=True)
    if path == "torch-compile":
        (caches / "kernel").write_text("compiled")
    whole = session(network, tensors, "numpy")
    answer = whole.run
    if FAULT == "wrong":
        whole.run = lambda x: answer(x) * (1 + 1e-3)
    if FAULT == "shape":
        whole.run = lambda x: answer(x)[:, :-1]
    if FAULT == "nan":
        whole.run = lambda x: answer(x) * np.nan
    return whole


def training_step(network, tensors, path, device, images, labels, learning_rate):
    model = reference.build(network)
    reference.load(model, tensors)
    model.train(FAULT != "evaluates")
    dropping = network.settings().get("dropout")

    def step() -> float:
        if dropping:
            return 1.0 if FAULT != "diverges" else np.nan
        return cross_entropy(model(images.astype(np.float64)), labels) + (FAULT == "offset")

    return step


if __name__ == "__main__":
    for package in ("torch_impl", "jax_impl", "tf_impl"):
        port = ModuleType(f"{package}.deploy")
        port.set_threads, port.session, port.training_step = lambda count: None, faulty_session, training_step
        sys.modules[package], sys.modules[port.__name__] = ModuleType(package), port
    module, sys.argv = sys.argv[3], sys.argv[3:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
