"""Output folder of the site: replaces an earlier site as a whole and leaves other files in the folder alone."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from common import json_records
from common.errors import InputError

__all__ = ["MANIFEST", "check", "write"]

MANIFEST = ".rosetta-site.json"
"""File that lists the names of all files of a site."""


def _site_files(folder: Path) -> list[str]:
    """Return the names of an earlier site's files in a folder."""
    try:
        listed = list(json_records.parse((folder / MANIFEST).read_bytes())["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    names = [name for name in listed if isinstance(name, str) and Path(name).name == name]
    return [name for name in [MANIFEST, *names] if (folder / name).is_file()]


def _others(folder: Path) -> list[str]:
    """Return the names of the files in a folder that are not part of an earlier site."""
    return sorted({path.name for path in folder.iterdir()} - set(_site_files(folder)))


def check(folder: Path, force: bool = False) -> None:
    """Raise InputError if a site cannot be written there. With `force`, the folder may have other files."""
    parent = folder.absolute().parent
    if not parent.is_dir():
        raise InputError(f"cannot write {folder}: there is no folder {parent}; create it first")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"cannot write {folder}: it is a file; give the name of a folder")
    for needed in (parent, folder):
        if needed.exists() and not os.access(needed, os.R_OK | os.W_OK | os.X_OK):
            raise InputError(f"cannot write {folder}: permission denied")
    if folder.exists() and not force and (others := _others(folder)):
        count = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise InputError(
            f"{folder} has other files ({others[0]}{count}); give an empty folder, or --force to write the site beside "
            "them"
        )


def write(folder: Path, files: Mapping[str, str], about: Mapping[str, str], force: bool = False) -> None:
    """Write the files of a site, replacing an earlier site.

    `about` is stored in the manifest. Raises InputError if writing fails, or if a file that is not part of an earlier
    site would be overwritten. The folder is then unchanged.
    """
    check(folder, force)
    manifest = json.dumps({**about, "files": sorted(files)}, indent=1)
    try:
        new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.absolute().parent))
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
    try:
        site = new / "site"
        site.mkdir()
        for name, text in {**files, MANIFEST: manifest}.items():
            (site / name).write_text(text, encoding="utf-8")
        _exchange(folder, site, new / "before")
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _exchange(folder: Path, site: Path, aside: Path) -> None:
    """Move a new site into `folder`, and the files of an earlier site to `aside`."""
    others = _others(folder) if folder.exists() else []
    if not others:
        if folder.exists():
            folder.rename(aside)
        site.rename(folder)
        return
    names = {path.name for path in site.iterdir()}
    if conflicts := names.intersection(others):
        raise InputError(
            f"{folder / min(conflicts)} is not part of an earlier site, so it is not overwritten; move it, or give "
            "another folder"
        )
    aside.mkdir()
    for name in _site_files(folder):
        (folder / name).rename(aside / name)
    for path in site.iterdir():
        path.rename(folder / path.name)
