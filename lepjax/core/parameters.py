"""What is known of each parameter before any array exists: name, shape, dtype, logical axes."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, NamedTuple

import jax
import numpy as np

from lepjax.core.errors import UserError, nearest

LAYERS = "layers"  # the logical axis over which equal layers are stacked for a scan


class Growth(NamedTuple):
    """How many times as many inputs and outputs a parameter has as in the base of muP; see `models.mup`."""

    inputs: float = 1.0
    outputs: float = 1.0

    @property
    def std(self) -> float:
        """Factor on the standard deviation of the initial value."""
        return self.inputs**-0.5 * min(1.0, (self.outputs / self.inputs) ** 0.5)


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array of the parameter tree.

    `name` is canonical: `h.*.attn.c_attn.kernel`, where `*` stands for the layer of a stacked leaf. An unrolled model
    holds the same parameter as `h.0.attn.c_attn.kernel`, `h.1...`, so one pattern serves both.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any
    axes: tuple[str | None, ...]
    growth: Growth = Growth()
    init: float = 1.0
    """Factor on the initial value."""

    @property
    def stacked(self) -> bool:
        return self.axes[:1] == (LAYERS,)

    @property
    def names(self) -> tuple[str, ...]:
        """The canonical name of every layer in this leaf (one for a leaf that is not stacked)."""
        if not self.stacked:
            return (self.name,)
        return tuple(self.name.replace("*", str(i), 1) for i in range(self.shape[0]))

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def bytes(self) -> int:
        return self.size * np.dtype(self.dtype).itemsize


Leaves = Any  # a nested dict of Leaf, shaped like the parameters


def is_leaf(x: Any) -> bool:
    return isinstance(x, Leaf)


def flat(leaves: Leaves) -> list[Leaf]:
    return jax.tree.leaves(leaves, is_leaf=is_leaf)


def count(leaves: Leaves) -> int:
    """The number of parameters."""
    return sum(leaf.size for leaf in flat(leaves))


def by_pattern(
    leaves: Leaves, rules: tuple[tuple[str, float], ...], default: float, where: str, strict: bool = True
) -> Any:
    """A tree of float32 factors chosen by regular expressions on canonical per-layer names; the last match wins.

    Stacked leaves get one factor per layer (float32[layers]), the others a scalar, so that a scanned and an unrolled
    model are treated alike. Raises `UserError` for a pattern that is not a regular expression or, where `strict`,
    matches nothing.
    """
    names = [name for leaf in flat(leaves) for name in leaf.names]
    compiled = []
    for pattern, value in rules:
        try:
            regex = re.compile(pattern)
        except re.error as error:
            raise UserError(f"{pattern!r} is not a regular expression ({error})", where=where) from error
        if strict and not any(regex.search(name) for name in names):
            raise UserError(f"{pattern!r} matches no parameter", where=where, fix=nearest(pattern, names))
        compiled.append((regex, value))

    def factor(name: str) -> float:
        return next((value for regex, value in reversed(compiled) if regex.search(name)), default)

    def of(leaf: Leaf) -> np.ndarray:
        factors = np.array([factor(name) for name in leaf.names], np.float32)
        return factors if leaf.stacked else factors[0]

    return jax.tree.map(of, leaves, is_leaf=is_leaf)


def replaced(params: Any, leaves: Leaves, values: dict[str, Any]) -> Any:
    """The parameters with those arrays in place that `values` has under their leaf's name."""
    known = {leaf.name for leaf in flat(leaves)}
    if unknown := sorted(set(values) - known):
        raise UserError(f"no parameter {unknown[0]!r}", where="weights", fix=nearest(unknown[0], known))
    return jax.tree.map(lambda leaf, p: values.get(leaf.name, p), leaves, params, is_leaf=is_leaf)


def broadcast(factor: Any, array: jax.Array) -> Any:
    """A per-layer factor (scalar or [layers]) shaped to multiply `array` ([layers, ...])."""
    return np.asarray(factor).reshape(np.shape(factor) + (1,) * (array.ndim - np.ndim(factor)))
