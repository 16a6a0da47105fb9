"""Worker process that exports a network in its framework's environment.

`python -m common.deploy.export.worker REQUEST.json` writes the artifact, and an `Answer` as JSON to the file that the
request names, since frameworks print to standard output.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common import catalog, json_records
from common.backends import registry
from common.deploy.export.formats import Export, Signature
from common.errors import BackendError, RosettaError
from common.files import map_safetensors

__all__ = ["Answer", "Request", "main"]


@dataclass(frozen=True)
class Request:
    """Request to an export worker: the fields of `Export`, with files in place of arrays.

    `weights`: a file that was checked before. `calibration`: an .npy file. `answer`: the file for the answer.
    """

    backend: str
    network: str
    config: dict[str, Any]
    weights: str
    format: str
    dtype: str
    path: str
    batch: int | None
    size: tuple[int, ...] | None
    calibration: str | None
    answer: str


@dataclass(frozen=True)
class Answer:
    """The outcome: `refused` is the request's fault, `failed` the environment's; `message` says why."""

    status: Literal["ok", "refused", "failed"]
    message: str = ""
    signature: Signature | None = None


def _export(request: Request) -> Signature:
    network = catalog.get(request.network, **request.config)
    dtype = np.dtype("float64" if request.dtype == "float64" else "float32")
    tensors = {name: np.asarray(tensor, dtype) for name, tensor in map_safetensors(Path(request.weights))[1].items()}
    calibration = None if request.calibration is None else np.load(request.calibration)
    height_width = None if request.size is None else (request.size[0], request.size[1])
    export = Export(request.format, request.dtype, Path(request.path), request.batch, height_width, calibration)
    port = importlib.import_module(f"{registry.get(request.backend).package}.export")
    signature: Signature = port.export(network, tensors, export)
    return signature


def main(path: str) -> int:
    """Carry out one request and write its answer."""
    request: Request = json_records.build(Request, json_records.parse(Path(path).read_bytes()))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        answer = Answer("ok", signature=_export(request))
    except BackendError as error:  # for example a compiler is missing
        answer = Answer("failed", str(error))
    except RosettaError as error:
        answer = Answer("refused", str(error))
    except Exception as error:  # any error of a framework is reported to the parent process
        traceback.print_exc()
        answer = Answer("failed", " ".join(f"{type(error).__name__}: {error}".split()))
    Path(request.answer).write_text(json.dumps(dataclasses.asdict(answer)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
