"""Maximal update parametrisation: hyperparameters tuned on a narrow model serve a wide one.

Yang et al., Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer (2022; muP). A narrow
base decides the numbers; `parametrised` compares shapes with it and notes for each parameter how many times as many inputs
and outputs it has. From these two ratios follow, for every layer alike,

    initial standard deviation   inputs^-1/2 * min(1, (outputs / inputs)^1/2)
    learning rate                1 / inputs (Adam), outputs / inputs (SGD); see `Optimizer.width_rate`

which is the paper's table 3 (hidden: both grow; readout: inputs alone; embeddings, biases, norms: outputs alone) written as
one rule (Yang, Simon and Bernstein, A Spectral Condition for Feature Learning, 2023). Two factors are left for the model:
on queries and, where the output is tied to the embedding, on logits (table 8). At the base all of them are 1.
Numbers that serve every width: learning rate, schedule, betas, decay, the base's initial scale. Not those of regularisation,
and neither the depth, the batch size nor the length may change with the width.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax

from lepjax.core.errors import UserError
from lepjax.core.functional import Functional
from lepjax.core.parameters import Growth, Leaf, Leaves, is_leaf


@dataclasses.dataclass(frozen=True)
class Mup:
    """The base: the width at which nothing changes, and where the hyperparameters were tuned."""

    width: int = 768
    """Width of the base."""
    heads: int = 12
    """Attention heads of the base."""
    zero_readout: bool = False
    """Begin with outputs of 0, as the paper advises (appendix D.2). Not where the output is tied to the embedding."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.heads < 1 or self.width % self.heads:
            found = f"a base of width {self.width} with {self.heads} heads"
            raise UserError(found, where="model mup", fix="Use a width that is a multiple of the heads.")


def query_factor(mup: Mup | None, width: int, heads: int) -> float:
    """Of a model of this width: with attention's size^-1/2 it gives the paper's 1 / size."""
    return 1.0 if mup is None else (mup.width / mup.heads / (width / heads)) ** 0.5


def logits_factor(mup: Mup | None, width: int) -> float:
    """Of an output that is tied to the embedding. One of its own begins smaller and moves more slowly instead."""
    return 1.0 if mup is None else mup.width / width


def scaled(x: jax.Array, factor: float) -> jax.Array:
    """x * factor; a factor of 1 leaves no trace in the program."""
    return x if factor == 1.0 else x * factor


def folded(params: Any, leaves: Leaves, factors: Mapping[str, Any]) -> Any:
    """Parameters that compute the same without factors in the model, as other programs read them.

    `factors` are (regular expression on a name: number or array on the last axis); what matches is multiplied.
    """

    def of(leaf: Leaf, p: Any) -> Any:
        chosen = [factor for pattern, factor in factors.items() if re.search(pattern, leaf.name)]
        return p * chosen[0] if chosen else p

    return _map(of, leaves, params)


def parametrised(model: Functional, mup: Mup | None, sized: Callable[[int, int], Leaves]) -> Functional:
    """The model, whose leaves know how they have grown. `sized(width, heads)` are those of its recipe in another width.

    Raises `UserError` for a `zero_readout` where no parameter is a readout.
    """
    if mup is None:
        return model
    base = sized(mup.width, mup.heads)
    leaves = _map(_grown, model.leaves, base)
    if mup.zero_readout:
        readouts = _map(_is_readout, sized(2 * mup.width, mup.heads), base)
        if not any(jax.tree.leaves(readouts)):
            found = "the output has no parameters of its own"
            raise UserError(found, where="model mup.zero_readout", fix="Leave it false.")
        leaves = _map(lambda leaf, out: dataclasses.replace(leaf, init=0.0) if out else leaf, leaves, readouts)
    return dataclasses.replace(model, leaves=leaves)


def _map(function: Callable[..., Any], leaves: Leaves, *others: Any) -> Any:
    return jax.tree.map(function, leaves, *others, is_leaf=is_leaf)


def _grown(leaf: Leaf, base: Leaf) -> Leaf:
    growth = _growth(leaf, base)
    return dataclasses.replace(leaf, growth=growth, init=growth.std)


def _is_readout(wide: Leaf, base: Leaf) -> bool:
    """Whether it leads from the width to something else; at the base's own width only a wider model tells."""
    growth = _growth(wide, base)
    return growth.inputs > 1.0 and growth.outputs == 1.0


def _growth(leaf: Leaf, base: Leaf) -> Growth:
    """A bias or scale has one input."""
    ratios = [mine / theirs for mine, theirs in zip(leaf.shape, base.shape, strict=True)]
    return Growth(*[1.0, 1.0, *ratios[leaf.stacked :]][-2:])
