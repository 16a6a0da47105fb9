"""Worker process of an export: `python -m common.deploy.export.worker REQUEST.json`, run where the framework is."""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from common import weights
from common.backends import registry
from common.deploy.export.formats import Export
from common.errors import BackendError, RosettaError

__all__ = ["main"]


def _make(request: dict[str, Any]) -> dict[str, Any]:
    given = weights.read(Path(request["weights"]))
    dtype = np.dtype("float64" if request["dtype"] == "float64" else "float32")
    tensors = {name: np.asarray(tensor, dtype) for name, tensor in given.tensors.items()}
    calibration = None if request["calibration"] is None else np.load(request["calibration"])
    size = None if request["size"] is None else tuple(request["size"])
    export = Export(request["format"], request["dtype"], Path(request["path"]), request["batch"], size, calibration)
    port = importlib.import_module(f"{registry.get(request['backend']).package}.export")
    signature = port.export(given.network, tensors, export)
    return {
        "status": "ok",
        "input": signature.input,
        "output": signature.output,
        "layout": signature.layout,
        "versions": dict(signature.versions),
        "processor": dict(signature.processor),
    }


def main() -> int:
    """Carry out one request; the answer is a file, since frameworks print what they like."""
    with open(sys.argv[1], encoding="utf-8") as file:
        request = json.load(file)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        answer = _make(request)
    except BackendError as error:  # a compiler that is not there, which is no fault of the request
        answer = {"status": "failed", "message": str(error)}
    except RosettaError as error:
        answer = {"status": "refused", "message": str(error)}
    except Exception as error:  # whatever a framework raises is told to whoever asked
        traceback.print_exc()
        answer = {"status": "failed", "message": " ".join(f"{type(error).__name__}: {error}".split())}
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
