"""Optimizers: optax's update rules behind small recipes.

A recipe gives a `direction` from live hyperparameters; everything around it is shared: clipping (in the step), weight
decay, freezing and learning-rate multipliers by pattern, and the treatment of stacked layers. To add one, write a file
with a dataclass that derives from `Optimizer` and defines `direction`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from lepjax.core import parameters
from lepjax.core.errors import UserError
from lepjax.core.fields import hparam
from lepjax.core.parameters import Leaves
from lepjax.core.schedules import Constant, Schedule

Hparams = dict[str, Any]
NO_DECAY = r"(^|\.)(bias|scale)$"  # biases and normalisation scales


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """What all optimizers share. Patterns are regular expressions on canonical names (`h.3.attn.c_attn.kernel`)."""

    learning_rate: float = hparam(1e-3)
    """Peak learning rate."""
    schedule: Schedule = Constant()
    """How the learning rate moves over the run."""
    clip_norm: float = hparam(float("inf"))
    """Gradients are scaled down to this global norm at most."""
    freeze: str = ""
    """Parameters that stay as they are (pattern; empty: none)."""
    lr_multipliers: tuple[tuple[str, float], ...] = ()
    """Factors on the learning rate: (pattern, factor) pairs, the last match wins."""

    decoupled_decay = False  # adds weight_decay * parameter to the update: Loshchilov and Hutter, AdamW (2019)

    def hparams(self, total_steps: int) -> dict[str, float]:
        """Initial values of the hyperparameter leaves this optimizer and its schedule read."""
        own = {
            field.name: float(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.metadata.get("kind") == "hparam"
        }
        return {**own, "lr_scale": 1.0, **self.schedule.hparams(total_steps)}

    def direction(self, hparams: Hparams, leaves: Leaves) -> optax.GradientTransformation:
        """Gradients -> update direction (to be multiplied by -lr). `leaves` are the parameters it will see."""
        raise TypeError(f"{type(self).__name__} must define direction")

    def frozen(self, leaves: Leaves) -> Any:
        """A tree of factors: 1 where a parameter (layer) is frozen."""
        rules = ((self.freeze, 1.0),) if self.freeze else ()
        return parameters.by_pattern(leaves, rules, 0.0, "optimizer.freeze")

    def width_rate(self, leaf: parameters.Leaf) -> float:
        """Factor on the learning rate of a parameter that has grown from muP's base (`models.mup`). This is Adam's: an entry
        of the update has the size of the rate, and those of all inputs add up (Yang et al., Tensor Programs V, table 3).
        """
        return 1.0 / leaf.growth.inputs

    def build(self, leaves: Leaves) -> Callable[[Hparams], optax.GradientTransformation]:
        """Binds the recipe to parameters. The result turns live hyperparameters into a transformation.

        Raises `UserError` for patterns that match nothing.
        """
        frozen = self.frozen(leaves)
        rates = parameters.by_pattern(leaves, self.lr_multipliers, 1.0, "optimizer.lr_multipliers")
        no_decay = getattr(self, "no_decay", "")
        rules = ((no_decay, 0.0),) if no_decay else ()
        chosen = no_decay != NO_DECAY  # the default may match nothing: some models have no biases
        decays = parameters.by_pattern(leaves, rules, 1.0, "optimizer.no_decay", strict=chosen)
        widths = jax.tree.map(lambda leaf: np.float32(self.width_rate(leaf)), leaves, is_leaf=parameters.is_leaf)
        rates = jax.tree.map(np.multiply, rates, widths)
        decays = jax.tree.map(np.divide, decays, widths)  # a step's decay is rate * decay, which no width may change

        def transformation(hparams: Hparams) -> optax.GradientTransformation:
            def around(group: Leaves, factors: dict[str, Any]) -> optax.GradientTransformation:
                stages = [self.direction(hparams, group)]
                if "weight_decay" in hparams:
                    decay = add_decay(hparams["weight_decay"], factors["decays"])
                    stages.insert(len(stages) if self.decoupled_decay else 0, decay)
                stages.append(scale_by_rate(hparams["learning_rate"], factors["rates"], factors["frozen"]))
                return optax.chain(*stages)

            return per_layer(around, leaves, {"decays": decays, "rates": rates, "frozen": frozen})

        return transformation


def add_decay(weight_decay: Any, factors: Any) -> optax.GradientTransformation:
    """Adds `weight_decay * factor * parameter`; a factor of 0 leaves the update as it is, bit for bit."""

    def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        return jax.tree.map(
            lambda u, p, f: jnp.where(f > 0, u + weight_decay * f * p, u), updates, params, factors
        ), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def scale_by_rate(learning_rate: Any, factors: Any, frozen: Any) -> optax.GradientTransformation:
    """Multiplies by -lr * factor. Frozen parameters get -0.0: p + -0.0 is p bit for bit, also where p is -0.0."""

    def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        def one(u: Any, f: Any, off: Any) -> Any:
            return jnp.where(off > 0, jnp.asarray(-0.0, u.dtype), -learning_rate * f * u)

        return jax.tree.map(one, updates, factors, frozen), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def per_layer(
    make: Callable[[Leaves, dict[str, Any]], optax.GradientTransformation], leaves: Leaves, factors: dict[str, Any]
) -> optax.GradientTransformation:
    """Lets `make(leaves, factors)` see every layer alone, also where layers are stacked for a scan.

    Optimizers look at ranks and shapes: Muon and Adafactor would take a stack of biases for a matrix, and a stack of
    matrices for one tensor. Each stack (leaves with the same number of layers) runs under `vmap` over its layer axis;
    `factors` with one entry per layer are cut along.
    """
    depths = {leaf.shape[0] for leaf in parameters.flat(leaves) if leaf.stacked}
    groups = {"single": _select(leaves, lambda leaf: not leaf.stacked)}
    for depth in sorted(depths):
        groups[f"stack_{depth}"] = _select(leaves, functools.partial(_stacked_over, depth))
    groups = {name: group for name, group in groups.items() if group}

    def apply(name: str, use: Callable[..., Any], *trees: Any) -> Any:
        group = groups[name]
        cut = {key: _like(group, tree) for key, tree in factors.items()}
        if name == "single":
            return use(make(group, cut), *trees)
        inner = jax.tree.map(_unstacked, group, is_leaf=parameters.is_leaf)
        return jax.vmap(lambda cut, *trees: use(make(inner, cut), *trees))(cut, *trees)

    def init(params: Any) -> dict[str, Any]:
        return {name: apply(name, lambda t, p: t.init(p), _like(group, params)) for name, group in groups.items()}

    def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        merged: dict[Any, Any] = {}
        new: dict[str, Any] = {}
        for name, group in groups.items():
            part, new[name] = apply(
                name, lambda t, u, s, p: t.update(u, s, p), _like(group, updates), state[name], _like(group, params)
            )
            merged = _merge(merged, part)
        return jax.tree.map(lambda _, u: u, updates, merged), new

    return optax.GradientTransformation(init, update)


def _stacked_over(depth: int, leaf: parameters.Leaf) -> bool:
    return leaf.stacked and leaf.shape[0] == depth


def _unstacked(leaf: parameters.Leaf) -> parameters.Leaf:
    return dataclasses.replace(leaf, shape=leaf.shape[1:], axes=leaf.axes[1:])


def _select(tree: Any, keep: Callable[[parameters.Leaf], bool]) -> Any:
    """The part of a nested dict whose leaves are kept, without empty branches."""
    if parameters.is_leaf(tree):
        return tree if keep(tree) else None
    chosen = {key: _select(value, keep) for key, value in tree.items()}
    return {key: value for key, value in chosen.items() if value is not None and value != {}}


def _like(group: Any, tree: Any) -> Any:
    """The part of `tree` that has a place in `group`."""
    if parameters.is_leaf(group):
        return tree
    return {key: _like(value, tree[key]) for key, value in group.items()}


def _merge(a: Any, b: Any) -> Any:
    if not isinstance(a, dict):
        return b
    return {**a, **{key: _merge(a[key], value) if key in a else value for key, value in b.items()}}


@dataclasses.dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum; decay is added to the gradient, as torch.optim.SGD does."""

    momentum: float = hparam(0.9)
    """Share of the last direction that is kept."""
    nesterov: bool = False
    """Look ahead along the momentum."""
    weight_decay: float = hparam(0.0)
    """L2 penalty on the gradient."""
    no_decay: str = NO_DECAY
    """Parameters without decay (pattern)."""

    def direction(self, hparams: Hparams, leaves: Leaves) -> optax.GradientTransformation:
        return optax.trace(decay=hparams["momentum"], nesterov=self.nesterov)

    def width_rate(self, leaf: parameters.Leaf) -> float:
        return leaf.growth.outputs / leaf.growth.inputs


