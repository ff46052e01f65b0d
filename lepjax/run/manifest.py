"""Which steps of a run are committed: those whose manifest is there and whose files have the digests it tells.

checkpoints/<step>/manifest.json is written last, after every file and folder below was fsynced, and is fsynced with its
parent. There is no pointer to the latest step that could be wrong, and no clock is asked. Needs no JAX.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import pathlib
import shutil
from typing import Any

from lepjax.core.errors import UserError
from lepjax.core.paths import safe_join
from lepjax.run import files

NAME = "manifest.json"
FORMAT = 1


class Damaged(UserError):
    """A checkpoint that is not what was saved."""


def steps(path: pathlib.Path) -> list[int]:
    """Steps with a manifest, ascending."""
    return sorted(int(p.parent.name) for p in path.glob(f"*/{NAME}") if p.parent.name.isdigit())


def commit(folder: pathlib.Path, step: int, leaves: dict[str, Any]) -> None:
    """Makes everything below the folder durable, then says so. `leaves`: {name: [shape, dtype, digest]}."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:  # one hashes while another waits for the disk
        names = sorted(p for p in folder.rglob("*") if p.is_file())
        digests = dict(zip((str(p.relative_to(folder)) for p in names), pool.map(_settle, names), strict=True))
    for inner in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        files.sync_folder(inner)
    manifest = {"format": FORMAT, "step": step, "files": digests, "leaves": leaves}
    files.write_json(folder / NAME, {**manifest, "sha256": own_digest(manifest)})
    files.sync_folder(folder.parent)


def _settle(file: pathlib.Path) -> str:
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())  # Orbax leaves some of its files to the kernel
    return files.digest(file)


def own_digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def read(folder: pathlib.Path) -> dict[str, Any]:
    """The manifest. Raises `Damaged` where it is none, `UserError` where a later lepjax wrote it."""
    try:
        manifest = files.read_json(folder / NAME)
        own = manifest.pop("sha256")
    except (UserError, AttributeError, KeyError, TypeError) as error:
        raise Damaged(f"{NAME} cannot be read", where=str(folder)) from error
    if own != (found := own_digest(manifest)):
        raise Damaged(f"{NAME}: digest {found[:12]}.. expected {str(own)[:12]}..", where=str(folder))
    if str(manifest["step"]) != folder.name:
        raise Damaged(f"{NAME} is that of step {manifest['step']}", where=str(folder))
    if manifest["format"] != FORMAT:
        found = f"format {manifest['format']}, this lepjax reads {FORMAT}"
        raise UserError(found, where=str(folder / NAME), fix="Use the lepjax that wrote it.")
    return manifest


def damage(folder: pathlib.Path) -> str | None:
    """What is wrong with a step's files, in words, or None."""
    if not (folder / NAME).exists():
        return "no manifest"
    try:
        expected = read(folder)["files"]
    except Damaged as error:
        return error.found
    for name, digest in expected.items():
        file = safe_join(folder, name, str(folder / NAME))
        found = files.digest(file) if file.is_file() else "missing"
        if found != digest:
            return f"{name}: digest {found[:12]}.. expected {digest[:12]}.."
    return None


def remove(folder: pathlib.Path) -> None:
    (folder / NAME).unlink(missing_ok=True)  # first: a half-deleted step must not look committed
    shutil.rmtree(folder, ignore_errors=True)


def set_aside(folder: pathlib.Path, why: str) -> pathlib.Path:
    """Renames a step to `<step>.<why>`, where nobody takes it for one."""
    to, n = folder.with_name(f"{folder.name}.{why}"), 1
    while to.exists():
        n += 1
        to = folder.with_name(f"{folder.name}.{why}.{n}")
    folder.rename(to)
    files.sync_folder(folder.parent)
    return to


def clear_debris(path: pathlib.Path) -> int:
    """Removes what saves left that never came to an end: folders of steps without a manifest, and Orbax's temporary ones.

    Returns how many there were.
    """
    removed = 0
    for entry in path.iterdir() if path.is_dir() else ():
        unfinished = entry.name.isdigit() and not (entry / NAME).exists()
        if entry.is_dir() and (unfinished or ".orbax-checkpoint-tmp" in entry.name):
            shutil.rmtree(entry, ignore_errors=True)
            removed += 1
    return removed
