"""The processors that this process may use."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

__all__ = ["keep_freed_memory", "peak_memory", "processors"]


def processors() -> int:
    """Return how many processors this process may use."""
    # Only Linux can say which; elsewhere it is all there are.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory() -> int:
    """Return the peak resident memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux `ru_maxrss` starts at the memory that the parent process used when it started this one.
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


_M_TRIM_THRESHOLD = -1

_M_MMAP_THRESHOLD = -3
"""glibc's names for what `mallopt` sets (malloc.h)."""

_GIGABYTE = 1 << 30


def keep_freed_memory() -> None:
    """Have this process keep the memory that it frees for what it asks for next, but for blocks of over a gigabyte.

    glibc gives a large block back to the system at once, which must map and clear each of its pages when the next is
    asked for. A program that allocates what it computes at every pass, as torch does, spends up to half its time so.
    There is nothing to set where the C library is another.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, -1)  # never
        mallopt(_M_MMAP_THRESHOLD, _GIGABYTE)
