"""Measure time and memory of the main commands: `python benchmarks/speed.py`.

Each command runs `--runs` times in its own process; the median time is printed. In addition, each backend loads the
weights of vgg11, compared with reading the file and copying it once.
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
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from common.backends import environments, registry

LOADING = """
import importlib, json, sys, time
import numpy as np
from common.backends import registry
name, path = sys.argv[1:]
backend = registry.load(name)
package = importlib.import_module(registry.get(name).package)
model = package.build("vgg11")
package.load_weights(model, path)

def median(work):
    times = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times)[2]

def read_and_copy():
    return np.fromfile(path, dtype=np.uint8).copy()

print(json.dumps({"load": median(lambda: package.load_weights(model, path)), "read and copy": median(read_and_copy)}))
"""


def timed(command: list[str], runs: int) -> tuple[float, float]:
    """Return the median time of `runs` runs in seconds, and the peak memory of the largest process in GiB."""
    times, peak = [], 0
    for _ in range(runs):
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{' '.join(command)} ended with status {os.waitstatus_to_exitcode(status)}")
        times.append(time.perf_counter() - start)
        peak = max(peak, usage.ru_maxrss * 1024)
    return statistics.median(times), peak / 2**30


def main() -> None:
    """Run all measurements and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    rosetta = [sys.executable, "-m", "common"]
    with tempfile.TemporaryDirectory() as folder:
        weights, report = f"{folder}/vgg11.safetensors", f"{folder}/report.json"
        for name, arguments, runs in (
            ("rosetta --help", ["--help"], 5 * options.runs),
            ("rosetta init vgg11", ["init", "vgg11", "-o", weights], options.runs),
            ("rosetta parity lenet", ["parity", "lenet"], options.runs),
            ("rosetta parity", ["parity", "--json", report], options.runs),
        ):
            seconds, peak = timed([*rosetta, *arguments], runs)
            print(f"{name:22} {seconds:7.2f} s   largest process {peak:.2f} GiB", flush=True)
        results = json.loads(Path(report).read_text())["results"]
        largest = max(results, key=lambda result: result["peak_bytes"])
        print(f"largest worker of `rosetta parity`: {largest['backend']} {largest['peak_bytes'] / 2**30:.2f} GiB")
        for name in ("torch", "jax", "tf", "mxnet"):
            interpreter = registry.find_interpreter(name)
            if interpreter is None:
                print(f"{name}: missing; install it {environments.install_hint(name)}")
                continue
            result = subprocess.run(
                [str(interpreter.path), "-c", LOADING, name, weights],
                env={**os.environ, "PYTHONPATH": str(environments.PROJECT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                check=True,
            )
            times = json.loads(result.stdout.splitlines()[-1])
            ratio = times["load"] / times["read and copy"]
            print(
                f"load vgg11 in {name:6} {times['load']:.2f} s; read and copy {times['read and copy']:.2f} s; "
                f"ratio {ratio:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
