"""A multilayer perceptron on plain features."""

from __future__ import annotations

import dataclasses
import itertools

import jax
from flax import nnx

from lepjax.core.errors import UserError
from lepjax.core.fields import hparam
from lepjax.core.precision import Policy
from lepjax.core.sharding import constrain
from lepjax.models.bert import ACTIVATIONS
from lepjax.models.layers import linear
from lepjax.models.model import LARGEST, Model, check_rate, check_sizes
from lepjax.ops.dropout import OFF, Dropout


@dataclasses.dataclass(frozen=True)
class Mlp(Model):
    """Dense layers with an activation between them; the defaults fit `data.digits`."""

    features: int = 64
    """Numbers per record."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers; empty: a linear model (logistic regression)."""
    num_labels: int = 10
    """Classes; 1 for regression."""
    activation: str = "relu"
    """gelu (exact), gelu_tanh, relu or tanh."""
    dropout: float | None = hparam(None)
    """Dropout rate after each hidden layer; None removes it from the program."""

    def __post_init__(self) -> None:
        check_sizes(self, ("features", "num_labels"), "model")
        if not all(1 <= width <= LARGEST for width in self.hidden):
            raise UserError(f"{self.hidden}", where="model.hidden", fix=f"Use widths of 1 to {LARGEST}.")
        if self.activation not in ACTIVATIONS:
            raise UserError(f"{self.activation!r}", where="model.activation", fix=f"Use {', '.join(ACTIVATIONS)}.")
        check_rate(self.dropout)

    @property
    def layers(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of every dense layer."""
        return list(itertools.pairwise((self.features, *self.hidden, self.num_labels)))

    def module(self, policy: Policy, rngs: nnx.Rngs) -> nnx.Module:
        return MlpModule(self, policy, rngs)

    def hparams(self) -> dict[str, float]:
        return {} if self.dropout is None else {"dropout": self.dropout}

    def flops_per_token(self, length: int) -> float:
        """6 per weight and record; 4 in the first layer, whose input needs no gradient."""
        sizes = [inputs * outputs for inputs, outputs in self.layers]
        return 6.0 * sum(sizes) - 2.0 * sizes[0]


class MlpModule(nnx.Module):
    """features float32[rows, features] -> logits [rows, num_labels] (float32)."""

    def __init__(self, config: Mlp, policy: Policy, rngs: nnx.Rngs) -> None:
        self.config, self.accumulate, self.compute = config, policy.accumulate, policy.compute
        *inner, (inputs, outputs) = config.layers
        # Layers are cut like the two halves of a transformer's: columns of one, rows of the next.
        axes = tuple(itertools.islice(itertools.cycle(("embed", "mlp")), len(config.layers)))
        gain = 2.0 if config.activation == "relu" else 1.0  # He et al. (2015); LeCun et al. (1998)
        self.hidden = nnx.List(
            [
                linear(fan_in, fan_out, pair, policy, rngs, std=(gain / fan_in) ** 0.5)
                for (fan_in, fan_out), pair in zip(inner, itertools.pairwise(axes), strict=True)
            ]
        )
        self.classifier = linear(inputs, outputs, (axes[-1], None), policy, rngs, std=inputs**-0.5)

    def __call__(self, features: jax.Array, *, drop: Dropout = OFF) -> jax.Array:
        x = features.astype(self.compute)
        for i, layer in enumerate(self.hidden):
            x = constrain(drop.at(i)(ACTIVATIONS[self.config.activation](layer(x))), "batch", None)
        return self.classifier(x).astype(self.accumulate)