@dataclasses.dataclass(frozen=True)
class Adam(Optimizer):
    """Kingma and Ba (2015), without weight decay."""

    beta1: float = hparam(0.9)
    """Decay of the first moment."""
    beta2: float = hparam(0.999)
    """Decay of the second moment."""
    eps: float = hparam(1e-8)
    """Added to the root of the second moment."""
    momentum: str = "float32"
    """Dtype that keeps the first moment: float32, or bfloat16, which takes half the memory."""

    def __post_init__(self) -> None:
        if self.momentum not in ("float32", "bfloat16"):
            raise UserError(f"{self.momentum!r}", where="optimizer.momentum", fix="Use float32 or bfloat16.")

    def direction(self, hparams: Hparams, leaves: Leaves) -> optax.GradientTransformation:
        moments = {"b1": hparams["beta1"], "b2": hparams["beta2"], "eps": hparams["eps"]}
        return optax.scale_by_adam(**moments, mu_dtype=self.momentum)


@dataclasses.dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    weight_decay: float = hparam(0.01)
    """Decoupled decay, multiplied by the learning rate."""
    no_decay: str = NO_DECAY
    """Parameters without decay (pattern)."""

    decoupled_decay = True


@dataclasses.dataclass(frozen=True)
class Adagrad(Optimizer):
    """Duchi et al. (2011)."""

    initial_accumulator: float = 0.1
    """Where the sum of squares starts."""
    eps: float = hparam(1e-7)
    """Added to the root of the sum of squares."""

    def direction(self, hparams: Hparams, leaves: Leaves) -> optax.GradientTransformation:
        return optax.scale_by_rss(initial_accumulator_value=self.initial_accumulator, eps=hparams["eps"])


