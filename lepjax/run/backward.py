"""Which gradient the backward pass reaches first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.extend import core

from lepjax.core.parameters import LAYERS, Leaf, is_leaf

# What passes a parameter on without using it.
PASSING = {"convert_element_type", "slice", "dynamic_slice", "squeeze", "reshape", "transpose", "copy"}
PASSING |= {"broadcast_in_dim", "sharding_constraint", "optimization_barrier", "stop_gradient"}


def first_in_backward(used: list[str], leaves: Any, bad: Any) -> str:
    """The canonical name (`h.1.mlp.c_fc.kernel`) of the last used of the parameters whose gradient is not finite.

    `used` are names of leaves in the order of the forward pass; `bad` is shaped like `leaves`: bool[] or, for a stack of
    layers, bool[layers]. Of a stack the last layer counts.
    """
    found: dict[str, tuple[Leaf, np.ndarray]] = {}
    for leaf, flags in zip(jax.tree.leaves(leaves, is_leaf=is_leaf), jax.tree.leaves(bad), strict=True):
        if np.any(flags):
            found[leaf.name] = (leaf, np.asarray(flags))
    order = [name for name in used if name in found] or list(found)
    if not stacked(found[order[-1]][0]):
        return order[-1]
    layers = {name: int(np.flatnonzero(found[name][1])[-1]) for name in order if stacked(found[name][0])}
    last = max(layers.values())
    name = [name for name, layer in layers.items() if layer == last][-1]
    return name.replace("*", str(last), 1)


def stacked(leaf: Leaf) -> bool:
    return LAYERS in leaf.axes


def order_of_use(jaxpr: Any, names: Mapping[int, str]) -> list[str]:
    """The named arguments (by position) of a traced function, in the order in which it first computes with them."""
    inner: Any = getattr(jaxpr, "jaxpr", jaxpr)
    used: dict[str, None] = {}
    _walk(inner, {inner.invars[i]: name for i, name in names.items()}, used)
    return list(used)


def _walk(jaxpr: Any, names: dict[Any, str], used: dict[str, None]) -> None:
    for equation in jaxpr.eqns:
        operands = equation.invars
        named = {i: names[v] for i, v in enumerate(operands) if not isinstance(v, core.Literal) and v in names}
        if not named:
            continue
        parts = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns"))
        bodies: list[Any] = [getattr(part, "jaxpr", part) for part in parts if hasattr(part, "eqns")]
        bodies = [body for body in bodies if len(body.invars) == len(operands)]
        if equation.primitive.name in PASSING:
            names |= dict.fromkeys(equation.outvars, named[min(named)])
        elif bodies:
            _walk(bodies[0], {bodies[0].invars[i]: name for i, name in named.items()}, used)
        else:
            used |= dict.fromkeys(named.values())
