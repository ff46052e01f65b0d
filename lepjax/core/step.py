"""The training step: a pure function `(state, batch) -> (state, metrics)`.

In order: fold the key; gradients, whole or microbatch by microbatch; unscale; global norm; clip; update; keep the old
state where anything was not finite or the guard sees a spike; adjust the loss scale; emit metrics. What varies (loss,
optimizer, schedule, precision, accumulation) is composed outside and passed in; the loss scale and the guard are what
the state says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lepjax.core import rng
from lepjax.core.errors import UserError
from lepjax.core.precision import FLOAT32, Policy
from lepjax.core.sharding import constrain
from lepjax.core.state import State

Batch = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Term:
    """One term of a loss, as a sum and the weight to divide it by.

    `sum` and `weight` are float32[] over the rows of (micro)batch; `weight` must depend on the batch alone. The loss is
    the sum over terms of `coefficient * sum / weight`, with both summed over the *global* batch first: an average of
    averages would give a token in a short sequence more say than one in a long sequence.
    A term that couples the rows of a batch (contrastive, load balance) says `decomposable=False`.
    """

    sum: Any
    weight: Any
    coefficient: Any = 1.0
    decomposable: bool = dataclasses.field(default=True, metadata={"static": True})

    @property
    def mean(self) -> jax.Array:
        return self.sum / jnp.where(self.weight > 0, self.weight, 1.0)


Terms = dict[str, Term]
# loss(params, model_state, batch, hparams, keys, train) -> (terms, model_state, aux): keys is Key[rows], one per row of
# the batch; aux holds terms that are reported and not differentiated.
Loss = Callable[[Any, Any, Batch, dict[str, Any], jax.Array, bool], tuple[Terms, Any, Terms]]
Gradients = Callable[..., tuple[Any, Terms, Any, Terms]]
Step = Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]


def make_train_step(
    loss: Loss,
    optimizer: Callable[[dict[str, Any]], optax.GradientTransformation],
    schedule: Callable[[Any, dict[str, Any]], Any],
    policy: Policy = FLOAT32,
    accumulate: int = 1,
) -> Step:
    """Composes a step. `optimizer(hparams)` builds the transformation from live hyperparameters; `schedule(step,
    hparams)` is the learning rate; `accumulate` cuts the global batch into that many microbatches.
    """
    gradients = _whole(loss) if accumulate == 1 else _accumulated(loss, accumulate, policy)

    def step(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        rows = batch["weight"].shape[0]
        keys = rng.row_keys(jax.random.fold_in(state.key, state.step), rows)
        scale = state.loss_scale.scale
        grads, terms, model_state, aux = gradients(state.params, state.model_state, batch, state.hparams, keys, scale)
        grads = jax.tree.map(lambda g: g.astype(policy.accumulate) / scale, grads)  # before the norm, hence the clip
        grad_norm = optax.tree.norm(grads)
        clip = jnp.minimum(1.0, state.hparams["clip_norm"] / jnp.maximum(grad_norm, 1e-12))
        learning_rate = schedule(state.step, state.hparams)
        transform = optimizer({**state.hparams, "learning_rate": learning_rate})

        def update(params, opt_state, ema):  # type: ignore[no-untyped-def]
            clipped = jax.tree.map(lambda g: g * clip, grads)
            updates, opt_state = transform.update(clipped, opt_state, params)
            params = jax.tree.map(lambda p, u: p + u.astype(p.dtype), params, updates)
            if ema is not None:
                rate = 1.0 - state.hparams["ema_decay"]
                ema = jax.tree.map(lambda e, p: e + rate * (p - e), ema, params)
            return params, opt_state, ema

        total = weighted_total(terms, {name: term.weight for name, term in terms.items()})
        # Finite gradients and finite hyperparameters give finite updates, so these need no pass of their own.
        numbers = (total, grad_norm, clip, learning_rate, *_all_but(state.hparams, "clip_norm"))
        finite = jnp.isfinite(jnp.stack(numbers)).all() & _finite(model_state)
        taken, guard, seen = state.guard.judge(finite, total, grad_norm, state.hparams)
        # A branch, not a select: with a select the new parameters and the old moments are alive at once, and the compiler
        # copies every one of them instead of updating in place. Under vmap it becomes a select by itself.
        kept = (state.params, state.opt_state, state.ema)
        params, opt_state, ema = jax.lax.cond(taken, update, lambda *kept: kept, *kept)
        model_state = jax.tree.map(lambda a, b: jnp.where(taken, a, b), model_state, state.model_state)
        new = State(
            step=state.step + 1,
            cursor=state.cursor + 1,
            skipped=state.skipped + jnp.where(taken, 0, 1),
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            ema=ema,
            loss_scale=state.loss_scale.adjust(finite),
            hparams=state.hparams,
            key=state.key,
            guard=guard,
        )
        metrics = {
            "loss": total,
            "grad_norm": grad_norm,
            "learning_rate": learning_rate,
            "loss_scale": jnp.float32(scale),
            "skipped": new.skipped,
            **seen,
        }
        named = {name: term.mean for name, term in {**terms, **aux}.items()}
        if twice := sorted(metrics.keys() & named.keys()):
            raise UserError(
                f"a loss term must not be called {twice[0]!r}", where="loss", fix="The step reports that name."
            )
        return new, {**metrics, **named}

    return step


def weighted_total(terms: Terms, weights: dict[str, jax.Array]) -> jax.Array:
    """The loss: each term over its global weight. A term with no weight at all counts zero, not NaN."""
    return sum(
        (t.coefficient * t.sum / jnp.where(weights[name] > 0, weights[name], 1.0) for name, t in terms.items()),
        start=jnp.float32(0.0),
    )


def _whole(loss: Loss) -> Gradients:
    """Gradients of the whole batch in one backward pass."""

    def gradients(params, model_state, batch, hparams, keys, scale):  # type: ignore[no-untyped-def]
        def objective(params):  # type: ignore[no-untyped-def]
            terms, new, aux = loss(params, model_state, batch, hparams, keys, True)
            weights = {name: jax.lax.stop_gradient(term.weight) for name, term in terms.items()}
            return weighted_total(terms, weights) * scale, (terms, new, aux)

        grads, (terms, new, aux) = jax.grad(objective, has_aux=True)(params)
        return grads, terms, new, aux

    return gradients


def _accumulated(loss: Loss, count: int, policy: Policy) -> Gradients:
    """Gradients summed over `count` microbatches, each spread over all devices.

    The cotangent of every microbatch is scale / *global* weight, so the sum is the gradient of the whole batch however
    unequal the microbatches are, and a backward pass of a raw sum never overflows float16.
    """

    def gradients(params, model_state, batch, hparams, keys, scale):  # type: ignore[no-untyped-def]
        # Weights depend on the batch alone: of this first call only they are used, the compiler drops the rest.
        whole = loss(params, model_state, batch, hparams, keys, True)[0]
        for name, term in whole.items():
            if not term.decomposable:
                raise UserError(
                    f"loss term {name!r} couples the rows of a batch and cannot be accumulated",
                    where=f"accumulate {count}",
                    fix="Use accumulate 1, or a mesh with more devices.",
                )
        weights = {name: jax.lax.stop_gradient(term.weight) for name, term in whole.items()}

        def micro(total, xs):  # type: ignore[no-untyped-def]
            rows, row_keys = xs

            def objective(params):  # type: ignore[no-untyped-def]
                terms, new, aux = loss(params, model_state, rows, hparams, row_keys, True)
                return weighted_total(terms, weights) * scale, (terms, new, aux)

            grads, outputs = jax.grad(objective, has_aux=True)(params)
            return jax.tree.map(lambda a, g: a + g.astype(a.dtype), total, grads), outputs

        zero = jax.tree.map(lambda p: jnp.zeros(p.shape, policy.accumulate), params)
        cut = jax.tree.map(lambda x: _cut(x, count), (batch, keys))
        grads, (terms, states, aux) = jax.lax.scan(micro, zero, cut)
        # Every microbatch starts from the step's model state; their mean is one update of the running statistics.
        new = jax.tree.map(lambda s: s.mean(0) if jnp.issubdtype(s.dtype, jnp.floating) else s[-1], states)
        return grads, _summed(terms), new, _summed(aux)

    return gradients


def _summed(terms: Terms) -> Terms:
    """Terms stacked over microbatches, as terms of the whole batch."""
    return {
        name: dataclasses.replace(t, sum=t.sum.sum(), weight=t.weight.sum(), coefficient=jnp.mean(t.coefficient))
        for name, t in terms.items()
    }


def _cut(x: jax.Array, count: int) -> jax.Array:
    """[rows, ...] -> [count, rows / count, ...], strided so that no row changes its device."""
    rows = x.shape[0]
    if rows % count:
        raise UserError(
            f"a batch of {rows} rows cannot be cut into {count} equal microbatches",
            where=f"accumulate {count}",
            fix="Choose a divisor of the batch size.",
        )
    x = x.reshape(rows // count, count, *x.shape[1:]).swapaxes(0, 1)
    return constrain(x, None, "batch", *[None] * (x.ndim - 2))


def _all_but(hparams: dict[str, Any], name: str) -> list[jax.Array]:
    return [jnp.asarray(value, jnp.float32) for key, value in hparams.items() if key != name]


def _finite(tree: Any) -> jax.Array:
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.all(jnp.array([jnp.isfinite(x).all() for x in floats])) if floats else jnp.bool_(True)