@dataclasses.dataclass(frozen=True)
class Lion(Optimizer):
    """Chen et al., Symbolic Discovery of Optimization Algorithms (2023)."""

    beta1: float = hparam(0.9)
    """Weight of the momentum in the sign."""
    beta2: float = hparam(0.99)
    """Decay of the momentum."""
    weight_decay: float = hparam(0.01)
    """Decoupled decay, multiplied by the learning rate."""
    no_decay: str = NO_DECAY
    """Parameters without decay (pattern)."""

    decoupled_decay = True

    def direction(self, hparams: Hparams, leaves: Leaves) -> optax.GradientTransformation:
        return optax.scale_by_lion(b1=hparams["beta1"], b2=hparams["beta2"])


@dataclasses.dataclass(frozen=True)
class Adafactor(Optimizer):
    """Shazeer and Stern (2018): second moments kept as rows and columns, relative step sizes.

    Weight decay is decoupled and multiplied by the learning rate, unlike optax's alias, which does not scale it.
    """

    decay_exponent: float = hparam(0.8)
    """Exponent of the second moment's growing memory, 1 - t^-0.8."""
    update_clip: float = hparam(1.0)
    """Largest root mean square of one parameter's update."""
    factor_from: int = 128
    """Second moments of matrices with both sides at least this long are factored."""
    weight_decay: float = hparam(0.0)
    """Decoupled decay, multiplied by the learning rate."""
    no_decay: str = NO_DECAY
    """Parameters without decay (pattern)."""

    decoupled_decay = True

    def direction(self, hparams: Hparams, leaves: Leaves) -> optax.GradientTransformation:
        return optax.chain(
            optax.scale_by_factored_rms(decay_rate=hparams["decay_exponent"], min_dim_size_to_factor=self.factor_from),
            optax.clip_by_block_rms(hparams["update_clip"]),
            optax.scale_by_param_block_rms(),
        )

    def width_rate(self, leaf: parameters.Leaf) -> float:
        """Adam's, over the size of the parameter, by which the update is multiplied already."""
        return super().width_rate(leaf) / leaf.growth.std


