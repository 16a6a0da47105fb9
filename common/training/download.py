"""Files from the internet, each held to its SHA-256: mirrors, downloads that resume, one cache for all processes."""

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
"""Called with a file's name, the bytes there so far and the bytes in all."""

_CHUNK = 1 << 18
_TIMEOUT = (10, 30)  # seconds to connect; seconds without a byte
_RETRIES = 2
_BACKOFF = 0.5  # seconds; doubles with each retry
_CONNECTIONS = 20  # one file may be cut this often, each time further on


class _MirrorError(Exception):
    """Why a mirror's file is not the one wanted."""


def cache_folder() -> Path:
    """Return where downloads are kept: the folder that ROSETTA_DATA names, or the user's cache."""
    import platformdirs

    return Path(os.environ.get("ROSETTA_DATA") or platformdirs.user_cache_dir("rosetta"))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from `path` while it is made; its folder is created.

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
    """Return `folder / name`, a file of `size` bytes with that SHA-256; whichever of `urls` has it is asked for it.

    A file that is there already is used with no request, and a part of one is completed. Raises InputError where no
    mirror has the file or the folder cannot be written.
    """
    import requests
    import urllib3

    path, part = folder / name, folder / f"{name}.part"
    if _is_whole(path, sha256, size):
        return path
    failures = []
    with locked(path), _session() as session:
        if _is_whole(path, sha256, size):  # another process got it meanwhile
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

    # A server may ask in Retry-After for hours; the next mirror is nearer.
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
    """Return what went wrong without the layers that only pass it on."""
    cause = error.args[0] if error.args and isinstance(error.args[0], Exception) else error
    return re.sub(r"^HTTPS?Connection(Pool)?\(.*?\): ", "", str(getattr(cause, "reason", None) or cause))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _complete(
    part: Path, session: requests.Session, url: str, sha256: str, size: int, progress: Callable[[int], object]
) -> None:
    """Bring `part` to `size` bytes and the SHA-256, from as many connections as it takes.

    Raises _MirrorError where the mirror's file is another, and what a connection raises that brings nothing.
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
        if not before:  # else what was there already may be to blame
            raise _MirrorError(f"another file, {found}")
    raise _MirrorError(f"the connection was cut {_CONNECTIONS} times")


def _receive(part: Path, session: requests.Session, url: str, size: int, progress: Callable[[int], object]) -> None:
    """Append to `part` what is missing, over one connection; a server that cannot resume sends all anew."""
    done = _size(part)
    # Some servers would mark the file itself as compressed in transfer, and have it unpacked on the way.
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={done}-"} if done else {})}
    with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if done and response.status_code == 416:  # the part is no shorter than this mirror's file
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
