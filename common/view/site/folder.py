"""The folder that a site is in: all of it is replaced at once, and nothing else in it is touched."""

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
"""The names of all that a site consists of."""


def _pages(folder: Path) -> list[str]:
    """Return what of a folder an earlier site consists of."""
    try:
        listed = list(json_records.parse((folder / MANIFEST).read_bytes())["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    names = [name for name in listed if isinstance(name, str) and Path(name).name == name]
    return [name for name in [MANIFEST, *names] if (folder / name).is_file()]


def _others(folder: Path) -> list[str]:
    return sorted({path.name for path in folder.iterdir()} - set(_pages(folder)))


def check(folder: Path, force: bool = False) -> None:
    """Raise InputError where no site may be written: `force` lets it stand beside other files."""
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
            f"{folder} has files in it that are no site ({others[0]}{count}); give an empty folder, or --force to put "
            "the site beside them"
        )


def write(folder: Path, files: Mapping[str, str], about: Mapping[str, str], force: bool = False) -> None:
    """Write a site's files in place of an earlier site's.

    Raises InputError where that cannot be, also where a file that is not an earlier site's has the name of one; the
    folder is then as it was.
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
    """Move a site to its place, and what was there of an earlier one aside."""
    others = _others(folder) if folder.exists() else []
    if not others:
        if folder.exists():
            folder.rename(aside)
        site.rename(folder)
        return
    names = {path.name for path in site.iterdir()}
    if in_the_way := names.intersection(others):
        raise InputError(
            f"{folder / min(in_the_way)} is of no earlier site, and not overwritten; move it, or give another folder"
        )
    aside.mkdir()
    for name in _pages(folder):
        (folder / name).rename(aside / name)
    for path in site.iterdir():
        path.rename(folder / path.name)
