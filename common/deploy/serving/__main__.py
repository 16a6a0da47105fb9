"""Run an artifact on images: `python common/deploy/serving MANIFEST INPUT.npy OUTPUT.npy`.

INPUT holds images (N, C, H, W), preprocessed as the manifest says. OUTPUT gets the logits (N, num_classes). The folder
can be copied anywhere and needs only NumPy and the artifact's runtime. Artifacts that do not match the manifest's
SHA-256 are refused.
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


def read_manifest(path: Path) -> dict[str, Any]:
    """Return a manifest. Exit with a message if it is not one."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(f"cannot read {path}: {error}")
    if not isinstance(manifest, dict) or not {"path", "files", "server", "input"} <= manifest.keys():
        sys.exit(f"{path} is not a manifest; give the .manifest.json that `rosetta export` wrote beside the artifact")
    return manifest


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Exit with a message if a file of the artifact is missing or was changed."""
    for name, expected in manifest["files"].items():
        if not (folder / name).is_file():
            sys.exit(f"{folder / name} is missing, and the manifest lists it: export the network again")
        actual = sha256(folder / name)
        if actual != expected:
            sys.exit(
                f"{folder / name} was altered after it was exported: its SHA-256 is {actual[:12]}..., and the manifest "
                f"has {expected[:12]}...; export the network again"
            )


def read_images(path: Path, manifest: dict[str, Any]) -> np.ndarray:
    """Return images (N, C, H, W). Exit with a message if the artifact does not take them."""
    try:
        images = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        sys.exit(f"cannot read {path}: {error}")
    if not isinstance(images, np.ndarray):
        sys.exit(f"{path} holds several arrays; give a .npy file with one")
    batch, *axes = manifest["input"]["shape"]
    channels, height, width = axes if manifest["input"]["layout"] == "NCHW" else (axes[2], *axes[:2])
    fits = images.ndim == 4 and all(
        expected in (None, size) for expected, size in zip((channels, height, width), images.shape[1:], strict=True)
    )
    if not fits or not len(images) or not np.issubdtype(images.dtype, np.number):
        shape = ", ".join("any" if size is None else str(size) for size in (channels, height, width))
        sys.exit(f"{path} holds {images.dtype} of shape {images.shape}; the artifact takes numbers of (N, {shape})")
    if len(images) % (batch or 1):
        sys.exit(f"{path} holds {len(images)} images; the artifact takes {batch} at a time")
    return images


def load(server: str, artifact: Path, manifest: dict[str, Any], threads: int) -> Any:
    """Return a session. Exit with a message if the runtime is not installed or cannot load the artifact."""
    try:
        return importlib.import_module(server).load(artifact, manifest, threads)
    except ModuleNotFoundError as error:
        if error.name == server:
            available = sorted(file.stem for file in Path(__file__).parent.glob("[a-z]*.py"))
            sys.exit(f"there is no server {server}; there are {', '.join(available)}")
        package = (error.name or server).partition(".")[0].replace("_", "-")
        sys.exit(
            f"{server} needs {package}, which is not installed; install it with: {sys.executable} -m pip install "
            f"{package}"
        )
    except RuntimeError as error:
        sys.exit(f"{server} cannot load {artifact}: {error}")


def main() -> None:
    """Run an artifact as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="the .manifest.json beside the artifact")
    parser.add_argument("input", type=Path, metavar="INPUT.npy", help="images (N, C, H, W)")
    parser.add_argument("output", type=Path, metavar="OUTPUT.npy", help="where to write the logits (N, num_classes)")
    parser.add_argument("--server", help="a module of this folder to use in place of the manifest's")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    manifest = read_manifest(options.manifest)
    check_files(options.manifest.parent, manifest)
    images = read_images(options.input, manifest)
    artifact = options.manifest.parent / manifest["path"]
    session = load(options.server or manifest["server"], artifact, manifest, options.threads)
    batch = manifest["input"]["shape"][0] or len(images)
    logits = [
        session.logits(session.run(session.prepare(images[start : start + batch])))
        for start in range(0, len(images), batch)
    ]
    try:
        np.save(options.output, np.concatenate(logits))
    except OSError as error:
        sys.exit(f"cannot write {options.output}: {error}")


if __name__ == "__main__":
    main()
