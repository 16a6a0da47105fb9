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

from common import backends  # noqa: E402
from common.training import checkpoints  # noqa: E402

RECIPE = (
    *("bn_lenet", "--epochs", "12", "--batch-size", "32", "--optimizer", "adam", "--lr", "0.001"),
    *("--checkpoint-every", "7", "--flip", "--crop", "1"),
)


def start(backend: str, run: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start `rosetta train` in the backend's own interpreter, so that it is that process that is killed."""
    interpreter = backends.find_interpreter(backend)
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


def kills(backend: str, wanted: int, folder: Path) -> tuple[int, int, bool]:
    """Return how many kills a run took, how many of them within a checkpoint being written, and if its end is right."""
    whole, run = folder / "whole", folder / "run"
    begin = time.monotonic()
    start(backend, whole, *RECIPE, "--backend", backend).wait()
    seconds = time.monotonic() - begin
    chance, done, torn = random.Random(0), 0, 0  # noqa: S311
    process = start(backend, run, *RECIPE, "--backend", backend)
    while True:
        try:
            # From the first moment of the process to some way into what it has left.
            process.wait(chance.uniform(0, 1.2 * seconds) if done < wanted else None)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
            torn += any(run.glob("checkpoints/.*"))
            resumable = (run / "config.json").exists()
            process = start(backend, run, *(("--resume",) if resumable else (*RECIPE, "--backend", backend)))
    return done, torn, end(whole) == end(run)


def main() -> None:
    """Do it for each backend until it was killed so many times, in as many runs as that takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backends", nargs="*", default=["torch", "jax", "tf", "mxnet"])
    parser.add_argument("--kills", type=int, default=20)
    arguments = parser.parse_args()
    for backend in arguments.backends:
        total, torn, runs, same = 0, 0, 0, 0
        while total < arguments.kills:
            with tempfile.TemporaryDirectory() as folder:
                done, within, equal = kills(backend, arguments.kills - total, Path(folder))
            total, torn, runs, same = total + done, torn + within, runs + 1, same + equal
        print(
            f"{backend}: {total} kills, {torn} of them while a checkpoint was being written, in {runs} runs; "
            f"{same} of these ended in the same bytes",
            flush=True,
        )


if __name__ == "__main__":
    main()
