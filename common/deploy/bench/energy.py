"""Energy meters: CPU packages through Linux powercap (RAPL), NVIDIA GPUs through the driver (NVML)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["meter"]

_POWERCAP = Path("/sys/class/powercap")


def meter(device: str, powercap: Path = _POWERCAP) -> Callable[[], float] | None:
    """Start measuring. Return a function that gives the joules since then; None if the machine does not report energy.

    Measures whole CPU packages or a whole GPU, including other programs and excluding main memory.
    """
    return _gpu_meter() if device == "gpu" else _cpu_meter(powercap)


def _cpu_meter(powercap: Path) -> Callable[[], float] | None:
    try:
        # AMD processors use this name too. The other zones are parts of a package, or the whole machine.
        zones = [
            zone for zone in sorted(powercap.glob("intel-rapl:*")) if (zone / "name").read_text().startswith("package")
        ]
        start = [_number(zone / "energy_uj") for zone in zones]
        spans = [_number(zone / "max_energy_range_uj") for zone in zones]
    except OSError:  # only root may read it since 2020 (CVE-2020-8694)
        return None
    if not zones:
        return None

    def joules() -> float:
        now = [_number(zone / "energy_uj") for zone in zones]
        # The counters wrap around to 0.
        spent = (
            end - begin if end >= begin else end - begin + span
            for end, begin, span in zip(now, start, spans, strict=True)
        )
        return sum(spent) / 1e6

    return joules


def _number(path: Path) -> int:
    return int(path.read_text())


def _gpu_meter() -> Callable[[], float] | None:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    handle, start, now = ctypes.c_void_p(), ctypes.c_ulonglong(), ctypes.c_ulonglong()
    ready = (
        nvml.nvmlInit_v2() == 0
        and nvml.nvmlDeviceGetHandleByIndex_v2(int(visible) if visible.isdecimal() else 0, ctypes.byref(handle)) == 0
        and nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(start)) == 0
    )
    if not ready:
        return None

    def joules() -> float:
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(now))  # in millijoules
        return (now.value - start.value) / 1e3

    return joules
