"""Llama (Touvron et al., 2023) and its relatives Qwen 2, Qwen 3 and Mistral, which are the same parts with other sizes.

Pre-norm blocks with RMS norms (Zhang and Sennrich, 2019), rotary positions, grouped-query attention and SwiGLU (Shazeer,
2020). Names of parameters follow Hugging Face's where a folder is read or written; see `llama_family`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lepjax.core import hub
from lepjax.core.errors import UserError
from lepjax.core.fields import hparam, runtime
from lepjax.core.parameters import Leaves
from lepjax.core.precision import Policy
from lepjax.core.remat import check_remat
from lepjax.core.sharding import constrain
from lepjax.models import pretrained, weights
from lepjax.models.layers import by_token, embedding, linear, look_up, make_layers, run_layers
from lepjax.models.llama_family import LlamaArchitecture, MetaArchitecture, architecture
from lepjax.models.model import Model, check_rate
from lepjax.ops.attention import attention
from lepjax.ops.dropout import OFF, Dropout
from lepjax.ops.rope import rotate
from lepjax.ops.sight import Sight

Cache = dict[str, jax.Array]  # key and value, [layers, rows, positions, kv heads, size]


@dataclasses.dataclass(frozen=True)
class Llama(Model):
    """A decoder of the Llama family. With `pretrained`, its config.json decides the architecture."""

    pretrained: str = ""
    """A folder in Hugging Face's or Meta's layout, or owner/repository[@revision] of the hub; empty: random weights."""
    architecture: LlamaArchitecture = LlamaArchitecture()
    """Sizes, where nothing pretrained is named."""
    dropout: float | None = hparam(None)
    """Dropout rate on attention probabilities; None removes it from the program."""
    scan: bool = runtime(True)
    """Compile one block and scan it, instead of unrolling all."""
    remat: str = runtime("none")
    """What each block recomputes in the backward pass: none, full, dots, all_dots or offload; see `core.remat`."""

    def __post_init__(self) -> None:
        check_rate(self.dropout)
        check_remat(self.remat)

    @property
    def arch(self) -> LlamaArchitecture:
        """The architecture, from config.json where `pretrained` names a folder."""
        if not self.pretrained:
            return self.architecture
        folder = hub.folder(self.pretrained)
        return architecture(pretrained.read_config(folder), str(folder / pretrained.CONFIG))

    @property
    def vocab_size(self) -> int:
        return self.arch.vocab_size

    @property
    def context(self) -> int:
        return self.arch.context

    def module(self, policy: Policy, rngs: nnx.Rngs) -> nnx.Module:
        return LlamaModule(self.arch, self.scan, self.remat, policy, rngs)

    @property
    def stacks(self) -> tuple[tuple[str, ...], ...]:
        return (("layers",),) if self.scan else ()

    @property
    def activations(self) -> dict[str, int]:
        return {"heads": self.arch.kv_heads}

    def hparams(self) -> dict[str, float]:
        return {} if self.dropout is None else {"dropout": self.dropout}

    def weights(self, leaves: Leaves) -> dict[str, Any]:
        if not self.pretrained:
            return {}
        return weights.read(hub.folder(self.pretrained), leaves, self.arch.naming).values

    def folder(self, params: Any, leaves: Leaves) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """In Hugging Face's layout, also where Meta's was read."""
        arch = self.arch
        if isinstance(arch, MetaArchitecture):
            arch = LlamaArchitecture(**vars(arch))
        return arch.config(), weights.write(params, leaves, arch.naming)

    def flops_per_token(self, length: int) -> float:
        """6 per matrix parameter (the output counts, tied or not) and 12 * layers * heads * size * length for attention:
        PaLM (Chowdhery et al., 2022), appendix B. Neither the causal mask nor a window saves anything in this count.
        """
        a = self.arch
        attended = 2 * a.width * a.size * (a.heads + a.kv_heads)
        matrices = a.layers * (attended + 3 * a.width * a.mlp_width) + a.vocab_size * a.width
        return 6.0 * matrices + 12.0 * a.layers * a.heads * a.size * length


class LlamaModule(nnx.Module):
    """tokens int32[rows, length] -> logits [rows, length, vocabulary] (float32)."""

    def __init__(self, arch: LlamaArchitecture, scan: bool, remat: str, policy: Policy, rngs: nnx.Rngs) -> None:
        self.arch, self.remat, self.accumulate = arch, remat, policy.accumulate
        self.embed = embedding(arch.vocab_size, arch.width, "vocab", policy, rngs)
        self.layers = make_layers(lambda r: Block(arch, policy, r), arch.layers, scan, rngs)
        self.norm = rms_norm(arch.width, "embed", arch, policy, rngs)
        if not arch.tied:
            self.head = linear(arch.width, arch.vocab_size, ("embed", "vocab"), policy, rngs, bias=False)

    def __call__(
        self,
        tokens: jax.Array,
        *,
        segments: jax.Array | None = None,
        drop: Dropout = OFF,
        cache: Cache | None = None,
        offset: jax.Array | int = 0,
    ) -> Any:
        """With `segments` (int32[rows, length]) packed examples do not see each other; rotary positions count distances
        only, so they need not start anew. With a `cache` the tokens stand at `offset` and following, and
        `(logits, cache)` is returned.
        """
        arch, length = self.arch, tokens.shape[1]
        if length > arch.context:
            raise UserError(
                f"{length} tokens are more than the model's context of {arch.context}",
                where="model.architecture.context",
                fix="Shorten the sequences or build the model with a longer context.",
            )
        keys = length if cache is None else cache["key"].shape[2]
        pair = None if segments is None else (segments, segments)
        sight = Sight(causal=True, window=arch.window, offset=offset, segments=pair)
        turns = arch.rope.turns(offset + jnp.arange(length)[None], arch.size, keys)
        x = constrain(look_up(self.embed, tokens), "batch", "length", None)

        def block(layer: Block, x: jax.Array, index: Any, kv: Any) -> tuple[jax.Array, Any]:
            return layer(x, sight, turns, drop.at(index), kv, offset)

        x, cache_out = run_layers(self.layers, x, block, cache, self.remat)
        x = self.norm(x)
        matrix = self.embed.embedding[...].T if arch.tied else self.head.kernel[...]
        matrix = matrix.astype(x.dtype)
        logits = by_token(lambda x: jnp.matmul(x, matrix, preferred_element_type=self.accumulate), x)
        logits = constrain(logits, "batch", "length", "vocab")
        return logits if cache is None else (logits, cache_out)

    def empty_cache(self, rows: int, length: int) -> Cache:
        shape = (self.arch.layers, rows, length, self.arch.kv_heads, self.arch.size)
        return {"key": jnp.zeros(shape, self.embed.dtype), "value": jnp.zeros(shape, self.embed.dtype)}


class Block(nnx.Module):
    """Attention and feed-forward part, each behind a norm and added to the stream."""

    def __init__(self, arch: LlamaArchitecture, policy: Policy, rngs: nnx.Rngs) -> None:
        self.attention_norm = rms_norm(arch.width, "embed", arch, policy, rngs)
        self.attention = Attention(arch, policy, rngs)
        self.mlp_norm = rms_norm(arch.width, "embed", arch, policy, rngs)
        self.mlp = Mlp(arch, policy, rngs)

    def __call__(
        self, x: jax.Array, sight: Sight, turns: Any, drop: Dropout, kv: Any, offset: Any
    ) -> tuple[jax.Array, Any]:
        attended, kv = self.attention(self.attention_norm(x), sight, turns, drop, kv, offset)
        x = constrain(x + attended, "batch", "length", None)
        return constrain(x + self.mlp(self.mlp_norm(x)), "batch", "length", None), kv


class Attention(nnx.Module):
    """Rotated queries and keys; several query heads share a key head."""

    def __init__(self, arch: LlamaArchitecture, policy: Policy, rngs: nnx.Rngs) -> None:
        self.size, bias = arch.size, arch.qkv_bias
        inside, shared = arch.heads * arch.size, arch.kv_heads * arch.size
        self.query = linear(arch.width, inside, ("embed", "heads"), policy, rngs, bias)
        self.key = linear(arch.width, shared, ("embed", "heads"), policy, rngs, bias)
        self.value = linear(arch.width, shared, ("embed", "heads"), policy, rngs, bias)
        self.output = linear(inside, arch.width, ("heads", "embed"), policy, rngs, bias=False)
        if arch.qk_norm:
            self.query_norm = rms_norm(arch.size, None, arch, policy, rngs)
            self.key_norm = rms_norm(arch.size, None, arch, policy, rngs)

    def __call__(
        self, x: jax.Array, sight: Sight, turns: Any, drop: Dropout, kv: Any, offset: Any
    ) -> tuple[jax.Array, Any]:
        def heads(project: nnx.Linear) -> jax.Array:
            y = by_token(project, x).reshape(*x.shape[:2], -1, self.size)
            return constrain(y, "batch", "length", "heads", None)

        query, key, value = heads(self.query), heads(self.key), heads(self.value)
        if hasattr(self, "query_norm"):
            query, key = self.query_norm(query), self.key_norm(key)
        query, key = rotate(query, *turns), rotate(key, *turns)
        if kv is not None:
            key = jax.lax.dynamic_update_slice_in_dim(kv["key"], key, offset, axis=1)
            value = jax.lax.dynamic_update_slice_in_dim(kv["value"], value, offset, axis=1)
            kv = {"key": key, "value": value}
        out = attention(query, key, value, sight=sight, drop=drop)
        return by_token(self.output, out.reshape(*x.shape[:2], -1)), kv


class Mlp(nnx.Module):
    """SwiGLU: one projection gates the other."""

    def __init__(self, arch: LlamaArchitecture, policy: Policy, rngs: nnx.Rngs) -> None:
        self.gate = linear(arch.width, arch.mlp_width, ("embed", "mlp"), policy, rngs, bias=False)
        self.up = linear(arch.width, arch.mlp_width, ("embed", "mlp"), policy, rngs, bias=False)
        self.down = linear(arch.mlp_width, arch.width, ("mlp", "embed"), policy, rngs, bias=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        return by_token(lambda x: self.down(jax.nn.silu(self.gate(x)) * self.up(x)), x)


def rms_norm(width: int, axis: str | None, arch: LlamaArchitecture, policy: Policy, rngs: nnx.Rngs) -> nnx.RMSNorm:
    return nnx.RMSNorm(
        width,
        epsilon=arch.eps,
        dtype=policy.compute,
        param_dtype=policy.param,
        scale_metadata={"axes": (axis,)},
        rngs=rngs,
    )
