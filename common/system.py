"""Number of processors, and the memory allocator's settings."""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["keep_freed_memory", "processors"]


def processors() -> int:
    """Return the number of processors that this process may use."""
    # Only Linux reports the affinity of a process.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