@dataclasses.dataclass(frozen=True)
class Muon(Optimizer):
    """Jordan et al. (2024): matrices move along their orthogonalised momentum, everything else by Adam.

    One learning rate serves both: updates of matrices are scaled by 0.2 sqrt(max(fan_in, fan_out)) to the root mean
    square of Adam's (Liu et al., Muon is Scalable for LLM Training, 2025).
    """

    beta: float = hparam(0.95)
    """Decay of the momentum."""
    newton_schulz_steps: int = 5
    """Iterations of the orthogonalisation."""
    adam: str = r"(^|\.)(embedding|wte|wpe|lm_head)(\.|$)"
    """Matrices that Adam moves all the same (pattern)."""
    beta1: float = hparam(0.9)
    """Adam's decay of the first moment."""
    beta2: float = hparam(0.95)
    """Adam's decay of the second moment."""
    eps: float = hparam(1e-8)
    """Adam's epsilon."""
    weight_decay: float = hparam(0.01)
    """Decoupled decay, multiplied by the learning rate."""
    no_decay: str = NO_DECAY
    """Parameters without decay (pattern)."""

    decoupled_decay = True

    def direction(self, hparams: Hparams, leaves: Leaves) -> optax.GradientTransformation:
        muon = optax.chain(
            scale_by_muon(
                ns_steps=self.newton_schulz_steps,
                beta=hparams["beta"],
                weight_dimension_numbers=lambda tree: jax.tree.map(lambda _: MuonDimensionNumbers(), tree),
            ),
            optax.stateless(lambda updates, _: jax.tree.map(_adam_rms, updates)),
        )
        adam = optax.scale_by_adam(b1=hparams["beta1"], b2=hparams["beta2"], eps=hparams["eps"])
        return optax.partition(
            {"muon": muon, "adam": adam}, jax.tree.map(self.mover, leaves, is_leaf=parameters.is_leaf)
        )

    def mover(self, leaf: parameters.Leaf) -> str:
        """Who moves this parameter. `leaf` is one layer of a stack, whose name stands for all of them."""
        return "muon" if len(leaf.shape) == 2 and not re.search(self.adam, leaf.name) else "adam"

    def width_rate(self, leaf: parameters.Leaf) -> float:
        """Orthogonal updates must have a norm of (outputs / inputs)^1/2; their 0.2 sqrt(max(fan_in, fan_out)) grows too."""
        if self.mover(_unstacked(leaf) if leaf.stacked else leaf) == "adam":
            return super().width_rate(leaf)
        fans, (inputs, outputs) = leaf.shape[-2:], leaf.growth
        longer = max(fans) / max(fans[0] / inputs, fans[1] / outputs)
        return float((outputs / inputs / longer) ** 0.5)

    def build(self, leaves: Leaves) -> Callable[[Hparams], optax.GradientTransformation]:
        for leaf in parameters.flat(leaves):
            movers = {re.search(self.adam, name) is None for name in (*leaf.names, leaf.name)}
            if len(movers) > 1:
                raise UserError(
                    f"{self.adam!r} tells the layers of {leaf.name} apart",
                    where="optimizer.adam",
                    fix="All layers of a stack move alike: use a pattern without layer numbers, or --model.no-scan.",
                )
        return super().build(leaves)


def _adam_rms(update: jax.Array) -> jax.Array:
    return update * (0.2 * max(update.shape) ** 0.5)


def freezing(loss: Callable[..., Any], frozen: Any) -> Callable[..., Any]:
    """The same loss, whose gradient is zero for frozen parameters (so that they take no part in the global norm)."""
    if not any(float(jnp.max(f)) > 0 for f in jax.tree.leaves(frozen)):
        return loss

    def hold(p: jax.Array, factor: Any) -> jax.Array:
        return jnp.where(parameters.broadcast(factor, p) > 0, jax.lax.stop_gradient(p), p)

    def frozen_loss(params: Any, *args: Any) -> Any:
        return loss(jax.tree.map(hold, params, frozen), *args)

    return frozen_loss
