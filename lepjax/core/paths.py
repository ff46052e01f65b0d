"""Paths whose names come out of a file, and so from anybody."""

from __future__ import annotations

import os
import pathlib

from lepjax.core.errors import UserError

LONGEST = 255  # bytes of a file's name


def safe_join(folder: pathlib.Path, name: object, where: str = "") -> pathlib.Path:
    """The file `name` of a folder, which is inside it, links followed. `where` is the file that names it.

    Raises `UserError` for what is no text, empty, absolute, holds `..`, NUL or half a character, or is a link that leads
    out of the folder (out of the repository, where the folder is a snapshot in the hub's cache, whose files are links).
    """
    where = where or str(folder)
    if not isinstance(name, str) or not name.strip() or not _plain(name):
        raise UserError(f"{name!r} is no file's name", where=where)
    as_windows = pathlib.PureWindowsPath(name)  # knows both slashes and drives
    if as_windows.anchor or name.startswith("/") or ".." in as_windows.parts:
        raise UserError(f"{name!r} leaves the folder", where=where, fix="Do not trust where it comes from.")
    path = folder / name
    found = pathlib.Path(os.path.realpath(path))
    if not any(found.is_relative_to(os.path.realpath(root)) for root in _roots(folder)):
        fix = "Put the file itself there."
        raise UserError(f"{name!r} is a link that leaves the folder (to {found})", where=where, fix=fix)
    return path


def _plain(name: str) -> bool:
    try:
        return "\0" not in name and all(len(os.fsencode(part)) <= LONGEST for part in name.split("/"))
    except UnicodeEncodeError:
        return False


def _roots(folder: pathlib.Path) -> list[pathlib.Path]:
    return [folder, folder.parent.parent / "blobs"] if folder.parent.name == "snapshots" else [folder]
