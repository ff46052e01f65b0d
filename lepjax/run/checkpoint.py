"""Checkpoints: the whole state through Orbax, committed by a manifest of digests.

checkpoints/<step>/params/     params, model_state, ema: what evaluation needs (Orbax)
checkpoints/<step>/rest/       everything else of the state (Orbax)
checkpoints/<step>/meta.json   plan fingerprint, memory of callbacks, metrics
checkpoints/<step>/manifest.json  digests of every file above and of every leaf, written last; see run.manifest

Orbax alone restores a flipped bit without a word, and casts a wrong dtype. Here files are checked before a restore, and
leaves after it, by digests that were taken on the device and do not depend on the mesh.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Collection
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import type_handlers

from lepjax.core import digest
from lepjax.core.errors import UserError
from lepjax.core.state import State
from lepjax.run import disk, files, manifest
from lepjax.run.manifest import Damaged
from lepjax.run.named import Flat, differences, first_of, flatten, is_trained, layout, unflatten
from lepjax.run.processes import main_process, on_main

MOST_ERRORS = 32  # of one failed save: arrays, and a few files of metadata


@dataclasses.dataclass
class Costs:
    """Seconds that saving took: those the loop stood still for, and those until the commit; and bytes of the state."""

    saved: int = 0
    blocked: float = 0.0
    written: float = 0.0
    bytes: int = 0


class Checkpoints:
    """The checkpoints of one run. `say` is told, in one line, of everything out of the ordinary.

    `must` says whether a checkpoint that cannot be written is an error, or is told and done without.
    """

    def __init__(
        self, path: pathlib.Path, keep: int = 2, say: Callable[[str], None] = print, must: bool = True
    ) -> None:
        self.path, self.keep, self.say, self.must = path.absolute(), keep, say, must
        self.costs = Costs()
        self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(params=_handler(), rest=_handler()))
        self._pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: concurrent.futures.Future[None] | None = None
        self._held: int | None = None  # the newest step that was saved or restored here

    def steps(self) -> list[int]:
        """Steps with a manifest, ascending."""
        return manifest.steps(self.path)

    def prepare(self, abstract: State, best: bool) -> None:
        """Before the first step: raises `UserError` where there is no room, and removes what unfinished saves left."""
        manifest.clear_debris(self.path)
        size = sum(x.size * x.dtype.itemsize for x in flatten(abstract).values())
        # While a step is written, the ones that it will replace are still there.
        more = self.keep + 1 + best - len(self.steps())
        disk.check_space(self.path, size * max(more, 1))

    def warm(self, state: State) -> None:
        """Compiles what saving computes."""
        jax.block_until_ready(digest.digests(flatten(state)))

    def save(self, step: int, state: State, meta: dict[str, Any], also: Collection[int] = ()) -> None:
        """Copies the state to the host and returns; writing goes on behind. Waits for (and reports) the one before.

        After the commit the newest `keep` steps and `also` remain. A state that is not finite is refused.
        """
        self.wait()
        folder = self.path / str(step)
        if step == self._held:
            return  # a pure function of the step: it would be the same
        begun = time.perf_counter()
        flat = flatten(state)
        taken = digest.digests(flat)
        split = {"params": {n: x for n, x in flat.items() if is_trained(n)}}
        split["rest"] = {n: x for n, x in flat.items() if n not in split["params"]}
        self.costs.bytes = sum(x.nbytes for x in flat.values())
        try:
            on_main(lambda: disk.writable(self.path))
            on_main(lambda: manifest.clear_debris(self.path))
            items = {name: ocp.args.PyTreeSave(part) for name, part in split.items()}
            self._orbax.save(folder, args=ocp.args.Composite(**items))
        except Exception as error:
            self._failed(error)
            return
        self.costs.blocked += time.perf_counter() - begun
        self._held = step
        self._pending = self._pool.submit(self._commit, step, meta, layout(flat), taken, also, begun)

    def _commit(
        self,
        step: int,
        meta: dict[str, Any],
        leaves: dict[str, Any],
        taken: Flat,
        also: Collection[int],
        begun: float,
    ) -> None:
        self._orbax.wait_until_finished()
        taken = {name: np.asarray(words) for name, words in taken.items()}
        check_finite(taken, f"step {step} of {self.path}")
        if not main_process():
            return
        folder = self.path / str(step)
        files.write_json(folder / "meta.json", {"step": step, **meta})
        told = {name: [*leaves[name], digest.told(words)] for name, words in taken.items()}
        manifest.commit(folder, step, told)
        keep = {*self.steps()[-self.keep :], *also}
        for old in self.steps():
            if old not in keep:
                manifest.remove(self.path / str(old))
        self.costs.saved += 1
        self.costs.written += time.perf_counter() - begun

    def check(self) -> None:
        """Reports a save that has failed meanwhile; never waits."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def remove_after(self, step: int) -> None:
        """Removes later steps, the newest first: wherever this is interrupted, the run goes on from one it came by."""
        self.wait()
        for later in reversed(self.steps()):
            if later > step:
                manifest.remove(self.path / str(later))

    def wait(self) -> None:
        """Returns when the last save is committed. Raises `UserError` when it failed and saving is a must."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        """Older steps are as they were: what this save left goes, so that a full disk does not stay full."""
        self._held = None
        self._drain()
        if main_process():
            _clear_until_quiet(self.path)
        told = error if isinstance(error, UserError) else disk.unwritable(self.path, self.costs.bytes, error)
        if self.must:
            raise told from error
        self.say(f"{told} Going on without this checkpoint.")

    def _drain(self) -> None:
        """Waits for the rest of a failed save. Orbax's writers fail one by one, and tell each failure to whoever waits next:
        the next save, or the end of the run.
        """
        for _ in range(MOST_ERRORS):
            with contextlib.suppress(Exception):  # the first of them was told
                self._orbax.wait_until_finished()
                return

    @property
    def settled(self) -> bool:
        """No save is under way."""
        return self._pending is None or self._pending.done()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._pool.shutdown()
            self._orbax.close()

    def damage(self, step: int) -> str | None:
        """What is wrong with a step's files, in words, or None."""
        return manifest.damage(self.path / str(step))

    def newest_good(self) -> int | None:
        """The newest step whose files are right. Bad ones are set aside as `<step>.damaged`, loudly."""
        for step in reversed(self.steps()):
            problem = self.damage(step)
            if problem is None:
                return step
            self.set_aside(step, problem)
        return None

    def set_aside(self, step: int, problem: str) -> None:
        self.say(f"checkpoint {step} of {self.path} is damaged ({problem}). Set aside; using an older one.")
        manifest.set_aside(self.path / str(step), "damaged")

    def restore(self, step: int, abstract: State) -> tuple[State, dict[str, Any]]:
        """(state, meta) of one committed step, placed as `abstract` says, whatever mesh it was saved on.

        Raises `Damaged` when a file or a leaf is not what was saved or the optimizer has counted other steps, and
        `UserError` when trees, shapes or dtypes differ in any leaf.
        """
        flat = self._restore(step, flatten(abstract), ("params", "rest"))
        state = unflatten(abstract, flat)
        where = f"checkpoint {step} of {self.path}"
        if int(state.step) != step:
            raise Damaged(f"the state says step {int(state.step)}", where=where)
        check_counts(flat, where)
        self._held = step
        return state, files.read_json(self.path / str(step) / "meta.json")

    def restore_params(self, step: int, abstract: State) -> State:
        """Like `restore`, but reads only params, model_state and ema; the other fields stay abstract."""
        wanted = {name: x for name, x in flatten(abstract).items() if is_trained(name)}
        return unflatten(abstract, {**flatten(abstract), **self._restore(step, wanted, ("params",))})

    def restore_named(self, step: int) -> Flat:
        """Every leaf of a step by name, on one device: without its experiment."""
        one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        leaves = manifest.read(self.path / str(step))["leaves"]
        abstract = {
            name: jax.ShapeDtypeStruct(tuple(shape), jax.numpy.dtype(dtype), sharding=one)
            for name, (shape, dtype, _) in leaves.items()
        }
        return self._restore(step, abstract, ("params", "rest"))

    def _restore(self, step: int, wanted: Flat, items: tuple[str, ...]) -> Flat:
        where = f"checkpoint {step} of {self.path}"
        if problem := on_main(lambda: self.damage(step)):
            raise Damaged(f"damaged ({problem})", where=where)
        saved = manifest.read(self.path / str(step))["leaves"]
        if items == ("params",):
            saved = {name: leaf for name, leaf in saved.items() if is_trained(name)}
        if different := differences({name: leaf[:2] for name, leaf in saved.items()}, layout(wanted)):
            raise UserError(first_of(different), where=where)
        split: dict[str, Flat] = {"params": {}, "rest": {}}
        for name, leaf in wanted.items():
            split["params" if is_trained(name) else "rest"][name] = leaf
        how = ocp.checkpoint_utils.construct_restore_args
        args = {item: ocp.args.PyTreeRestore(split[item], restore_args=how(split[item])) for item in items}
        restored = self._orbax.restore(self.path / str(step), args=ocp.args.Composite(**args))
        flat = {name: x for item in items for name, x in restored[item].items()}
        check_digests({name: leaf[2] for name, leaf in saved.items()}, flat, where)
        return flat


