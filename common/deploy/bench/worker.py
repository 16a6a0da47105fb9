"""Worker process that measures one execution path once: `python -m common.deploy.bench.worker REQUEST.json`.

It writes an `Outcome` as JSON to the file that the request names. Cold start includes everything imported before the
runtime, so this module imports little.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
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
    """Request to a benchmark worker: one path under one setting.

    `result`: the file for the outcome. `started`: the monotonic clock when the process was started. `processors`: to
    run on; all if empty. `module`: a port's `deploy`, or the module of `common.deploy.serving` that loads `artifact`.
    `images` (N, C, H, W), `labels` (N,) and `expected` are .npy files. `expected` holds the reference's logits, or in
    training its loss and largest logit; None if the output is not compared. After a correct output come warm-up and
    then at least `runs` samples that take at least `seconds`; neither if `runs` is 0.
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
    """The result of one process; times in seconds.

    `imports` and `first_answer` count from the start of the process; `load` is the time to load the model. `first` is
    the first call, including compilation. `warm_up` and `samples` are single calls. Energy is per image.
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
    """Import the runtime, load the model, run it once, compare the output and, if it is correct, time it.

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
    run: Callable[[], Any]
    to_array: Callable[[Any], Any]
    if request.mode == "training":
        run, to_array = _training_step(request, module, images), float
        loaded = time.monotonic()
    else:
        session = _session(request, module)
        loaded = time.monotonic()
        prepared = session.prepare(images)
        run, to_array = lambda: session.run(prepared), session.logits

    first, output = _timed(run)
    values = to_array(output)
    end = time.monotonic()
    outcome = Outcome(
        "measured",
        imports=imported - request.started,
        load=loaded - before,
        first=first,
        first_answer=end - request.started,
    )
    error, problem = _compared(request, np.asarray(values, np.float64))
    if problem:
        return dataclasses.replace(outcome, status="wrong", message=problem, error=error)
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


def _training_step(request: Request, module: Any, images: np.ndarray) -> Any:
    import numpy as np

    from common import catalog

    network = catalog.get(request.network, **request.config)
    labels = np.load(request.labels)
    return module.training_step(
        network, _tensors(request), request.path, request.device, images, labels, request.learning_rate
    )


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    output = run()
    return time.perf_counter() - start, output


def _compared(request: Request, output: np.ndarray) -> tuple[float | None, str]:
    """Return the error of an output, None if it is not compared, and what is wrong with it, "" if it is correct."""
    import numpy as np

    from common.deploy.relative_error import relative_error

    if not np.isfinite(output).all():
        return None, "the answer is not finite"
    if request.expected is None:
        return None, ""
    expected = np.load(request.expected)
    if request.mode == "training":
        loss, largest_logit = map(float, expected)
        error, name = abs(float(output) - loss) / largest_logit, "the loss is"
    elif output.shape != expected.shape:
        return None, f"the logits are of shape {output.shape}; expected {expected.shape}"
    else:
        error, name = relative_error(output, expected), "the logits are"
    if error <= request.tolerance:
        return error, ""
    return error, f"{name} off by {error:.2g} of the largest logit; the tolerance is {request.tolerance:.2g}"


def _sampled(request: Request, outcome: Outcome, run: Callable[[], Any], images: int) -> Outcome:
    """Warm up, then time single calls."""
    from common.deploy.bench.energy import meter
    from common.deploy.bench.timing import warm_up
    from common.system import peak_memory

    warm = warm_up(lambda: _timed(run)[0], request.warm_up_seconds)
    samples: list[float] = []
    spent = 0.0
    joules = meter(request.device)
    while len(samples) < request.runs or spent < request.seconds:
        seconds, output = _timed(run)
        samples.append(seconds)
        spent += seconds
    energy = joules() / len(samples) / images if joules else None
    if request.mode == "training" and not math.isfinite(output):
        return dataclasses.replace(outcome, status="wrong", message="after some steps the loss is not finite")
    return dataclasses.replace(
        outcome,
        warm_up=tuple(warm),
        samples=tuple(samples),
        peak_memory_bytes=peak_memory(),
        energy_joules=energy,
    )


def _outcome(request: Request) -> Outcome:
    try:
        return measure(request)
    except ModuleNotFoundError as error:
        own = (error.name or "").startswith(request.module.partition(".")[0])
        return Outcome("failed" if own else "missing", f"{error.name} is not installed in {sys.executable}")
    except RosettaError as error:
        return Outcome("failed", str(error))
    except Exception as error:  # any error of a runtime fails only its own row
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return Outcome("failed", f"{type(error).__name__}: {lines[0] if lines else 'no message'}")


def main(path: str) -> int:
    """Read a request, measure, and write the outcome."""
    request: Request = json_records.build(Request, json_records.parse(Path(path).read_bytes()))
    outcome = _outcome(request)
    Path(request.result).write_text(json.dumps(dataclasses.asdict(outcome)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
