"""One execution path measured once, in a process of its own that holds nothing else.

`python -m common.deploy.bench.worker REQUEST.json` writes its `Outcome` as JSON to the
file that the request names. What is
imported before the runtime counts as its cold start, so that is little.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import json_records
from common.deploy.bench.results import Mode, Status
from common.errors import RosettaError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Outcome", "Request", "measure"]


@dataclass(frozen=True)
class Request:
    """What to measure, and how.

    `result`: where the outcome goes. `started`: the monotonic clock when the process was started. `processors`: those
    it is bound to, all where the list is empty. `module`: a port's `deploy`, or the module of `serving` that loads
    `artifact`. `images` (N, C, H, W), `labels` (N,) and `expected` are .npy files, the last of inference the logits, of
    training the loss and the largest logit, None where this loss is not to be compared. An answer farther from that
    than `tolerance` is wrong. Then follow warm-up, and at least `runs` samples in at least `seconds`; none for no runs.
    """

    result: str
    started: float
    processors: tuple[int, ...]
    threads: int
    module: str
    path: str
    network: str
    config: dict[str, Any]
    mode: Mode
    device: str
    weights: str
    images: str
    labels: str
    expected: str | None
    tolerance: float
    learning_rate: float
    runs: int
    seconds: float
    warm_up_seconds: float
    artifact: str | None = None
    manifest: dict[str, Any] | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of it. Times are in seconds; `first` is that of the first run alone, with what it compiled.

    `first_answer` counts from the start of the process, as `imports` does; `load` is the time between. `warm_up` and
    `samples` are of single runs; energy is for one image.
    """

    status: Status
    message: str = ""
    error: float | None = None
    imports: float = 0.0
    load: float = 0.0
    first: float = 0.0
    first_answer: float = 0.0
    warm_up: tuple[float, ...] = ()
    samples: tuple[float, ...] = ()
    peak_memory_bytes: int | None = None
    energy_joules: float | None = None


def measure(request: Request) -> Outcome:
    """Import, load, answer, compare; then, if the answer is right, take times.

    Raises whatever the runtime raises.
    """
    if request.processors and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, request.processors)
    module = importlib.import_module(request.module)
    if request.artifact is None:
        module.set_threads(request.threads)
    imported = time.monotonic()

    import numpy as np

    images = np.load(request.images)
    before = time.monotonic()
    made = _step(request, module, images) if request.mode == "training" else _session(request, module)
    loaded = time.monotonic()
    if request.mode == "training":
        run, answer = made, float
    else:
        prepared = made.prepare(images)
        run, answer = lambda: made.run(prepared), made.logits

    first, answered = _timed(run)
    values = answer(answered)
    end = time.monotonic()
    outcome = Outcome(
        "measured",
        imports=imported - request.started,
        load=loaded - before,
        first=first,
        first_answer=end - request.started,
    )
    wrong = _disagreement(request, values)
    if wrong is not None:
        error, message = wrong
        if message:
            return dataclasses.replace(outcome, status="wrong", message=message, error=error)
        outcome = dataclasses.replace(outcome, error=error)
    return _sampled(request, outcome, run, len(images)) if request.runs else outcome


def _tensors(request: Request) -> dict[str, np.ndarray]:
    from common.files import map_safetensors

    return map_safetensors(Path(request.weights))[1]


def _session(request: Request, module: Any) -> Any:
    if request.artifact is not None:
        return module.load(request.artifact, request.manifest, request.threads)
    from common import catalog

    network = catalog.get(request.network, **request.config)
    return module.session(network, _tensors(request), request.path, request.device)


def _step(request: Request, module: Any, images: np.ndarray) -> Any:
    import numpy as np

    from common import catalog

    network = catalog.get(request.network, **request.config)
    labels = np.load(request.labels)
    return module.training_step(
        network, _tensors(request), request.path, request.device, images, labels, request.learning_rate
    )


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    answer = run()
    return time.perf_counter() - start, answer


def _disagreement(request: Request, values: Any) -> tuple[float | None, str] | None:
    """Return how far an answer is from the one expected, and what is wrong with it, "" where it is right."""
    import numpy as np

    found = np.asarray(values, np.float64)
    if not np.isfinite(found).all():
        return None, "the answer is not finite"
    if request.expected is None:
        return None
    expected = np.load(request.expected)
    if request.mode == "training":
        loss, largest = map(float, expected)
        error, what = abs(float(found) - loss) / largest, "the loss is"
    else:
        if found.shape != expected.shape:
            return None, f"the logits are of shape {found.shape}; expected {expected.shape}"
        error, what = float(np.max(np.abs(found - expected)) / np.max(np.abs(expected))), "the logits are"
    if error <= request.tolerance:
        return error, ""
    return error, f"{what} off by {error:.2g} of the largest logit; the tolerance is {request.tolerance:.2g}"


def _sampled(request: Request, outcome: Outcome, run: Callable[[], Any], images: int) -> Outcome:
    """Warm up, then time single runs."""
    from common.deploy.bench.energy import meter
    from common.deploy.bench.timing import warm_up

    warm = warm_up(lambda: _timed(run)[0], request.warm_up_seconds)
    samples: list[float] = []
    spent = 0.0
    joules = meter(request.device)
    while len(samples) < request.runs or spent < request.seconds:
        seconds, answer = _timed(run)
        samples.append(seconds)
        spent += seconds
    energy = joules() / len(samples) / images if joules else None
    if request.mode == "training" and not math.isfinite(answer):
        return dataclasses.replace(outcome, status="wrong", message="the loss is no finite number after some steps")
    return dataclasses.replace(
        outcome,
        warm_up=tuple(warm),
        samples=tuple(samples),
        peak_memory_bytes=_peak_memory(),
        energy_joules=energy,
    )


def _peak_memory() -> int:
    """Return the most bytes of memory that this process held at a time."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss: on Linux that begins with what the parent held when it started this process.
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _outcome(request: Request) -> Outcome:
    try:
        return measure(request)
    except ModuleNotFoundError as error:
        ours = (error.name or "").startswith(request.module.partition(".")[0])
        return Outcome("failed" if ours else "missing", f"{error.name} is not installed in {sys.executable}")
    except RosettaError as error:
        return Outcome("failed", str(error))
    except Exception as error:  # whatever a runtime raises costs its own row and is said there
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return Outcome("failed", f"{type(error).__name__}: {lines[0] if lines else 'it gave no reason'}")


def main(path: str) -> int:
    """Read a request, measure, and write the outcome."""
    import json

    request: Request = json_records.build(Request, json_records.parse(Path(path).read_bytes()))
    outcome = _outcome(request)
    Path(request.result).write_text(json.dumps(dataclasses.asdict(outcome)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
