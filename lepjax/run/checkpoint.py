"""Checkpoints: the whole state through Orbax, committed by a manifest of digests.

checkpoints/<step>/params/     params, model_state, ema: what evaluation needs (Orbax)
checkpoints/<step>/rest/       everything else of the state (Orbax)
checkpoints/<step>/meta.json   plan fingerprint, memory of callbacks, metrics
checkpoints/<step>/manifest.json  sha256 of every file above and the shape and dtype of every leaf; written last

A step is committed when its manifest exists and every digest in it is right. Orbax alone restores a flipped bit without a
word, and casts a wrong dtype.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import type_handlers

from lepjax.core.errors import UserError
from lepjax.core.paths import safe_join
from lepjax.core.state import State
from lepjax.run import files
from lepjax.run.processes import main_process, on_main

_PARAMS = ("params", "model_state", "ema")
Flat = dict[str, Any]


class Checkpoints:
    """The checkpoints of one run. `say` is told, in one line, of everything out of the ordinary."""

    def __init__(self, path: pathlib.Path, keep: int = 2, say: Callable[[str], None] = print) -> None:
        self.path, self.keep, self.say = path.absolute(), keep, say
        self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(params=_handler(), rest=_handler()))
        self._pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: concurrent.futures.Future[None] | None = None

    def steps(self) -> list[int]:
        """Steps with a manifest, ascending."""
        return sorted(int(p.parent.name) for p in self.path.glob("*/manifest.json") if p.parent.name.isdigit())

    def save(self, step: int, state: State, meta: dict[str, Any], best: int | None = None) -> None:
        """Copies the state to the host and returns; writing goes on behind. Waits for (and reports) the one before.

        After the commit the newest `keep` steps and `best` remain.
        """
        self.wait()
        folder = self.path / str(step)
        if (folder / "manifest.json").exists():
            return  # a pure function of the step: it would be the same
        on_main(lambda: shutil.rmtree(folder, ignore_errors=True))  # debris of a save that never finished
        flat = flatten(state)
        params = {name: x for name, x in flat.items() if name.split(".")[0] in _PARAMS}
        rest = {name: x for name, x in flat.items() if name not in params}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            items = {"params": ocp.args.PyTreeSave(params), "rest": ocp.args.PyTreeSave(rest)}
            self._orbax.save(folder, args=ocp.args.Composite(**items))
        except OSError as error:
            raise UserError(f"cannot be written ({error.strerror or error})", where=str(folder)) from error
        self._pending = self._pool.submit(self._commit, step, meta, layout(flat), best)

    def _commit(self, step: int, meta: dict[str, Any], leaves: dict[str, Any], best: int | None) -> None:
        self._orbax.wait_until_finished()
        if not main_process():
            return
        folder = self.path / str(step)
        files.write_json(folder / "meta.json", {"step": step, **meta})
        digests = {str(p.relative_to(folder)): files.digest(p) for p in sorted(folder.rglob("*")) if p.is_file()}
        files.write_json(folder / "manifest.json", {"step": step, "files": digests, "leaves": leaves})
        files.sync_folder(self.path)
        keep = {*self.steps()[-self.keep :], best}
        for old in self.steps():
            if old not in keep:
                self._remove(self.path / str(old))

    def _remove(self, folder: pathlib.Path) -> None:
        (folder / "manifest.json").unlink()  # first: a half-deleted step must not look committed
        shutil.rmtree(folder)

    def wait(self) -> None:
        """Returns when the last save is committed. Raises `UserError` when it failed."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except Exception as error:
            raise UserError(f"the checkpoint could not be written ({error})", where=str(self.path)) from error

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._pool.shutdown()
            self._orbax.close()

    def damage(self, step: int) -> str | None:
        """What is wrong with a step, in words, or None."""
        folder = self.path / str(step)
        if not (folder / "manifest.json").exists():
            return "no manifest"
        try:
            manifest = files.read_json(folder / "manifest.json")
        except UserError as error:
            return str(error)
        for name, expected in manifest["files"].items():
            file = safe_join(folder, name, str(folder / "manifest.json"))
            found = files.digest(file) if file.is_file() else "missing"
            if found != expected:
                return f"{name}: digest {found[:8]}.. expected {expected[:8]}.."
        return None

    def newest_good(self) -> int | None:
        """The newest step whose digests are right. Bad ones are set aside as `<step>.damaged`, loudly."""
        for step in reversed(self.steps()):
            problem = self.damage(step)
            if problem is None:
                return step
            self.say(f"checkpoint {step} of {self.path} is damaged ({problem}). Set aside; using an older one.")
            (self.path / str(step)).rename(_free(self.path / f"{step}.damaged"))
        return None

    def restore(self, step: int, abstract: State) -> tuple[State, dict[str, Any]]:
        """(state, meta) of one committed step, placed as `abstract` says, whatever mesh it was saved on.

        Raises `UserError` when the step is damaged, or when trees, shapes or dtypes differ in any leaf.
        """
        flat = self._restore(step, flatten(abstract), ("params", "rest"))
        state = unflatten(abstract, flat)
        if int(state.step) != step:
            raise UserError(f"the state says step {int(state.step)}", where=f"checkpoint {step} of {self.path}")
        return state, files.read_json(self.path / str(step) / "meta.json")

    def restore_params(self, step: int, abstract: State) -> State:
        """Like `restore`, but reads only params, model_state and ema; the other fields stay abstract."""
        wanted = {name: x for name, x in flatten(abstract).items() if name.split(".")[0] in _PARAMS}
        return unflatten(abstract, {**flatten(abstract), **self._restore(step, wanted, ("params",))})

    def _restore(self, step: int, wanted: Flat, items: tuple[str, ...]) -> Flat:
        where = f"checkpoint {step} of {self.path}"
        if problem := on_main(lambda: self.damage(step)):
            raise UserError(f"damaged ({problem})", where=where)
        saved = files.read_json(self.path / str(step) / "manifest.json")["leaves"]
        if items == ("params",):
            saved = {name: leaf for name, leaf in saved.items() if name.split(".")[0] in _PARAMS}
        if different := differences(saved, layout(wanted)):
            raise UserError(different[0] + (f" (and {len(different) - 1} more)" if different[1:] else ""), where=where)
        split: dict[str, Flat] = {"params": {}, "rest": {}}
        for name, leaf in wanted.items():
            split["params" if name.split(".")[0] in _PARAMS else "rest"][name] = leaf
        how = ocp.checkpoint_utils.construct_restore_args
        args = {item: ocp.args.PyTreeRestore(split[item], restore_args=how(split[item])) for item in items}
        restored = self._orbax.restore(self.path / str(step), args=ocp.args.Composite(**args))
        return {name: x for item in items for name, x in restored[item].items()}


