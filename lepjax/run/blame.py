"""What made a step not finite: the number, the record, the module or the gradient, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lepjax.core import parameters, rng
from lepjax.core.errors import UserError
from lepjax.core.step import weighted_total
from lepjax.data.source import Rows
from lepjax.experiment import Built
from lepjax.run.backward import first_in_backward, order_of_use, stacked
from lepjax.run.debug import watch_modules
from lepjax.run.provenance import of_record, shortened, text_of
from lepjax.run.replay import Skipped

SHOWN = 8  # records
LOWER = 24  # halvings of the loss scale that are tried


def blame(built: Built, step: Skipped) -> Iterator[str]:
    """Lines for a person, the plainest cause first."""
    state = step.state
    for what in ("params", "model_state", "hparams"):
        yield from _not_finite(what, getattr(state, what))
    if not np.isfinite(step.scale):
        yield f"the loss scale is {step.scale}"
    if not np.isfinite(step.learning_rate):
        yield f"the learning rate is {step.learning_rate}"
    rows = Alone(built, step)
    bad = [row for row in range(rows.count) if not rows.finite(row)]
    if not bad:
        yield f"each of the {rows.count} records alone gives a finite loss and gradient: only together they do not"
        return
    if lower := rows.lower_scale(bad):
        yield f"float16 overflows at the loss scale {step.scale:g}; at {lower:g} all is finite"
    else:
        yield rows.origin(bad[0])
    if len(bad) == rows.count > 1:
        yield f"all {rows.count} records of the batch alone are not finite, so it is hardly the data"
        return
    yield f"{len(bad)} of the {rows.count} records of the batch alone are not finite:"
    yield from (rows.told(row) for row in bad[:SHOWN])
    if bad[SHOWN:]:
        yield f"  and {len(bad) - SHOWN} more"


def _not_finite(what: str, tree: Any) -> Iterator[str]:
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        count = int(jnp.sum(~jnp.isfinite(x))) if jnp.issubdtype(x.dtype, jnp.inexact) else 0
        if count:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            yield f"{what}.{name} was not finite before the step: {count} of {x.size} values"


class Alone:
    """Each row of the step's batch alone, through loss and gradient: with its own key, and weighted as in the batch."""

    def __init__(self, built: Built, step: Skipped) -> None:
        self.built, self.step, self.state = built, step, step.state
        ids, epochs = built.plan.batch(step.cursor)
        known = (ids >= 0).reshape(len(ids), -1).any(axis=1)
        self.places = np.flatnonzero(known)  # padding is no record
        self.ids, self.epochs = ids[known], epochs[known]
        keys = rng.row_keys(jax.random.fold_in(self.state.key, step.step - 1), len(ids))
        self.keys = [keys[place : place + 1] for place in self.places]
        self.rows = [{name: x[place : place + 1] for name, x in step.rows.items()} for place in self.places]
        self._run = jax.jit(self._loss_and_gradient)
        self.weights = {name: jnp.float32(1.0) for name in jax.eval_shape(self._terms, *self._inputs(0))}
        parts = [self.result(row)["weights"] for row in range(self.count)]
        self.weights = {name: jnp.float32(sum(part[name] for part in parts)) for name in self.weights}

    @property
    def count(self) -> int:
        return len(self.places)

    def _inputs(self, row: int) -> tuple[Any, Rows, jax.Array]:
        model = (self.state.params, self.state.model_state, self.state.hparams)
        return model, self.rows[row], self.keys[row]

    def _terms(self, model: Any, row: Any, key: Any) -> Any:
        params, model_state, hparams = model
        return self.built.loss(params, model_state, row, hparams, key, True)[0]

    def _loss_and_gradient(self, model: Any, row: Any, key: Any, weights: Any, scale: Any) -> dict[str, Any]:
        params, model_state, hparams = model

        def objective(params: Any) -> Any:
            terms, new, _ = self.built.loss(params, model_state, row, hparams, key, True)
            total = weighted_total(terms, weights)
            return total * scale, (total, terms, new)

        grads, (total, terms, new) = jax.grad(objective, has_aux=True)(params)
        grads = jax.tree.map(lambda g: g.astype(self.built.policy.accumulate) / scale, grads)
        floats = [x for x in jax.tree.leaves(new) if jnp.issubdtype(x.dtype, jnp.floating)]
        return {
            "loss": total,
            "grad_norm": optax.tree.norm(grads),
            "model_state": jnp.all(jnp.array([jnp.isfinite(x).all() for x in floats])),
            "terms": {name: term.sum for name, term in terms.items()},
            "weights": {name: term.weight for name, term in terms.items()},
            "gradients": jax.tree.map(_flags, self.built.model.leaves, grads, is_leaf=parameters.is_leaf),
        }

    def result(self, row: int, scale: float | None = None) -> dict[str, Any]:
        scale = self.step.scale if scale is None else scale
        return jax.device_get(self._run(*self._inputs(row), self.weights, scale))

    def finite(self, row: int, scale: float | None = None) -> bool:
        found = self.result(row, scale)
        return bool(np.isfinite(found["loss"]) and np.isfinite(found["grad_norm"]) and found["model_state"])

    def lower_scale(self, bad: list[int]) -> float | None:
        """The largest scale below the step's, by halves, at which these rows are finite. None: there is none."""
        if self.built.policy.compute != jnp.float16:
            return None
        halves = (self.step.scale / 2.0**n for n in range(1, LOWER))
        return next((scale for scale in halves if all(self.finite(row, scale) for row in bad)), None)

    def origin(self, row: int) -> str:
        """Where the first number that is not finite arises, when this row is computed operation by operation."""
        inputs = self._inputs(row)
        try:
            with jax.disable_jit(), watch_modules(lambda line: None):
                self._terms(*inputs)
        except UserError as error:
            return f"the first module in the forward pass: {error.where.removeprefix('debug: ')}, {error.found}"
        found = self.result(row)
        if not np.isfinite(found["loss"]):
            terms = ", ".join(f"{name} = {x}" for name, x in found["terms"].items() if not np.isfinite(x))
            columns = [name for name, x in self.rows[row].items() if x.dtype.kind == "f" and not np.isfinite(x).all()]
            seen = f"; batch[{columns[0]!r}] of the record is not finite" if columns else ""
            return f"every module's output is finite, the loss is not: {terms or 'the sum of its terms'}{seen}"
        if not found["model_state"]:
            return "the loss is finite, the model's new state (its running statistics) is not"
        if np.any([np.any(flags) for flags in jax.tree.leaves(found["gradients"])]):
            name = first_in_backward(self._used(), self.built.model.leaves, found["gradients"])
            return f"the forward pass is finite, the gradient is not: first, going backward, that of {name}"
        return f"the gradient is finite, its norm is not: {found['grad_norm']}"

    def _used(self) -> list[str]:
        jaxpr = jax.make_jaxpr(self._terms)(*self._inputs(0))
        leaves = jax.tree.leaves(self.built.model.leaves, is_leaf=parameters.is_leaf)
        return order_of_use(jaxpr, {i: leaf.name for i, leaf in enumerate(leaves)})

    def told(self, row: int) -> str:
        ids, epochs = np.atleast_1d(self.ids[row]), np.atleast_1d(self.epochs[row])
        record, epoch = int(ids[ids >= 0][0]), int(epochs[ids >= 0][0])
        named = ", ".join(str(i) for i in ids if i >= 0)
        where = f"  record {named} (row {self.places[row]} of the batch, epoch {epoch})"
        shown = of_record(self.built.source, record, epoch)
        text = shortened(text_of(shown, self.built.splits))
        return f"{where}{f' {shown.where}' if shown.where else ''}{f': {text!r}' if text else ''}"


def _flags(leaf: parameters.Leaf, gradient: jax.Array) -> jax.Array:
    """Whether a gradient is not finite: bool[], or bool[layers] for a stack."""
    axes = tuple(range(int(stacked(leaf)), gradient.ndim))
    return ~jnp.isfinite(gradient).all(axis=axes)