def _clear_until_quiet(path: pathlib.Path, seconds: float = 2.0) -> None:
    """Of a failed save, Orbax's other writers may still be at work and put back what is removed."""
    end, quiet = time.monotonic() + seconds, 0
    while quiet < 4 and time.monotonic() < end:
        quiet = 0 if manifest.clear_debris(path) else quiet + 1
        time.sleep(0.05)


def _handler() -> ocp.PyTreeCheckpointHandler:
    """Each array is written by one of its replicas. Orbax would cut replicated arrays into slices on the device, one
    small program per shape, compiled in the middle of the run.
    """
    whole = type_handlers.ArrayHandler(use_replica_parallel=False)
    return ocp.PyTreeCheckpointHandler(
        type_handler_registry=type_handlers.create_type_handler_registry((jax.Array, whole))
    )


def check_digests(expected: dict[str, str], flat: Flat, where: str) -> None:
    """Raises `Damaged` naming the first leaf that is not what was saved, or is not finite and must be."""
    taken = {name: np.asarray(words) for name, words in digest.digests(flat).items()}
    found = {name: digest.told(words) for name, words in taken.items()}
    different = [
        f"leaf {name} differs (digest {found[name]}, expected {expected[name]})"
        for name in sorted(expected)
        if found[name] != expected[name]
    ]
    if different := different or not_finite(taken):
        raise Damaged(first_of(different), where=where)


def not_finite(taken: Flat) -> list[str]:
    """In words, the leaves of what is trained, or of the optimizer's memory of it, that are not. `taken`: leaf digests."""
    return [
        f"leaf {name} has {int(words[2])} elements that are not finite"
        for name, words in taken.items()
        if words[2] and (is_trained(name) or name.startswith("opt_state."))
    ]


def check_finite(taken: Flat, where: str) -> None:
    """Raises `UserError` where a state must not be saved."""
    if bad := not_finite(taken):
        raise UserError(f"not saved: {first_of(bad)}", where=where, fix="Lower the learning rate or clip harder.")


def check_counts(flat: Flat, where: str) -> None:
    """Raises `Damaged` where an optimizer has counted other steps than were taken and not skipped."""
    taken = int(flat["step"]) - int(flat["skipped"])
    for name, leaf in flat.items():
        if name.startswith("opt_state.") and name.endswith(".count") and (np.asarray(leaf) != taken).any():
            raise Damaged(f"leaf {name} is {np.asarray(leaf).max()}, but {taken} updates were made", where=where)
