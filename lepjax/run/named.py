"""A state as named leaves: {dotted path: array}, whatever containers an optimizer keeps its own state in."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from lepjax.core.state import State

Flat = dict[str, Any]
TRAINED = ("params", "model_state", "ema")  # what evaluation needs


def flatten(state: State) -> Flat:
    """Keys as uint32 words."""
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


def is_trained(name: str) -> bool:
    """Whether a leaf belongs to what evaluation needs."""
    return name.split(".")[0] in TRAINED


def layout(flat: Flat) -> dict[str, Any]:
    """{name: [shape, dtype]}, as JSON knows it."""
    return {name: [list(x.shape), str(x.dtype)] for name, x in flat.items()}


def differences(saved: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Every leaf that is missing, extra, or of another shape or dtype, in words. Both as `layout` gives them."""
    lines = [f"leaf {name} is missing" for name in sorted(wanted.keys() - saved.keys())]
    lines += [f"leaf {name} is not in the experiment" for name in sorted(saved.keys() - wanted.keys())]
    for name in sorted(saved.keys() & wanted.keys()):
        if saved[name] != wanted[name]:
            (shape, dtype), (shape_wanted, dtype_wanted) = saved[name], wanted[name]
            lines.append(f"leaf {name} is {dtype}{shape}, expected {dtype_wanted}{shape_wanted}")
    return lines


def first_of(lines: list[str]) -> str:
    """The first line, and how many more there are."""
    return lines[0] + (f" (and {len(lines) - 1} more)" if lines[1:] else "")
