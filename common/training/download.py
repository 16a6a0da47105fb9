"""Download files with checked SHA-256: several mirrors, resumed downloads, a cache that processes share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import InputError
from common.files import sha256_of

if TYPE_CHECKING:
    import requests

__all__ = ["Progress", "cache_folder", "fetch", "locked"]

Progress = Callable[[str, int, int], None]
"""Callback with a file's name, the bytes so far and the total bytes."""

_CHUNK = 1 << 18
_TIMEOUT = (10, 30)  # seconds to connect; seconds without a byte
_RETRIES = 2
_BACKOFF = 0.5  # seconds; doubles with each retry
_CONNECTIONS = 20  # attempts for one file, as long as each adds some bytes


class _MirrorError(Exception):
    """A mirror offers a different file."""


def cache_folder() -> Path:
    """Return the folder for downloads: the one that ROSETTA_DATA names, or the user's cache."""
    import platformdirs

    return Path(os.environ.get("ROSETTA_DATA") or platformdirs.user_cache_dir("rosetta"))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock on `path` against other processes while it is written. Creates its folder.

    Raises InputError where the folder cannot be written.
    """
    import filelock

    lock = filelock.FileLock(path.parent / f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise InputError(
            f"cannot write to {path.parent}: {error.strerror or error}; name another folder in ROSETTA_DATA"
        ) from error
    try:
        yield
    finally:
        lock.release()


def fetch(
    name: str, urls: Sequence[str], sha256: str, size: int, folder: Path, progress: Progress | None = None
) -> Path:
    """Return `folder / name`, a file with this size and SHA-256, downloaded from the first of `urls` that has it.

    An existing file is used without a request, and a partial one is completed. Raises InputError where no mirror has
    the file or the folder cannot be written.
    """
    import requests
    import urllib3

    path, part = folder / name, folder / f"{name}.part"
    if _is_whole(path, sha256, size):
        return path
    failures = []
    with locked(path), _session() as session:
        if _is_whole(path, sha256, size):  # downloaded by another process meanwhile
            return path
        for url in urls:
            try:
                _complete(part, session, url, sha256, size, lambda done: progress and progress(name, done, size))
            except (requests.RequestException, urllib3.exceptions.HTTPError, _MirrorError) as error:
                failures.append(f"{url}: {_reason(error)}")
            except OSError as error:
                raise InputError(
                    f"cannot write {part}: {error.strerror or error}; name another folder in ROSETTA_DATA"
                ) from error
            else:
                os.replace(part, path)
                return path
    raise InputError(
        f"cannot download {name} ({size} bytes, SHA-256 {sha256}): {'; '.join(failures)}; "
        f"put the file into a folder yourself and give that with --data-dir"
    )


def _is_whole(path: Path, sha256: str, size: int) -> bool:
    try:
        return path.stat().st_size == size and sha256_of(path) == sha256
    except OSError:
        return False


def _session() -> requests.Session:
    import requests
    import urllib3

    # Ignore Retry-After, which may ask for hours; try the next mirror instead.
    retry = urllib3.Retry(
        _RETRIES,
        backoff_factor=_BACKOFF,
        status_forcelist=(429, 500, 502, 503, 504),
        respect_retry_after_header=False,
    )
    session = requests.Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))
    return session


def _reason(error: Exception) -> str:
    """Return the root cause of a network error, without the wrappers around it."""
    cause = error.args[0] if error.args and isinstance(error.args[0], Exception) else error
    return re.sub(r"^HTTPS?Connection(Pool)?\(.*?\): ", "", str(getattr(cause, "reason", None) or cause))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _complete(
    part: Path, session: requests.Session, url: str, sha256: str, size: int, progress: Callable[[int], object]
) -> None:
    """Download the rest of `part`, over several connections if they are cut.

    Raises _MirrorError where the mirror has a different file, and the connection's error where one adds no bytes.
    """
    import requests
    import urllib3

    for _ in range(_CONNECTIONS):
        before = _size(part)
        try:
            if before < size:
                _receive(part, session, url, size, progress)
        except (requests.RequestException, urllib3.exceptions.HTTPError):
            if _size(part) <= before:
                raise
        if before < _size(part) < size:
            continue
        if _is_whole(part, sha256, size):
            return
        found = f"{size} bytes of SHA-256 {sha256_of(part)}" if _size(part) == size else f"{_size(part)} bytes"
        part.unlink(missing_ok=True)
        if not before:  # otherwise the old part may be the damaged one
            raise _MirrorError(f"another file, {found}")
    raise _MirrorError(f"the connection was cut {_CONNECTIONS} times")


def _receive(part: Path, session: requests.Session, url: str, size: int, progress: Callable[[int], object]) -> None:
    """Append the missing bytes to `part` over one connection; a server without range requests sends the whole file."""
    done = _size(part)
    # Some servers declare a .gz file as compressed in transfer; `identity` prevents that it is unpacked.
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={done}-"} if done else {})}
    with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if done and response.status_code == 416:  # this mirror's file is not longer than the part
            part.unlink()
            raise _MirrorError(f"a file of at most {done} bytes")
        response.raise_for_status()
        if response.status_code == 206:
            offered = response.headers.get("Content-Range", "")
            if offered not in (f"bytes {done}-{size - 1}/{size}", f"bytes {done}-{size - 1}/*"):
                part.unlink()
                raise _MirrorError(f"a file of another size: {offered or 'no Content-Range'}")
        else:
            done = 0
        length = response.headers.get("Content-Length")
        if length is not None and length != str(size - done):
            raise _MirrorError(f"a file of {length} bytes")
        with part.open("ab" if done else "wb") as file:
            for chunk in response.raw.stream(_CHUNK, decode_content=False):
                file.write(chunk)
                done += len(chunk)
                if done > size:
                    break
                progress(done)
