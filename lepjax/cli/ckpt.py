"""List, verify, compare and export the checkpoints of a run.

usage: lepjax ckpt list RUN_DIR
       lepjax ckpt verify RUN_DIR
       lepjax ckpt diff A B
       lepjax ckpt export RUN_DIR[/checkpoints/STEP] FILE.safetensors

verify reads every file of every committed step again, names the steps that are damaged, and exits with 1 where there are
any. A and B are run directories (their newest step) or steps, as RUN_DIR/checkpoints/STEP; diff names every leaf that is
missing, extra or differs, and exits with 1 where any does. export writes the parameters of a step (last, not averaged) by
name; for a folder in the Hugging Face layout see lepjax export.
"""

from __future__ import annotations

import inspect
import pathlib
import sys
from collections.abc import Callable

from lepjax.core.errors import DONE, UserError, nearest
from lepjax.run import manifest

DIFFERENT = 1


def run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return DONE
    actions: dict[str, Callable[..., int]] = {"list": list_steps, "verify": verify, "diff": diff, "export": export}
    name, *rest = arguments
    if name not in actions:
        raise UserError(f"no action {name!r}", where="ckpt", fix=nearest(name, actions))
    action = actions[name]
    if len(rest) != (count := len(inspect.signature(action).parameters)):
        raise UserError(f"{len(rest)} arguments, expected {count}", where=f"ckpt {name}", fix="See lepjax ckpt --help.")
    return action(*rest)


def list_steps(target: str) -> int:
    folder = checkpoints_of(target)
    for step in manifest.steps(folder):
        told = manifest.read(folder / str(step))
        size = sum((folder / str(step) / name).stat().st_size for name in told["files"])
        print(f"{step:>10}  {size / 1e6:>10,.1f} MB  {len(told['leaves'])} leaves")
    for aside in sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.isdigit()):
        print(f"{aside:>10}  not used")
    return DONE


def verify(target: str) -> int:
    folder = checkpoints_of(target)
    damaged = 0
    for step in manifest.steps(folder):
        problem = manifest.damage(folder / str(step))
        damaged += problem is not None
        print(f"{step:>10}  {'good' if problem is None else f'DAMAGED {problem}'}")
    if damaged:
        print(f"lepjax: {damaged} damaged in {folder}; a run would use the newest good one.", file=sys.stderr)
    return DIFFERENT if damaged else DONE


def diff(one: str, other: str) -> int:
    from lepjax.run.leaves import different_leaves

    lines = different_leaves(step_of(one), step_of(other))
    print("\n".join(lines) if lines else "equal, bit for bit")
    return DIFFERENT if lines else DONE


def export(target: str, file: str) -> int:
    import numpy as np
    from safetensors.numpy import save_file

    from lepjax.run.checkpoint import Checkpoints
    from lepjax.run.named import is_trained

    step = step_of(target)
    if pathlib.Path(file).suffix != ".safetensors":
        raise UserError("is no .safetensors", where=file)
    checkpoints = Checkpoints(step.parent)
    try:
        flat = checkpoints.restore_named(int(step.name))
    finally:
        checkpoints.close()
    save_file({name: np.asarray(x) for name, x in flat.items() if is_trained(name)}, file)
    print(f"{file}: {sum(map(is_trained, flat))} arrays of step {step.name}")
    return DONE


def checkpoints_of(target: str) -> pathlib.Path:
    folder = pathlib.Path(target) / "checkpoints"
    if not folder.is_dir():
        raise UserError("is no run directory (no checkpoints)", where=target)
    return folder.absolute()


def step_of(target: str) -> pathlib.Path:
    """The folder of a committed step."""
    path = pathlib.Path(target).absolute()
    if path.name.isdigit() and path.parent.name == "checkpoints":
        if not (path / manifest.NAME).exists():
            raise UserError("is no committed step", where=target, fix="See lepjax ckpt list.")
        return path
    folder = checkpoints_of(target)
    if not (known := manifest.steps(folder)):
        raise UserError("has no committed step", where=target)
    return folder / str(known[-1])
