"""Sees a save as it happens, by what lies in the folder of checkpoints."""

from __future__ import annotations

import pathlib

PHASES = ("temporary folder", "arrays", "items renamed", "step renamed", "meta", "manifest", "pruning")
"""The parts of a save, in order."""
IDLE = "no save"
Seen = frozenset[tuple[str, int]]


def present(checkpoints: pathlib.Path) -> Seen:
    """What lies there, each with the time of its last change (ns): debris of an earlier kill is no save."""
    found = set()
    try:
        for entry in checkpoints.iterdir():
            found.add((entry.name, entry.stat().st_ctime_ns))
    except OSError:
        pass  # it is being renamed or removed: the next look sees more
    return frozenset(found)


def phase(checkpoints: pathlib.Path, before: Seen = frozenset()) -> str:
    """The phase of the save that is going on, or `IDLE`. `before` is what lay there when the command started."""
    fresh = sorted(name for name, _ in present(checkpoints) - before)
    for name in fresh:
        if ".orbax-checkpoint-tmp" in name:
            return _of_temporary(checkpoints / name)
    unfinished = [int(name) for name in fresh if name.isdigit() and not (checkpoints / name / "manifest.json").exists()]
    newest = max(
        (int(p.parent.name) for p in checkpoints.glob("*/manifest.json") if p.parent.name.isdigit()), default=-1
    )
    if not unfinished:
        return IDLE
    if max(unfinished) < newest:
        return "pruning"
    folder = checkpoints / str(max(unfinished))
    if (folder / ".manifest.json.tmp").exists():
        return "manifest"
    return "meta" if (folder / "meta.json").exists() or (folder / ".meta.json.tmp").exists() else "step renamed"


def _of_temporary(folder: pathlib.Path) -> str:
    items = [entry.name for entry in _listed(folder) if entry.is_dir()]
    if any(".orbax-checkpoint-tmp" not in item for item in items):
        return "items renamed"
    written = any(_listed(folder / item) for item in items)
    return "arrays" if written else "temporary folder"


def _listed(folder: pathlib.Path) -> list[pathlib.Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
