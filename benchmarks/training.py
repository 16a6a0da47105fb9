"""Measure training: time of a step compared with a minimal loop, time spent waiting for data, accuracy on the digits.

    python benchmarks/training.py steps            # a step of `rosetta train` and of a minimal loop
    python benchmarks/training.py digits           # train lenet and bn_lenet in every framework
    python benchmarks/training.py together -o docs/curves.png   # one float64 experiment in every framework

Quote the ratios rather than the times: a ratio comes from alternating rounds in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

import numpy as np

from common import catalog, weights
from common.backends import environments, registry

BACKENDS = ("torch", "jax", "tf", "mxnet")
RATE = 0.01

Step = Callable[[], float]


# Minimal loops, as in each framework's first tutorial: one batch that is already on the device, nothing else.
def bare_torch(network: catalog.Network, x: np.ndarray, y: np.ndarray) -> Step:
    """Return a step in PyTorch."""
    import torch

    import torch_impl

    model = torch_impl.build(network.name, **network.settings())
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    images, labels = torch.from_numpy(x), torch.from_numpy(y)

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def bare_jax(network: catalog.Network, x: np.ndarray, y: np.ndarray) -> Step:
    """Return a step in JAX."""
    import jax
    import optax
    from flax import nnx

    import jax_impl

    graphdef, parameters, rest = nnx.split(jax_impl.build(network.name, **network.settings()), nnx.Param, ...)
    optimizer = optax.sgd(RATE)
    state = optimizer.init(parameters)
    images, labels = jax.device_put(x.transpose(0, 2, 3, 1)), jax.device_put(y)

    @jax.jit
    def update(parameters, rest, state):
        def loss_of(parameters):
            model = nnx.merge(graphdef, parameters, rest, copy=True)
            logits = model(images)
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, nnx.state(model, nnx.Not(nnx.Param))

        (loss, moved), gradients = jax.value_and_grad(loss_of, has_aux=True)(parameters)
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), moved, state, loss

    def step() -> float:
        nonlocal parameters, rest, state
        parameters, rest, state, loss = update(parameters, rest, state)
        return float(loss)

    return step


def bare_tf(network: catalog.Network, x: np.ndarray, y: np.ndarray) -> Step:
    """Return a step in TensorFlow."""
    import keras
    import tensorflow as tf

    import tf_impl

    model = tf_impl.build(network.name, **network.settings())
    optimizer = keras.optimizers.SGD(RATE)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    images, labels = tf.constant(x.transpose(0, 2, 3, 1)), tf.constant(y)
    optimizer.build(model.trainable_variables)

    @tf.function
    def update():
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(images, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    return lambda: float(update())


def bare_mxnet(network: catalog.Network, x: np.ndarray, y: np.ndarray) -> Step:
    """Return a step in MXNet."""
    import mxnet as mx
    from mxnet import autograd, gluon

    import mxnet_impl

    model = mxnet_impl.build(network.name, **network.settings())
    model.hybridize(static_alloc=True, static_shape=True)
    trainer = gluon.Trainer(model.collect_params(), "sgd", {"learning_rate": RATE})
    loss_of = gluon.loss.SoftmaxCrossEntropyLoss()
    loss_of.hybridize()
    images, labels = mx.np.array(x, dtype="float32"), mx.np.array(y)

    def step() -> float:
        with autograd.record():
            loss = loss_of(model(images), labels).mean()
        loss.backward()
        trainer.step(1)
        value = loss.item()
        mx.npx.waitall()
        return value

    return step


BARE = {"torch": bare_torch, "jax": bare_jax, "tf": bare_tf, "mxnet": bare_mxnet}


class Silent:
    """A progress display that prints nothing and records the time of each step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def begin(self, *_: object) -> None:
        self.times.append(time.perf_counter())

    def step(self, *_: object) -> None:
        self.times.append(time.perf_counter())

    def epoch(self, *_: object) -> None: ...

    def warn(self, *_: object) -> None: ...


