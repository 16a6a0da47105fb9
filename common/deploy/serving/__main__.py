"""Run an artifact on images: `python common/deploy/serving MANIFEST INPUT.npy OUTPUT.npy`.

The folder runs by itself, wherever it is copied, with the runtime that the artifact needs and NumPy. INPUT holds
images (N, C, H, W); OUTPUT gets the logits, (N, classes). An artifact that was altered after its manifest is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def artifact(manifest: Path, described: dict[str, Any]) -> Path:
    """Return where the artifact is, beside its manifest. Ends the program where it is not what was described."""
    folder = manifest.parent
    for name, expected in described["files"].items():
        if not (folder / name).is_file():
            sys.exit(f"{folder / name} is missing; {manifest} lists it: export the network again")
        if (found := sha256(folder / name)) != expected:
            sys.exit(
                f"{folder / name} was altered after it was exported: its SHA-256 is {found[:12]}..., and {manifest} "
                f"says {expected[:12]}...; export the network again"
            )
    return folder / described["path"]


def check(images: np.ndarray, file: Path, described: dict[str, Any]) -> None:
    """End the program where a file does not hold images as the artifact takes them."""
    batch, *one = described["input"]["shape"]
    channels, height, width = one if described["input"]["layout"] == "NCHW" else (one[2], *one[:2])
    fits = images.ndim == 4 and all(
        size in (None, found) for size, found in zip((channels, height, width), images.shape[1:], strict=True)
    )
    if not fits or not len(images) or not np.issubdtype(images.dtype, np.number):
        expected = ", ".join("any" if size is None else str(size) for size in (channels, height, width))
        sys.exit(f"{file} holds {images.dtype} of shape {images.shape}; the artifact takes numbers of (N, {expected})")
    if len(images) % (batch or 1):
        sys.exit(f"{file} holds {len(images)} images; the artifact takes {batch} at a time")


def load(name: str, path: Path, described: dict[str, Any], threads: int) -> Any:
    """Return a session of a server. Ends the program where its runtime is not installed or cannot load the artifact."""
    try:
        server = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            there = sorted(file.stem for file in Path(__file__).parent.glob("[a-z]*.py"))
            sys.exit(f"there is no server {name}; there are {', '.join(there)}")
        missing = (error.name or name).partition(".")[0].replace("_", "-")
        sys.exit(f"{name} needs {missing}, which this Python does not have: {sys.executable} -m pip install {missing}")
    try:
        return server.load(path, described, threads)
    except RuntimeError as error:
        sys.exit(f"{name} cannot load {path}: {error}")


def main() -> None:
    """Read the arguments, run the artifact and write what it answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="the .manifest.json beside the artifact")
    parser.add_argument("input", type=Path, metavar="INPUT.npy", help="images, (N, C, H, W)")
    parser.add_argument("output", type=Path, metavar="OUTPUT.npy", help="the logits to write, (N, classes)")
    parser.add_argument("--server", help="another module of this folder than the manifest names")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    try:
        described = json.loads(options.manifest.read_text(encoding="utf-8"))
        path = artifact(options.manifest, described)
        images = np.load(options.input)
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"cannot read {options.manifest} or {options.input}: {error}")
    check(images, options.input, described)
    session = load(options.server or described["server"], path, described, options.threads)
    # A batch that is fixed may be smaller than what there is to run.
    batch = described["input"]["shape"][0] or len(images)
    answers = [
        session.logits(session.run(session.prepare(images[start : start + batch])))
        for start in range(0, len(images), batch)
    ]
    np.save(options.output, np.concatenate(answers))


if __name__ == "__main__":
    main()
