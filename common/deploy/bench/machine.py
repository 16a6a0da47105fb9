"""Host description and roofline peaks.

`python -m common.deploy.bench.machine THREADS` measures the peaks with that many threads and prints them as JSON.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

__all__ = ["IDENTITY", "describe", "identity", "least_bytes", "matmul_gflops", "memory_gb_per_s", "processors"]

IDENTITY = ("processor", "processors", "memory_bytes", "system", "gpu")
"""Two runs with the same values of these were made on the same machine."""

_CPUS = Path("/sys/devices/system/cpu")
_SIDE = 1536
"""Rows and columns of the matrices, 9 MB each: large enough for the peak rate of any BLAS."""
_MIN_SECONDS = 0.5
_MEGABYTE = 1 << 20


def describe() -> dict[str, Any]:
    """Return the processor's name, the number of usable processors, memory, operating system and GPU."""
    import psutil

    from common import system

    return {
        "processor": _processor(),
        "processors": system.processors(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
        "release": platform.release(),
        "gpu": _gpu(),
    }


def identity(machine: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the values that identify a machine."""
    return tuple(machine.get(name) for name in IDENTITY)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model", "cpu model"):
                return value.strip()
    return platform.processor() or platform.machine()


def _gpu() -> str | None:
    """Return the name of the first NVIDIA GPU, None without a driver."""
    models = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    for line in models[0].read_text().splitlines() if models else ():
        name, _, value = line.partition(":")
        if name.strip() == "Model":
            return value.strip()
    return None


def processors(threads: int) -> list[int]:
    """Return the processors to run that many threads on: separate cores first, then second threads of cores.

    An empty list if the operating system cannot bind a process to processors.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    allowed = sorted(os.sched_getaffinity(0))
    first = [cpu for cpu in allowed if _siblings(cpu)[0] == cpu or _siblings(cpu)[0] not in allowed]
    return [*first, *(cpu for cpu in allowed if cpu not in first)][:threads]


def _siblings(cpu: int) -> list[int]:
    """Return the processors that share a core with this one, including it, in ascending order."""
    shared = _CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list"
    try:
        return sorted(int(number) for number in shared.read_text().replace("-", ",").split(","))
    except (OSError, ValueError):
        return [cpu]


def _best(work: Callable[[], object]) -> float:
    """Return the shortest time of a call after one warm-up call, in seconds, over at least half a second of calls."""
    work()
    times: list[float] = []
    while sum(times) < _MIN_SECONDS or len(times) < 5:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def matmul_gflops() -> float:
    """Return the rate of a float32 matrix product in NumPy, in 10^9 operations per second."""
    import numpy as np

    a, b = np.random.default_rng(0).standard_normal((2, _SIDE, _SIDE), dtype=np.float32)
    out = np.empty_like(a)
    return 2 * _SIDE**3 / _best(lambda: np.matmul(a, b, out=out)) / 1e9


def memory_gb_per_s(threads: int) -> float:
    """Return the memory bandwidth of a = b + c on arrays larger than the caches, in 10^9 bytes per second.

    Counted as in STREAM: two arrays read, one written (McCalpin, 1995).
    """
    import numpy as np

    length = _array_bytes() // 8
    b, c, a = np.ones(length), np.ones(length), np.empty(length)
    parts = [slice(i * length // threads, (i + 1) * length // threads) for i in range(threads)]

    def add(part: slice) -> None:
        np.add(b[part], c[part], out=a[part])

    with ThreadPoolExecutor(threads) as pool:
        seconds = _best(lambda: list(pool.map(add, parts)))
    return 3 * 8 * length / seconds / 1e9


def _array_bytes() -> int:
    """Return the bytes of an array that does not fit the last-level cache: four times the cache, 64 to 256 MiB."""
    cache = _CPUS / "cpu0" / "cache" / "index3" / "size"
    try:
        kilobytes = int(cache.read_text().strip().removesuffix("K"))
    except (OSError, ValueError):
        kilobytes = 0
    return min(max(4 * kilobytes * 1024, 64 * _MEGABYTE), 256 * _MEGABYTE)


def least_bytes(parameters: int, input_numbers: int, activations: int, batch: int, width: int = 4) -> int:
    """Return the minimum memory traffic of a batch in bytes: weights once, each image and activation once.

    `width`: bytes per number.
    """
    return width * (parameters + batch * (input_numbers + activations))


def main(threads: int) -> int:
    """Measure and print the peaks with that many threads."""
    bound = processors(threads)
    if bound:
        os.sched_setaffinity(0, bound)
    peaks = {"matmul_gflops": matmul_gflops(), "memory_gb_per_s": memory_gb_per_s(threads)}
    print(json.dumps(peaks))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