def _handler() -> ocp.PyTreeCheckpointHandler:
    """Each array is written by one of its replicas. Orbax would cut replicated arrays into slices on the device, one
    small program per shape, compiled in the middle of the run.
    """
    whole = type_handlers.ArrayHandler(use_replica_parallel=False)
    return ocp.PyTreeCheckpointHandler(
        type_handler_registry=type_handlers.create_type_handler_registry((jax.Array, whole))
    )


def differences(saved: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Every leaf that is missing, extra, or of another shape or dtype, in words."""
    lines = [f"leaf {name} is missing" for name in sorted(wanted.keys() - saved.keys())]
    lines += [f"leaf {name} is not in the experiment" for name in sorted(saved.keys() - wanted.keys())]
    for name in sorted(saved.keys() & wanted.keys()):
        if saved[name] != wanted[name]:
            (shape, dtype), (shape_wanted, dtype_wanted) = saved[name], wanted[name]
            lines.append(f"leaf {name} is {dtype}{shape}, expected {dtype_wanted}{shape_wanted}")
    return lines


def layout(flat: Flat) -> dict[str, Any]:
    return {name: [list(x.shape), str(x.dtype)] for name, x in flat.items()}


def flatten(state: State) -> Flat:
    """{dotted path: array}: independent of the container classes inside an optimizer's state. Keys as uint32 words."""
    named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(_raw_key(state)):
        named[jax.tree_util.keystr(path, simple=True, separator=".")] = leaf
    return named


def unflatten(like: State, flat: Flat) -> State:
    raw = _raw_key(like)
    paths = [jax.tree_util.keystr(p, simple=True, separator=".") for p, _ in jax.tree_util.tree_leaves_with_path(raw)]
    state = jax.tree.unflatten(jax.tree.structure(raw), [flat[name] for name in paths])
    if isinstance(state.key, jax.ShapeDtypeStruct):
        return dataclasses.replace(state, key=like.key)
    return dataclasses.replace(state, key=jax.random.wrap_key_data(state.key, impl="threefry2x32"))


def _raw_key(state: State) -> State:
    if isinstance(state.key, jax.ShapeDtypeStruct):
        raw = jax.eval_shape(jax.random.key_data, state.key)
        sharding = getattr(state.key, "sharding", None)
        return dataclasses.replace(state, key=jax.ShapeDtypeStruct(raw.shape, raw.dtype, sharding=sharding))
    return dataclasses.replace(state, key=jax.random.key_data(state.key))


def _free(path: pathlib.Path) -> pathlib.Path:
    candidate, n = path, 1
    while candidate.exists():
        n += 1
        candidate = path.with_name(f"{path.name}.{n}")
    return candidate
