"""Breaks lepjax in a process whose environment asks for it, so that the harness has something to find."""

from __future__ import annotations

import dataclasses
import json
import os
import time

VARIABLE = "LEPJAX_TEST_SABOTAGE"


def blind() -> None:
    """Nobody looks at digests: what Orbax gives back is taken."""
    from lepjax.run import checkpoint

    checkpoint.Checkpoints.damage = lambda self, step: None
    checkpoint.check_digests = lambda expected, flat, where: None


def cursor() -> None:
    """A resumed run leaves one batch out."""
    from lepjax.run.checkpoint import Checkpoints

    restore = Checkpoints.restore

    def shifted(self, step, abstract):
        state, meta = restore(self, step, abstract)
        return dataclasses.replace(state, cursor=state.cursor + 1), meta

    Checkpoints.restore = shifted


def manifest_first() -> None:
    """A step says that it is committed a while before it is."""
    from lepjax.run import manifest

    commit = manifest.commit

    def early(folder, step, leaves):
        (folder / manifest.NAME).write_text(json.dumps({"step": step}))
        time.sleep(0.5)
        (folder / manifest.NAME).unlink()
        commit(folder, step, leaves)

    manifest.commit = early


def apply() -> None:
    if name := os.environ.get(VARIABLE):
        {"blind": blind, "cursor": cursor, "manifest_first": manifest_first}[name]()
