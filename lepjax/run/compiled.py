"""Programs compiled for one placement and for every batch shape of the plan, before the first batch arrives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from lepjax.core.cost import traced_flops
from lepjax.core.errors import UserError
from lepjax.core.sharding import Placement
from lepjax.core.state import State
from lepjax.core.step import Step
from lepjax.data.loader import load_rows
from lepjax.data.source import Rows, Source

Shapes = dict[str, jax.ShapeDtypeStruct]


def batch_shapes(rows: Rows, placement: Placement) -> Shapes:
    """Shapes, dtypes and shardings of a placed batch like this host batch."""
    return {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=placement.batch(array, name))
        for name, array in rows.items()
    }


def planned_shapes(source: Source, ids: Sequence[np.ndarray], placement: Placement) -> list[Shapes]:
    """Those of the batches with these record ids: one per shape that a plan knows."""
    return [batch_shapes(load_rows(source, some, np.zeros_like(some)), placement) for some in ids]


def compile_step(step: Step, state: State, batches: Sequence[Shapes], placement: Placement) -> Any:
    """Compiles `step(state, batch)` for abstract arguments that carry their shardings. The state is donated."""
    shardings = jax.tree.map(lambda x: x.sharding, state)
    with placement.scope():
        jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, placement.replicated))

        def compile_one(batch: Shapes) -> Compiled:
            traced = jitted.trace(state, batch)
            return Compiled(traced.lower().compile(), (state, batch), traced_flops(traced.jaxpr))

        return by_shape(compile_one, batches, argument=1)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program for `given`, abstract arguments with shardings. Others are refused, and the leaf that differs is named."""

    program: Any
    given: tuple[Any, ...]
    flops: float
    """Of its matrix products, over all devices; see `core.cost.traced_flops`."""

    def __call__(self, *arguments: Any) -> Any:
        try:
            return self.program(*arguments)
        except (TypeError, ValueError) as error:
            if changed := changed_leaves(self.given, arguments):
                more = f" (and {len(changed) - 1} more)" if changed[1:] else ""
                raise UserError(changed[0] + more, where="the compiled step", fix=RECOMPILE) from error
            raise

    def __getattr__(self, name: str) -> Any:  # as_text, memory_analysis, ...
        return getattr(self.program, name)


RECOMPILE = (
    "Something changed a leaf of the state or of the batch after it was compiled; keep shape, dtype and sharding."
)


def changed_leaves(expected: Any, found: Any) -> list[str]:
    """In words, every leaf whose shape, dtype or sharding is another than that of the abstract `expected`."""
    theirs = {_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(found)}
    ours = {_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(expected)}
    lines = [f"leaf {name} is missing" for name in ours if name not in theirs]
    lines += [f"leaf {name} is new" for name in theirs if name not in ours]
    for name in [name for name in ours if name in theirs]:
        want, have = ours[name], theirs[name]
        if (want.shape, want.dtype) != (have.shape, have.dtype):
            lines.append(f"leaf {name} is {have.dtype}{list(have.shape)}, compiled for {want.dtype}{list(want.shape)}")
        elif not isinstance(have, jax.Array):
            lines.append(f"leaf {name} is on the host, compiled for {want.sharding}")
        elif not have.sharding.is_equivalent_to(want.sharding, len(want.shape)):
            lines.append(f"leaf {name} lies on {have.sharding}, compiled for {want.sharding}")
    return lines


def _name(path: Any) -> str:
    """`state.params.h.mlp...`, `batch.tokens`: the step's two arguments have names."""
    argument, *rest = path
    name = ("state", "batch")[argument.idx]
    return ".".join([name, jax.tree_util.keystr(tuple(rest), simple=True, separator=".")])


@dataclasses.dataclass(frozen=True)
class ByShape:
    """Calls the program that was compiled for the shape of its batch argument."""

    programs: dict[tuple[Any, ...], Any]
    argument: int

    def __call__(self, *arguments: Any) -> Any:
        shape = _shape(arguments[self.argument])
        if shape not in self.programs:
            given = dict(shape)
            new = [name for name, size in shape if all(dict(s).get(name) != size for s in self.programs)] or [*given]
            name = "tokens" if "tokens" in new else new[0]
            known = sorted(dict(s).get(name, ()) for s in self.programs)
            raise UserError(f"a batch of {name} {given[name]}", where="plan", fix=f"It was compiled for {known}.")
        return self.programs[shape](*arguments)


def by_shape(compile_one: Callable[[Shapes], Any], batches: Sequence[Shapes], argument: int) -> Any:
    """One program per batch shape behind one call; where there is one shape only, the program itself."""
    if len(batches) == 1:
        return compile_one(batches[0])
    return ByShape({_shape(batch): compile_one(batch) for batch in batches}, argument)


def _shape(batch: Any) -> tuple[Any, ...]:
    return tuple((name, batch[name].shape) for name in sorted(batch))
