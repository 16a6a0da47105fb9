"""Energy, where the machine tells: of its processors by Linux' powercap (RAPL), of an NVIDIA GPU by its driver."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["meter"]

_POWERCAP = Path("/sys/class/powercap")


def meter(device: str, powercap: Path = _POWERCAP) -> Callable[[], float] | None:
    """Start to count and return what gives the joules since, or None where the machine does not tell.

    It is the energy of whole processors, or of a whole GPU, whatever else runs on them, and without the memory's.
    """
    return _of_gpu() if device == "gpu" else _of_processors(powercap)


def _of_processors(powercap: Path) -> Callable[[], float] | None:
    try:
        # AMD's too go by this name. The other zones are parts of a package, or all of the machine.
        zones = [
            zone for zone in sorted(powercap.glob("intel-rapl:*")) if (zone / "name").read_text().startswith("package")
        ]
        start = [_number(zone / "energy_uj") for zone in zones]
        spans = [_number(zone / "max_energy_range_uj") for zone in zones]
    except OSError:  # since 2020 only root may read it (CVE-2020-8694)
        return None
    if not zones:
        return None

    def joules() -> float:
        now = [_number(zone / "energy_uj") for zone in zones]
        # A counter that ran over begins again at 0.
        spent = (
            end - begin if end >= begin else end - begin + span
            for end, begin, span in zip(now, start, spans, strict=True)
        )
        return sum(spent) / 1e6

    return joules


def _number(path: Path) -> int:
    return int(path.read_text())


def _of_gpu() -> Callable[[], float] | None:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    handle, start, now = ctypes.c_void_p(), ctypes.c_ulonglong(), ctypes.c_ulonglong()
    found = (
        nvml.nvmlInit_v2() == 0
        and nvml.nvmlDeviceGetHandleByIndex_v2(int(visible) if visible.isdecimal() else 0, ctypes.byref(handle)) == 0
        and nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(start)) == 0
    )
    if not found:
        return None

    def joules() -> float:
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(now))  # in millijoules
        return (now.value - start.value) / 1e3

    return joules
