"""Kill a training run at random moments, resume it, and compare its final weights with an uninterrupted run.

    python benchmarks/kills.py torch --kills 20

Run it where the backends are installed, or with ROSETTA_PYTHON_<BACKEND> set.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from common.backends import registry
from common.training import checkpoints

RECIPE = (
    *("bn_lenet", "--epochs", "12", "--batch-size", "32", "--optimizer", "adam", "--lr", "0.001"),
    *("--checkpoint-every", "7", "--flip", "--crop", "1"),
)


def start(backend: str, run: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start `rosetta train` in the backend's own interpreter, so the signal reaches the training process itself."""
    interpreter = registry.find_interpreter(backend)
    if interpreter is None:
        sys.exit(f"backend {backend} is not installed")
    return subprocess.Popen(
        [str(interpreter.path), "-m", "common", "train", "-o", str(run), *options],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def last_checkpoint(run: Path) -> dict[str, bytes]:
    """Return the files of the last checkpoint: weights and optimizer state."""
    path = checkpoints.checkpoints(run)[0]
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != "state.json"}


def kill_and_resume(
    backend: str, limit: int, folder: Path, duration: float, generator: random.Random
) -> tuple[int, int]:
    """Kill and resume one run until it ends or was killed `limit` times.

    Return the number of kills, and of those that came while a checkpoint was written. `duration` is the time in seconds
    of an uninterrupted run.
    """
    run = folder / "run"
    kills, torn = 0, 0
    process = start(backend, run, *RECIPE, "--backend", backend)
    while True:
        try:
            process.wait(generator.uniform(0, duration) if kills < limit else None)
            return kills, torn
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            torn += any(run.glob("checkpoints/.*"))
            resumable = (run / "config.json").exists()
            process = start(backend, run, *(("--resume",) if resumable else (*RECIPE, "--backend", backend)))


def main() -> None:
    """For each backend, kill as many runs as needed for the requested number of kills, and print the outcome."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backends", nargs="*", default=["torch", "jax", "tf", "mxnet"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)  # noqa: S311
    for backend in arguments.backends:
        total, torn, runs, same = 0, 0, 0, 0
        with tempfile.TemporaryDirectory() as folder:
            begin = time.monotonic()
            start(backend, Path(folder) / "run", *RECIPE, "--backend", backend).wait()
            duration = time.monotonic() - begin
            expected = last_checkpoint(Path(folder) / "run")
        while total < arguments.kills:
            with tempfile.TemporaryDirectory() as folder:
                limit = arguments.kills - total
                kills, torn_kills = kill_and_resume(backend, limit, Path(folder), duration, generator)
                total += kills
                torn += torn_kills
                runs += 1
                same += last_checkpoint(Path(folder) / "run") == expected
        print(
            f"{backend}: {total} kills, {torn} of them while a checkpoint was being written, in {runs} runs; "
            f"{same} of these ended with the weights of an uninterrupted run",
            flush=True,
        )


if __name__ == "__main__":
    main()
