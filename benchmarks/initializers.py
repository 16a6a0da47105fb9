"""Measure mean and variance of each framework's default initializers, for the table in docs/initializers.md.

python benchmarks/initializers.py
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from common import catalog, reference, weights
from common.backends import registry

NETWORK = "vgg11_small"
TENSORS = ("stage4.conv1.weight", "stage4.conv1.bias", "head.fc1.weight", "head.fc1.bias")
"""A 3x3 convolution from 64 to 128 channels and a dense layer from 6,272 to 4,096 features."""

WORKER = f"""
import json
from common import catalog
from common.backends import registry
backend = registry.load({{backend!r}})
drawn = backend.initial(catalog.get({NETWORK!r}), "float32", 0)
print(json.dumps({{{{name: [float(drawn[name].mean(dtype="f8")), float(drawn[name].var(dtype="f8")),
    float(abs(drawn[name]).max())] for name in {TENSORS!r}}}}}))
"""

INITIALIZERS = {
    "rosetta": ("Xavier uniform", "zero"),
    "torch": ("uniform, bound 1/sqrt(fan_in)", "uniform, bound 1/sqrt(fan_in)"),
    "jax": ("LeCun normal, cut off at two deviations", "zero"),
    "tf": ("Glorot (Xavier) uniform", "zero"),
    "mxnet": ("uniform, bound 0.07", "zero"),
}


def theoretical_variance(name: str) -> dict[str, float]:
    """Return the variance of each initializer by its definition, for the fans of a tensor."""
    shape = reference.describe(catalog.get(NETWORK)).manifest[name].shape
    window = math.prod(shape[2:])
    fan_in, fan_out = shape[1] * window, shape[0] * window
    return {
        "rosetta": 2 / (fan_in + fan_out),
        "torch": 1 / (3 * fan_in),
        "jax": 1 / fan_in,
        "tf": 2 / (fan_in + fan_out),
        "mxnet": 0.07**2 / 3,
    }


def measured(backend: str) -> dict[str, list[float]]:
    """Return mean, variance and largest absolute value of each tensor, drawn in the backend's own process."""
    if backend == "rosetta":
        drawn = weights.initialize(catalog.get(NETWORK), "xavier", 0)
        return {
            name: [
                float(drawn[name].mean(dtype="f8")),
                float(drawn[name].var(dtype="f8")),
                float(abs(drawn[name]).max()),
            ]
            for name in TENSORS
        }
    interpreter = registry.find_interpreter(backend)
    if interpreter is None:
        sys.exit(f"backend {backend} is not installed")
    result = subprocess.run(
        [str(interpreter.path), "-c", WORKER.format(backend=backend)],
        env={**os.environ, "PYTHONPATH": str(PROJECT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    """Print the table in Markdown."""
    print("| framework | weights | tensor | mean | variance | by definition | largest | biases |")
    print("|---|---|---|---|---|---|---|---|")
    for backend, (drawn, biases) in INITIALIZERS.items():
        statistics = measured(backend)
        for name in ("stage4.conv1", "head.fc1"):
            mean, variance, largest = statistics[f"{name}.weight"]
            bias_mean, bias_variance, bias_largest = statistics[f"{name}.bias"]
            bias = biases if not bias_largest else f"{biases}: mean {bias_mean:.1e}, variance {bias_variance:.2e}"
            expected = theoretical_variance(f"{name}.weight")[backend]
            print(
                f"| {backend} | {drawn} | `{name}` | {mean:.1e} | {variance:.3e} | {expected:.3e} | {largest:.4f} | "
                f"{bias} |"
            )


if __name__ == "__main__":
    main()
