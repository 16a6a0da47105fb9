"""The commands that export and run what was recommended, as a user would type them."""

from __future__ import annotations

from common.deploy.formats import FORMATS
from common.deploy.paths import ExecutionPath

__all__ = ["commands"]


def commands(network: str, path: ExecutionPath, device: str, batch: int, threads: int) -> list[str]:
    """Return lines for a shell: of an artifact, what exports and serves it; otherwise what runs the port's own code.

    They read weights from w.safetensors and images (N, C, H, W) from x.npy, and write logits to y.npy.
    """
    return _of_port(path, device, threads) if path.format is None else _of_artifact(network, path, batch, threads)


def _of_artifact(network: str, path: ExecutionPath, batch: int, threads: int) -> list[str]:
    artifact = FORMATS[path.format or ""]
    file = f"{network}-{path.name}{artifact.suffix}"
    dtype = "" if path.dtype == "float32" else f" --dtype {path.dtype}"
    server = "" if path.server == artifact.servers[0] else f" --server {path.server}"
    return [
        f"rosetta export {network} --weights w.safetensors --to {artifact.name}{dtype} --batch {batch} -o {file}",
        f"pip install {' '.join(path.needs)}",
        f"python common/deploy/serving {file}.manifest.json x.npy y.npy{server} --threads {threads}",
    ]


def _of_port(path: ExecutionPath, device: str, threads: int) -> list[str]:
    package = "common.reference" if path.backend == "numpy" else f"{path.backend}_impl"
    steps = (
        "import numpy",
        "from common import weights",
        f"from {package} import deploy",
        f"deploy.set_threads({threads})",
        "file = weights.read('w.safetensors')",
        f"session = deploy.session(file.network, file.tensors, '{path.name}', '{device}')",
        "images = session.prepare(numpy.load('x.npy').astype('float32'))",
        "numpy.save('y.npy', session.logits(session.run(images)))",
    )
    return [f"tox run --notest -e {path.environment}", f'.tox/{path.environment}/bin/python -c "{"; ".join(steps)}"']