def compare_steps(backend: str, name: str, batch: int, count: int, rounds: int) -> dict[str, float]:
    """Return the median time of a minimal step and of a trainer's step in ms, and the share of waiting for data."""
    from common.training.batches import Batches
    from common.training.datasets import ArrayExamples, Dataset
    from common.training.experiment import Experiment
    from common.training.loop import train, training_batches

    framework = registry.load(backend)
    network = catalog.get(name)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (batch * count, 28, 28), dtype=np.uint8)
    examples = ArrayExamples(generator.integers(0, 10, len(pixels)), pixels)
    few = ArrayExamples(examples.labels[:batch], pixels[:batch])
    data = Dataset("noise", tuple("0123456789"), examples, few, (0.5,), (0.3,))
    experiment = Experiment(
        name,
        network.settings(),
        backend,
        "noise",
        epochs=1,
        batch_size=batch,
        learning_rate=RATE,
        classes=data.classes,
        mean=data.mean,
        std=data.std,
    )
    first = next(training_batches(experiment, data).epoch(1))
    bare = BARE[backend](network, first.images, first.labels)
    bare_times, trainer_times = [], []
    for _ in range(rounds):
        for _ in range(count):
            start = time.perf_counter()
            bare()
            bare_times.append(time.perf_counter() - start)
        with tempfile.TemporaryDirectory() as folder:
            display = Silent()
            train(Path(folder) / "run", experiment, data, display)
        trainer_times += np.diff(display.times)[2:].tolist()  # the first steps compile
    model = framework.build(network, "float32")
    framework.load(model, weights.initialize(network))
    trainer = framework.trainer(model, experiment.optimizer)
    batches: Batches = training_batches(experiment, data)
    waited, start = 0.0, time.perf_counter()
    for epoch in (1, 2):
        iterator = batches.epoch(epoch)
        while True:
            before = time.perf_counter()
            if (batch_of_data := next(iterator, None)) is None:
                break
            waited += time.perf_counter() - before
            trainer.step(batch_of_data.images, batch_of_data.labels, RATE)
    share = waited / (time.perf_counter() - start)
    return {
        "bare": 1000 * statistics.median(bare_times[2:]),
        "trainer": 1000 * statistics.median(trainer_times),
        "waiting": share,
    }


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PROJECT), "TF_CPP_MIN_LOG_LEVEL": "3"}


def _interpreter(backend: str) -> str:
    interpreter = registry.find_interpreter(backend)
    if interpreter is None:
        sys.exit(f"backend {backend} is missing; install it {environments.install_hint(backend)}")
    return str(interpreter.path)


def steps(names: list[str]) -> None:
    """Print the times of a step, each framework in its own process."""
    for name, batch, count, rounds in (("lenet", 128, 60, 4), ("resnet18", 32, 6, 3)):
        for backend in names:
            arguments = ["one", backend, name, str(batch), str(count), str(rounds)]
            result = subprocess.run(
                [_interpreter(backend), __file__, *arguments],
                env=_environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                check=True,
            )
            times = json.loads(result.stdout.splitlines()[-1])
            print(
                f"{name:9} batch {batch:3} {backend:6} minimal {times['bare']:8.2f} ms  "
                f"trainer {times['trainer']:8.2f} ms  ratio {times['trainer'] / times['bare']:.3f}  "
                f"waiting for data {times['waiting']:.2%}",
                flush=True,
            )


RECIPES = {
    "lenet": ("--optimizer", "adam", "--lr", "0.003", "--batch-size", "32", "--epochs", "30", "--schedule", "cosine"),
    "bn_lenet": (
        "--optimizer",
        "adam",
        "--lr",
        "0.003",
        "--batch-size",
        "32",
        "--epochs",
        "15",
        "--schedule",
        "cosine",
    ),
}


def digits(names: list[str]) -> None:
    """Print each framework's validation accuracy on the digits and its training time."""
    from common.training import metrics

    for network, recipe in RECIPES.items():
        for backend in names:
            with tempfile.TemporaryDirectory() as folder:
                run = Path(folder) / "run"
                start = time.perf_counter()
                subprocess.run(
                    [sys.executable, "-m", "common", "train", network, "--backend", backend, "-o", str(run), *recipe],
                    env=_environment(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    check=True,
                )
                seconds = time.perf_counter() - start
                accuracy = metrics.read(run).epochs.validation_accuracy[-1]
            print(f"{network:9} {backend:6} validation accuracy {accuracy:.2%} in {seconds:.0f} s", flush=True)


def together(names: list[str], picture: Path) -> None:
    """Run one experiment in every framework, plot all curves in one picture and print where they diverge."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [str(Path(folder) / backend) for backend in names]
        for backend, run in zip(names, runs, strict=True):
            recipe = ("--dtype", "float64", "--optimizer", "adam", "--lr", "0.003", "--batch-size", "32")
            subprocess.run(
                [sys.executable, "-m", "common", "train", "lenet", "--backend", backend, "-o", run, *recipe],
                env=_environment(),
                stderr=subprocess.DEVNULL,
                check=True,
            )
        command = [sys.executable, "-m", "common", "compare", *runs, "-o", str(picture)]
        subprocess.run(command, env=_environment(), check=True)


def main() -> None:
    """Run the chosen measurement."""
    if sys.argv[1:2] == ["one"]:
        backend, name, *numbers = sys.argv[2:]
        print(json.dumps(compare_steps(backend, name, *map(int, numbers))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["steps", "digits", "together"])
    parser.add_argument("--backends", default=",".join(BACKENDS))
    parser.add_argument("-o", "--output", type=Path, default=Path("together.png"))
    options = parser.parse_args()
    names = options.backends.split(",")
    if options.what == "together":
        together(names, options.output)
    else:
        {"steps": steps, "digits": digits}[options.what](names)


if __name__ == "__main__":
    main()
