"""Hand-made parity report and benchmark run for tests of the site."""

from __future__ import annotations

from common.catalog import get
from common.deploy.bench.results import Cold, Interval, Measurement, Run
from common.parity.comparison import Limit, TapError
from common.parity.results import Cell, Pair, Report, Settings
from common.view.side_by_side import lookup


def a_report() -> Report:
    """Return a report of two networks in two backends, with one tap that disagrees."""
    entries = [get("lenet"), get("resnet18")]
    result = Report(
        Settings(entries, ["torch", "jax"]), seconds=3.0, versions={"torch": {"torch": "2.13.0"}, "jax": {}}
    )
    for network in entries:
        taps = [*(part.path for part in lookup.of_network(network).parts if part.path)][:6]
        for dtype, unit in (("float64", 1e-15), ("float32", 1e-6)):
            for backend in ("torch", "jax"):
                wrong = (network.name, dtype, backend) == ("resnet18", "float64", "jax")
                errors = tuple(
                    TapError(name, tap, unit * i * (1000 if wrong and i == 3 else 1), Limit(unit * 8, unit * 64))
                    for i, tap in enumerate(taps)
                    for name in ("digits", "noise")
                )
                status, findings = (
                    ("disagree", ("stem.conv behaves as with padding (2, 3)",)) if wrong else ("agree", ())
                )
                result.cells.append(
                    Cell(network.name, "forward", "", dtype, backend, status, "", errors, 0.1, findings=findings)
                )
    result.pairs.append(Pair("lenet", "forward", "", "float64", ("torch", "jax"), "agree", result.cells[0].errors[0]))
    return result


def a_benchmark(network: str, config: dict) -> Run:
    """Return a run of two correct paths, one wrong path and one missing path, with batches of 1 and 8."""
    measurements = []
    for batch in (1, 8):
        for path, latency, memory in (("onnxruntime", 8.5, 150), ("torch-eager", 16.0, 400)):
            interval = Interval(batch * latency, batch * latency - 0.5, batch * latency + 0.5)
            rate = Interval(1000 / latency, 900 / latency, 1100 / latency)
            measurements.append(
                Measurement(
                    *(network, config, path, "inference", "cpu", batch, 2, "measured", "", 1e-7, 1e-4, interval),
                    *(
                        batch * latency + 1,
                        batch * latency + 2,
                        rate,
                        memory * 10**6,
                        Cold(1, 1, 1, 3),
                        None,
                        10**7,
                        10**8,
                    ),
                )
            )
        measurements.append(
            Measurement(
                network, config, "litert-int8", "inference", "cpu", batch, 2, "wrong", "off by <0.3>", 0.3, 1e-4
            )
        )
        measurements.append(
            Measurement(network, config, "tf-xla", "inference", "cpu", batch, 2, "missing", "no tf here")
        )
    machine = {"processor": "A & B", "processors": 2, "memory_bytes": 8 * 10**9, "system": "Linux x86_64", "gpu": None}
    return Run(
        1, "2026-11-21T10:00:00+00:00", machine, {"runtimes": {"onnxruntime": "1.31.1"}}, {}, tuple(measurements)
    )
