"""The folder of an autotune: what one that did not end has left there is begun anew, anything else is left alone."""

from __future__ import annotations

import contextlib
import fcntl
import pathlib
import shutil
from collections.abc import Iterator

from lepjax.core.errors import UserError

MARK, FINISHED = ".unfinished", "why.json"
"""What is there while an autotune works, and locked; and what is there once it ended."""
OWN = ("vocabulary", "race", "search", "run", "model", "why.html")
"""What else an autotune writes."""


def default(data: str) -> str:
    """`runs/autotune/<name of the data>`, whatever path leads to them."""
    return f"runs/autotune/{pathlib.Path(data).expanduser().resolve().name or 'data'}"


def free(name: str) -> pathlib.Path:
    """A folder that is not there yet, is empty, or holds what an unfinished autotune left. Raises `UserError`."""
    folder = pathlib.Path(name).expanduser()
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not _unfinished(folder))):
        raise UserError("exists and is not an empty folder", where=str(folder), fix="Name another with --out.")
    return folder


def _unfinished(folder: pathlib.Path) -> bool:
    names = {path.name for path in folder.iterdir()}
    return MARK in names and names <= {MARK, *OWN}


@contextlib.contextmanager
def claimed(folder: pathlib.Path) -> Iterator[None]:
    """While inside, a `free` folder is this process's, and empty but for the mark, which stays where the block raises.

    Raises `UserError` where another process works there, or where nothing can be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark = open(folder / MARK, "a", encoding="utf-8")
    except OSError as error:
        found = f"cannot be written ({error.strerror})"
        raise UserError(found, where=str(folder), fix="Name another with --out.") from error
    with mark:  # the kernel lets go of the lock when the process ends, however it ends
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            fix = "Wait for it, stop it, or name another folder with --out."
            raise UserError("another autotune is at work here", where=str(folder), fix=fix) from error
        for path in (folder / name for name in OWN):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        yield
        (folder / MARK).unlink()
