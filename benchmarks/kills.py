"""Kill a training run at random moments, go on with it, and compare its end with that of a run left alone.

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
    """Start `rosetta train` in the backend's own interpreter, so that it is that process that is killed."""
    interpreter = registry.find_interpreter(backend)
    if interpreter is None:
        sys.exit(f"backend {backend} is not installed")
    return subprocess.Popen(
        [str(interpreter.path), "-m", "common", "train", "-o", str(run), *options],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def end(run: Path) -> dict[str, bytes]:
    """Return the last checkpoint's weights and slots."""
    path = checkpoints.checkpoints(run)[0]
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != "state.json"}


def kills(backend: str, wanted: int, folder: Path, whole: float, chance: random.Random) -> tuple[int, int]:
    """Kill one run until it ends or was killed often enough; return how often, and how often within a checkpoint.

    `whole` is how many seconds the run takes when it is left alone.
    """
    run = folder / "run"
    done, torn = 0, 0
    process = start(backend, run, *RECIPE, "--backend", backend)
    while True:
        try:
            # From the first moment of the process to some way into what it has left.
            process.wait(chance.uniform(0, whole) if done < wanted else None)
            return done, torn
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
            torn += any(run.glob("checkpoints/.*"))
            resumable = (run / "config.json").exists()
            process = start(backend, run, *(("--resume",) if resumable else (*RECIPE, "--backend", backend)))


def main() -> None:
    """Do it for each backend until it was killed so many times, in as many runs as that takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backends", nargs="*", default=["torch", "jax", "tf", "mxnet"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)  # noqa: S311
    for backend in arguments.backends:
        total, torn, runs, same = 0, 0, 0, 0
        with tempfile.TemporaryDirectory() as alone:
            begin = time.monotonic()
            start(backend, Path(alone) / "run", *RECIPE, "--backend", backend).wait()
            whole = time.monotonic() - begin
            expected = end(Path(alone) / "run")
        while total < arguments.kills:
            with tempfile.TemporaryDirectory() as folder:
                done, within = kills(backend, arguments.kills - total, Path(folder), whole, chance)
                total, torn, runs, same = (
                    total + done,
                    torn + within,
                    runs + 1,
                    same + (end(Path(folder) / "run") == expected),
                )
        print(
            f"{backend}: {total} kills, {torn} of them while a checkpoint was being written, in {runs} runs; "
            f"{same} of these ended in the same bytes",
            flush=True,
        )


if __name__ == "__main__":
    main()
