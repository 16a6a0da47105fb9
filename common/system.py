"""Number of processors, and the memory allocator's settings."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

__all__ = ["keep_freed_memory", "peak_memory", "processors"]


def processors() -> int:
    """Return the number of processors that this process may use."""
    # Only Linux reports the affinity of a process.
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


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt` (malloc.h)."""

_GIGABYTE = 1 << 30


def keep_freed_memory() -> None:
    """Make this process reuse freed memory, except for blocks of more than a gigabyte.

    By default glibc returns a large block to the system at once, and the system maps and clears new pages for the next
    one. A program that allocates its activations anew in every pass, such as PyTorch, can spend half its time on this.
    Does nothing with another C library.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, -1)  # never
        mallopt(_M_MMAP_THRESHOLD, _GIGABYTE)
