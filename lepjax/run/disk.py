"""What a disk refuses, in one line: no space, no right, no quota."""

from __future__ import annotations

import contextlib
import pathlib
import re
import shutil
import tempfile

from lepjax.core.errors import UserError

REASONS = {
    "No space left|RESOURCE_EXHAUSTED|ENOSPC": "the disk is full",
    "Read-only": "it is read-only",
    "quota": "the quota is used up",
    "File too large|EFBIG": "a limit on the size of files is reached",
    "Permission denied|PERMISSION_DENIED": "permission is denied",
}
FIX = "Free some space there, or pass another --run-dir."


def check_space(path: pathlib.Path, need: int) -> None:
    """Raises `UserError` where fewer than `need` bytes are free for `path`, or nothing can be written there."""
    writable(path)
    if (free := free_bytes(path)) < need:
        raise UserError(f"checkpoints need {megabytes(need)}, {megabytes(free)} are free", where=str(path), fix=FIX)


def writable(path: pathlib.Path) -> None:
    """Makes the folder. Raises `UserError` where it cannot be made or written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise unwritable(path, 0, error) from error


def free_bytes(path: pathlib.Path) -> int:
    """Bytes that are free where the path lies, or where its first parent that exists does."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def unwritable(path: pathlib.Path, need: int, error: Exception) -> UserError:
    """The one line for an error from below, which may be a page long."""
    text = str(error)
    known = [told for pattern, told in REASONS.items() if re.search(pattern, text, re.IGNORECASE)]
    reason = known[0] if known else " ".join(text.split())[:120]
    room = ""
    with contextlib.suppress(OSError):
        room = f"; {megabytes(need)} needed, {megabytes(free_bytes(path))} free" if need else ""
    return UserError(f"cannot be written ({reason}{room})", where=str(path), fix=FIX)


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
