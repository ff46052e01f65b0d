"""Comparing two checkpoints leaf by leaf."""

from __future__ import annotations

import pathlib

import numpy as np

from lepjax.run import manifest
from lepjax.run.checkpoint import Checkpoints
from lepjax.run.named import differences


def different_leaves(one: pathlib.Path, other: pathlib.Path) -> list[str]:
    """In words, every leaf that is missing, extra, of another shape or dtype, or differs (and by how much at most).

    Folders of committed steps. The manifests' digests tell which leaves differ; only then are arrays read.
    """
    ours, theirs = (manifest.read(folder)["leaves"] for folder in (one, other))
    layouts = ({name: leaf[:2] for name, leaf in leaves.items()} for leaves in (ours, theirs))
    lines = [line.replace("the experiment", f"step {other.name}") for line in differences(*layouts)]
    changed = [n for n in sorted(ours.keys() & theirs.keys()) if ours[n][:2] == theirs[n][:2] and ours[n] != theirs[n]]
    if changed:
        left, right = (_arrays(folder) for folder in (one, other))
        lines += [f"leaf {name} differs by at most {_most(left[name], right[name]):.4g}" for name in changed]
    return lines


def _arrays(folder: pathlib.Path) -> dict[str, np.ndarray]:
    checkpoints = Checkpoints(folder.parent)
    try:
        return {name: np.asarray(x) for name, x in checkpoints.restore_named(int(folder.name)).items()}
    finally:
        checkpoints.close()


def _most(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.max(np.abs(left.astype(np.float64) - right.astype(np.float64))))
