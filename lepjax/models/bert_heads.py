"""Heads on an encoder. Logits are float32 and come without a softmax."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from lepjax.core.errors import UserError
from lepjax.core.precision import Policy
from lepjax.core.sharding import constrain
from lepjax.models.bert import ACTIVATIONS, Head, layer_norm
from lepjax.models.bert_family import Architecture
from lepjax.models.layers import by_token, linear
from lepjax.models.model import LARGEST
from lepjax.models.mup import scaled
from lepjax.ops.dropout import Dropout


@dataclasses.dataclass(frozen=True)
class SequenceClassification(Head):
    """Logits [rows, num_labels] per sequence ([rows, examples, num_labels] where rows are packed); 1 label: regression."""

    num_labels: int = 2
    """Classes; 1 for regression."""
    reads_tokens: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check(self.num_labels)

    def module(self, arch: Architecture, policy: Policy, rngs: nnx.Rngs) -> nnx.Module:
        return Classifier(arch, self.num_labels, "pooled", policy, rngs)


@dataclasses.dataclass(frozen=True)
class TokenClassification(Head):
    """Logits [rows, length, num_labels], a label per token."""

    num_labels: int = 2
    """Tags."""
    pooled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check(self.num_labels)

    def module(self, arch: Architecture, policy: Policy, rngs: nnx.Rngs) -> nnx.Module:
        return Classifier(arch, self.num_labels, "hidden", policy, rngs)


@dataclasses.dataclass(frozen=True)
class MultipleChoice(Head):
    """Scores [rows, choices]; tokens are [rows, choices, length]."""

    reads_tokens: ClassVar[bool] = False

    def module(self, arch: Architecture, policy: Policy, rngs: nnx.Rngs) -> nnx.Module:
        return Classifier(arch, 1, "pooled", policy, rngs)


@dataclasses.dataclass(frozen=True)
class QuestionAnswering(Head):
    """Logits [rows, length, 2] of where an answer starts and ends."""

    pooled: ClassVar[bool] = False

    def module(self, arch: Architecture, policy: Policy, rngs: nnx.Rngs) -> nnx.Module:
        return Spans(arch, policy, rngs)


@dataclasses.dataclass(frozen=True)
class MaskedLM(Head):
    """Logits [rows, places, vocabulary]; the output matrix is the token embedding."""

    pooled: ClassVar[bool] = False

    def module(self, arch: Architecture, policy: Policy, rngs: nnx.Rngs) -> nnx.Module:
        return MaskedLMHead(arch, policy, rngs, relation=False)


@dataclasses.dataclass(frozen=True)
class NextSentence(Head):
    """Logits [rows, 2]: 0 where the second sentence follows the first."""

    reads_tokens: ClassVar[bool] = False

    def module(self, arch: Architecture, policy: Policy, rngs: nnx.Rngs) -> nnx.Module:
        _check_relation(arch)
        return Relation(arch, policy, rngs)


@dataclasses.dataclass(frozen=True)
class PreTraining(Head):
    """Both: (masked-LM logits, next-sentence logits); for ALBERT the second is sentence order."""

    def module(self, arch: Architecture, policy: Policy, rngs: nnx.Rngs) -> nnx.Module:
        _check_relation(arch)
        return MaskedLMHead(arch, policy, rngs, relation=True)


def _check(labels: int) -> None:
    if not 1 <= labels <= LARGEST:
        raise UserError(f"{labels}", where="model.head.num_labels", fix=f"Use 1 to {LARGEST}.")


def _check_relation(arch: Architecture) -> None:
    if not any(ours == "head.relation." for ours, _ in arch.head_renames):
        raise UserError(f"{arch.hf_class} has no next-sentence head", where="model.head", fix="Use BERT or ALBERT.")


class Classifier(nnx.Module):
    """Dropout and one dense layer, on the pooled sequence or on every token."""

    def __init__(self, arch: Architecture, labels: int, reads: str, policy: Policy, rngs: nnx.Rngs) -> None:
        self.reads_pooled, self.accumulate = reads == "pooled", policy.accumulate
        self.classifier = linear(arch.width, labels, ("embed", None), policy, rngs)

    def __call__(self, hidden: jax.Array, pooled: Any, table: nnx.Embed, drop: Dropout) -> jax.Array:
        x = drop(pooled if self.reads_pooled else hidden)
        return by_token(self.classifier, x).astype(self.accumulate)


class Spans(nnx.Module):
    def __init__(self, arch: Architecture, policy: Policy, rngs: nnx.Rngs) -> None:
        self.accumulate = policy.accumulate
        self.outputs = linear(arch.width, 2, ("embed", None), policy, rngs)

    def __call__(self, hidden: jax.Array, pooled: Any, table: nnx.Embed, drop: Dropout) -> jax.Array:
        return by_token(self.outputs, hidden).astype(self.accumulate)


class Relation(nnx.Module):
    def __init__(self, arch: Architecture, policy: Policy, rngs: nnx.Rngs) -> None:
        self.accumulate = policy.accumulate
        self.relation = linear(arch.width, 2, ("embed", None), policy, rngs)

    def __call__(self, hidden: jax.Array, pooled: Any, table: nnx.Embed, drop: Dropout) -> jax.Array:
        return self.relation(pooled).astype(self.accumulate)


class Transform(nnx.Module):
    def __init__(self, arch: Architecture, policy: Policy, rngs: nnx.Rngs) -> None:
        self.activation = ACTIVATIONS[arch.head_activation or arch.activation]
        self.dense = linear(arch.width, arch.embedding_width, ("embed", None), policy, rngs)
        self.norm = layer_norm(arch.embedding_width, arch, policy, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.activation(self.dense(x)))


class MaskedLMHead(nnx.Module):
    """A dense layer, then the token embedding as output matrix; with `relation`, sentence logits as well."""

    def __init__(self, arch: Architecture, policy: Policy, rngs: nnx.Rngs, relation: bool) -> None:
        self.accumulate = policy.accumulate
        self.factor = arch.logits_factor
        self.transform = Transform(arch, policy, rngs)
        self.bias = nnx.Param(jnp.zeros(arch.vocab_size, policy.param), axes=("vocab",))
        if relation:
            self.relation = linear(arch.width, 2, ("embed", None), policy, rngs)

    def __call__(self, hidden: jax.Array, pooled: Any, table: nnx.Embed, drop: Dropout) -> Any:
        x = scaled(by_token(self.transform, hidden), self.factor)
        matrix = table.embedding[...].astype(x.dtype)
        logits = by_token(lambda x: jnp.einsum("...d,vd->...v", x, matrix, preferred_element_type=self.accumulate), x)
        logits = constrain(logits + self.bias[...], "batch", None, "vocab")
        if not hasattr(self, "relation"):
            return logits
        return logits, self.relation(pooled).astype(self.accumulate)
