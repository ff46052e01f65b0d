"""`--debug`: the same step without jit, telling what every module returns, until something is not finite."""

from __future__ import annotations

import collections
import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lepjax.core.errors import UserError
from lepjax.experiment import Built

Say = Callable[[str], None]
Caller = tuple[Any, str, collections.Counter[str]]  # a module, its path, how many unnamed ones of each class it called


def debug_step(built: Built, say: Say) -> Any:
    """Like the compiled step, `(state, batch) -> (state, metrics)`, run operation by operation."""

    def step(state: Any, batch: Any) -> Any:
        say(f"debug: step {int(state.step)}")
        for name, array in batch.items():
            say(f"debug:   batch[{name!r}] {array.dtype}{list(array.shape)}")
        with jax.disable_jit(), watch_modules(say):
            state, metrics = built.step(state, batch)
        return state, metrics

    return step


@contextlib.contextmanager
def watch_modules(say: Say) -> Iterator[None]:
    """While inside, every call of an NNX module is told with its output's shape, dtype and largest magnitude.

    Raises `UserError` naming the first module whose output is not finite.
    """

    def hear(name: str, array: jax.Array) -> None:
        jax.debug.callback(functools.partial(_tell, say, name, array.dtype), array)

    with watching(hear):
        yield


@contextlib.contextmanager
def watching(hear: Callable[[str, jax.Array], None]) -> Iterator[None]:
    """While inside, `hear` gets the name of every NNX module that is called and the floating-point arrays it returns."""
    patched: list[tuple[type, Any]] = []
    callers: list[Caller] = []

    def watched(call: Any) -> Any:
        @functools.wraps(call)
        def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            name = _name(self, callers)
            callers.append((self, name, collections.Counter()))
            try:
                out = call(self, *args, **kwargs)
            finally:
                callers.pop()
            for array in jax.tree.leaves(out):
                if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jnp.floating):
                    hear(name, array)
            return out

        return run

    for kind in _module_classes(nnx.Module):
        if "__call__" in vars(kind):
            patched.append((kind, kind.__call__))
            setattr(kind, "__call__", watched(kind.__call__))
    try:
        yield
    finally:
        for kind, call in patched:
            setattr(kind, "__call__", call)


def _tell(say: Say, name: str, dtype: Any, array: Any) -> None:
    values = np.asarray(array, np.float32)
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise UserError(f"{bad} of {values.size} outputs are not finite", where=f"debug: {name}")
    say(f"debug:   {name} {np.dtype(dtype)}{list(values.shape)} max |x| {np.abs(values).max(initial=0):.4g}")


def _module_classes(root: type) -> list[type]:
    found: list[type] = []
    kind: type
    for kind in root.__subclasses__():
        found += [kind, *_module_classes(kind)]
    return list(dict.fromkeys(found))


def _name(module: Any, callers: list[Caller]) -> str:
    """The path below the calling module; a layer taken from a stack has no attribute and goes by its class and its turn."""
    kind = type(module).__name__
    if not callers:
        return kind
    parent, path, turns = callers[-1]
    own = next((name for name, value in vars(parent).items() if value is module), "")
    if not own:
        own = f"{kind}[{turns[kind]}]"
        turns[kind] += 1
    return f"{path}.{own}"
