"""Autoregressive generation with a key-value cache.

One program serves every prompt length and every sampling setting: the prompt is padded to the window, read in one pass
that fills the cache, and the loop runs from the end of the prompt to the end of the window. Longer texts slide: the
last half of a full window is the prompt of the next.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lepjax.core.errors import UserError
from lepjax.core.functional import Functional
from lepjax.ops.sampling import sample


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """Only the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """The smallest set of tokens that reaches this probability."""

    def __post_init__(self) -> None:
        if not self.temperature >= 0 or self.top_k < 0 or not 0 < self.top_p <= 1:  # also refuses NaN
            raise UserError(
                f"temperature {self.temperature}, top-k {self.top_k}, top-p {self.top_p}",
                where="sampling",
                fix="Use temperature >= 0, top-k >= 0 and 0 < top-p <= 1.",
            )


class Generator:
    """Generates from a causal model whose module has `empty_cache(rows, length)` and takes `cache` and `offset`."""

    def __init__(self, model: Functional, context: int) -> None:
        if context < 2:
            raise UserError(f"a context of {context}", where="generate", fix="The window must hold 2 tokens.")
        self.context = context

        def window(params: Any, tokens: jax.Array, start: jax.Array, stop: jax.Array, key: jax.Array, how: Any) -> Any:
            rows = tokens.shape[0]
            cache = model.apply(params, {}, rows, context, method="empty_cache")[0]
            (logits, cache), _ = model.apply(params, {}, tokens, cache=cache)
            last = jax.lax.dynamic_index_in_dim(logits, start - 1, axis=1, keepdims=False)

            def body(i: jax.Array, carry: Any) -> Any:
                tokens, cache, logits = carry
                token = sample(jax.random.fold_in(key, i), logits, *how)
                tokens = jax.lax.dynamic_update_index_in_dim(tokens, token, i, axis=1)
                (logits, cache), _ = model.apply(params, {}, token[:, None], cache=cache, offset=i)
                return tokens, cache, logits[:, 0]

            return jax.lax.fori_loop(start, stop, body, (tokens, cache, last))[0]

        self._window = jax.jit(window)

    def __call__(
        self, params: Any, prompt: np.ndarray, count: int, sampling: Sampling = Sampling(), seed: int = 0
    ) -> np.ndarray:
        """prompt int[rows, length >= 1] -> int32[rows, length + count]. Raises `UserError` for an empty prompt."""
        text = np.asarray(prompt, np.int32)
        if text.ndim != 2 or text.shape[1] == 0:
            raise UserError(f"a prompt of shape {text.shape}", where="generate", fix="Give at least one token.")
        if count < 0:
            raise UserError(f"{count} tokens", where="generate", fix="Ask for at least one.")
        how = (jnp.float32(sampling.temperature), jnp.int32(sampling.top_k), jnp.float32(sampling.top_p))
        key = jax.random.key(seed, impl="threefry2x32")
        end = text.shape[1] + count
        while text.shape[1] < end:
            kept = text if text.shape[1] < self.context else text[:, -max(self.context // 2, 1) :]
            start, stop = kept.shape[1], min(self.context, kept.shape[1] + end - text.shape[1])
            padded = np.zeros((text.shape[0], self.context), np.int32)
            padded[:, :start] = kept
            window_key = jax.random.fold_in(key, text.shape[1])
            out = self._window(params, padded, np.int32(start), np.int32(stop), window_key, how)
            text = np.concatenate([text, np.asarray(out)[:, start:stop]], axis=1)
        return text
