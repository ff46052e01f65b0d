"""Optimizers in one call, under the names people know: `optimizers.adamw(lr=5e-5)` is the recipe `AdamW(...)`."""

from __future__ import annotations

from typing import Any

from lepjax.core.optimizers import SGD, Adafactor, Adagrad, Adam, AdamW, Lion, Muon
from lepjax.core.schedules import Constant, Cosine, Exponential, InverseSqrt, Linear, Schedule, WarmupStableDecay

__all__ = ["adafactor", "adagrad", "adam", "adamw", "layer_decay", "lion", "muon", "sgd"]
__all__ += ["Constant", "Cosine", "Exponential", "InverseSqrt", "Linear", "WarmupStableDecay"]


def adamw(lr: float = 5e-5, schedule: Schedule = Linear(warmup=0.06), clip_norm: float = 1.0, **options: Any) -> AdamW:
    """AdamW as fine-tuning uses it: linear decay after 6 % of warmup, gradients clipped at a global norm of 1."""
    return AdamW(learning_rate=lr, schedule=schedule, clip_norm=clip_norm, **options)


def adam(lr: float = 1e-3, **options: Any) -> Adam:
    return Adam(learning_rate=lr, **options)


def sgd(lr: float = 1e-2, **options: Any) -> SGD:
    return SGD(learning_rate=lr, **options)


def adagrad(lr: float = 1e-2, **options: Any) -> Adagrad:
    return Adagrad(learning_rate=lr, **options)


def lion(lr: float = 1e-4, **options: Any) -> Lion:
    return Lion(learning_rate=lr, **options)


def adafactor(lr: float = 1e-2, **options: Any) -> Adafactor:
    return Adafactor(learning_rate=lr, **options)


def muon(lr: float = 2e-3, **options: Any) -> Muon:
    return Muon(learning_rate=lr, **options)


def layer_decay(decay: float, layers: int, prefix: str = "encoder.layer") -> tuple[tuple[str, float], ...]:
    """`lr_multipliers` that shrink the learning rate by `decay` per layer from the top down (Howard and Ruder, 2018).

    The head and the pooler keep the full rate, layer i gets decay^(layers - i), the embeddings decay^(layers + 1).
    """
    below = [(rf"^{prefix}\.{i}\.", decay ** (layers - i)) for i in range(layers)]
    return (("^embeddings", decay ** (layers + 1)), *below)
