"""What every model family offers: a recipe that builds pure functions."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from flax import nnx

from lepjax.core.errors import UserError
from lepjax.core.functional import Functional, functional
from lepjax.core.parameters import Leaves
from lepjax.core.precision import Policy

LARGEST = 2**31 - 1  # indices are int32
DEEPEST = 10_000  # layers: each has a name


@dataclasses.dataclass(frozen=True)
class Model:
    """A recipe of a model. To add a family, write a file with a dataclass that derives from this one."""

    def module(self, policy: Policy, rngs: nnx.Rngs) -> nnx.Module:
        """The architecture, computing in `policy.compute`, with parameters in `policy.param`."""
        raise TypeError(f"{type(self).__name__} must define module")

    @property
    def stacks(self) -> tuple[tuple[str, ...], ...]:
        """Paths below which layers are stacked for a scan."""
        return ()

    @property
    def activations(self) -> dict[str, int]:
        """Sizes of logical axes that activations have and no parameter shows, such as the number of heads."""
        return {}

    def hparams(self) -> dict[str, float]:
        """Initial values of hyperparameters the model reads (dropout rates)."""
        return {}

    def flops_per_token(self, length: int) -> float:
        """Floating-point operations of one forward and backward pass, per token of a sequence (per record, where
        records have no tokens); 0 if not known.
        """
        return 0.0

    def weights(self, leaves: Leaves) -> dict[str, Any]:
        """Values that replace initial parameters: {leaf name: array of the leaf's shape}."""
        return {}

    def folder(self, params: Any, leaves: Leaves) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """(config.json, {name: array}) of these parameters as transformers has them, for families that it knows."""
        found = f"{type(self).__name__} has no form that transformers loads"
        raise UserError(found, where="model", fix="Define its method `folder`.")

    def build(self, policy: Policy) -> Functional:
        return functional(lambda rngs: self.module(policy, rngs), self.stacks)


def check_sizes(recipe: Any, names: tuple[str, ...], where: str) -> None:
    """Raises `UserError` for a size below 1, or of more than `LARGEST` (layers: `DEEPEST`)."""
    for name in names:
        size, most = getattr(recipe, name), DEEPEST if name == "layers" else LARGEST
        if not 1 <= size <= most:
            raise UserError(f"{size}", where=f"{where}.{name}", fix=f"Use 1 to {most}.")


def check_rate(rate: float | None, where: str = "model.dropout") -> None:
    """Raises `UserError` for what is no dropout rate."""
    if rate is not None and not 0.0 <= rate <= 1.0:
        raise UserError(f"{rate} is no rate", where=where, fix="Use None or 0.0 to 1.0.")
