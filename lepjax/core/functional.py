"""An NNX module as pure functions on plain nested dicts.

NNX defines the architecture; nothing of it is stateful here. Modules name the logical axes of their parameters with
`kernel_metadata={"axes": ("embed", "mlp")}` and the like, which flax carries along and never interprets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from lepjax.core.errors import UserError
from lepjax.core.parameters import LAYERS, Leaf, Leaves, is_leaf


@dataclasses.dataclass(frozen=True)
class Functional:
    """`init(key) -> (params, model_state)` and `apply(params, model_state, *inputs) -> (outputs, model_state)`.

    `leaves` is shaped like params and knows each parameter's name, shape, dtype and logical axes.
    """

    construct: Callable[[nnx.Rngs], nnx.Module]
    graphdef: Any
    leaves: Leaves

    def init(self, key: jax.Array) -> tuple[Any, Any]:
        _, params, rest = _split(self.construct(nnx.Rngs(key)))
        drawn = nnx.to_pure_dict(params)
        scaled = jax.tree.map(
            lambda leaf, p: p if leaf.init == 1.0 else p * leaf.init, self.leaves, drawn, is_leaf=is_leaf
        )
        return scaled, nnx.to_pure_dict(rest)

    def apply(
        self, params: Any, model_state: Any, *inputs: Any, train: bool = False, method: str = "__call__", **options: Any
    ) -> tuple[Any, Any]:
        """Pure: the module is put together, called once and taken apart again."""
        module = nnx.merge(self.graphdef, params, model_state, copy=True)
        module.train() if train else module.eval()
        outputs = getattr(module, method)(*inputs, **options)
        return outputs, nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.Param)))


def functional(construct: Callable[[nnx.Rngs], nnx.Module], stacks: tuple[tuple[str, ...], ...] = ()) -> Functional:
    """Describes a module without allocating it.

    `stacks` are the paths below which equal layers are stacked along a leading axis, such as `(("h",),)`.
    Raises `UserError` for a parameter whose logical axes do not fit its rank.
    """
    graphdef, params, _ = _split(nnx.eval_shape(lambda: construct(nnx.Rngs(0))))
    leaves: dict[Any, Any] = {}
    for path, variable in nnx.to_flat_state(params):
        _insert(leaves, path, _leaf(path, variable, stacks))
    return Functional(construct, graphdef, leaves)


def _split(module: nnx.Module) -> tuple[Any, Any, Any]:
    return nnx.split(module, nnx.Param, ...)  # type: ignore[return-value]


def _leaf(path: tuple[Any, ...], variable: Any, stacks: tuple[tuple[str, ...], ...]) -> Leaf:
    value = variable.get_value()
    axes = tuple(variable.get_metadata().get("axes", (None,) * value.ndim))
    parts = [str(part) for part in path]
    stack = next((stack for stack in stacks if path[: len(stack)] == stack), None)
    if stack is not None:
        axes = (LAYERS, *axes) if len(axes) < value.ndim else (LAYERS, *axes[1:])
        parts.insert(len(stack), "*")
    name = ".".join(parts)
    if len(axes) != value.ndim:
        raise UserError(
            f"logical axes {axes} for shape {value.shape}", where=name, fix="Give one axis name per dimension."
        )
    return Leaf(name, value.shape, value.dtype, axes)


def _insert(tree: dict[Any, Any], path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value
