"""GPT-2 (Radford et al., Language Models are Unsupervised Multitask Learners, 2019).

Names, initialisation and arithmetic are those of the released model: pre-norm blocks, learned positions, tanh GELU, the
output tied to the token embedding. One difference of layout: the columns of `c_attn` are ordered by head, [head, q|k|v,
size] instead of [q|k|v, head, size], so that a tensor-parallel mesh cuts between heads; see `gpt2_family` for folders.
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
from lepjax.core.fields import hparam, later, runtime
from lepjax.core.functional import Functional
from lepjax.core.parameters import Leaves
from lepjax.core.precision import Policy
from lepjax.core.remat import check_remat
from lepjax.core.sharding import constrain
from lepjax.models import pretrained, weights
from lepjax.models.gpt2_family import EPS, Gpt2Architecture, architecture, with_biases
from lepjax.models.layers import by_token, embedding, linear, look_up, make_layers, run_layers
from lepjax.models.model import Model, check_rate, check_sizes
from lepjax.models.mup import Mup, folded, logits_factor, parametrised, query_factor, scaled
from lepjax.ops.attention import attention
from lepjax.ops.dropout import OFF, Dropout
from lepjax.ops.sight import Sight

Cache = dict[str, jax.Array]  # key and value, [layers, rows, positions, heads, size]


@dataclasses.dataclass(frozen=True)
class Gpt2(Model):
    """GPT-2; the defaults are the 124M model. With `pretrained`, its config.json decides the sizes."""

    pretrained: str = ""
    """A folder in Hugging Face's layout, or owner/repository[@revision] of the hub; empty: random weights."""
    vocab_size: int = 50257
    """Number of tokens."""
    context: int = 1024
    """Longest sequence."""
    layers: int = 12
    """Number of blocks."""
    heads: int = 12
    """Attention heads per block."""
    width: int = 768
    """Size of the residual stream."""
    bias: bool = True
    """Biases in projections and layer norms, as GPT-2 has them; nanoGPT leaves them out."""
    dropout: float | None = hparam(None)
    """Dropout rate on embeddings, attention and both sublayers; None removes it from the program."""
    scan: bool = runtime(True)
    """Compile one block and scan it, instead of unrolling all."""
    remat: str = runtime("none")
    """What each block recomputes in the backward pass: none, full, dots, all_dots or offload; see `core.remat`."""
    mup: Mup | None = later(None)
    """The base whose hyperparameters serve this width (`models.mup`); None: the released model's parametrisation."""

    def __post_init__(self) -> None:
        if self.pretrained:
            self._take_sizes()
        check_sizes(self, ("vocab_size", "context", "layers", "heads", "width"), "model")
        check_rate(self.dropout)
        check_remat(self.remat)
        if self.width % self.heads:
            raise UserError(f"width {self.width} is not a multiple of {self.heads} heads", where="model.width")

    def _take_sizes(self) -> None:
        """Those of config.json. They go into the fields, so that whoever asks for one is told the truth."""
        if not self.bias:
            raise UserError("pretrained GPT-2 has biases", where="model.bias", fix="Leave it true.")
        if self.mup:
            raise UserError("pretrained GPT-2 is not in muP", where="model.mup", fix="Leave it out.")
        folder = hub.folder(self.pretrained)
        arch = architecture(pretrained.read_config(folder), str(folder / pretrained.CONFIG))
        for name, size in dataclasses.asdict(arch).items():
            object.__setattr__(self, name, size)

    @property
    def arch(self) -> Gpt2Architecture:
        """The sizes alone."""
        return Gpt2Architecture(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Gpt2Architecture)})

    def module(self, policy: Policy, rngs: nnx.Rngs) -> nnx.Module:
        return Gpt2Module(self, policy, rngs)

    def build(self, policy: Policy) -> Functional:
        def sized(width: int, heads: int) -> Leaves:
            return dataclasses.replace(self, width=width, heads=heads, mup=None).build(policy).leaves

        return parametrised(super().build(policy), self.mup, sized)

    @property
    def stacks(self) -> tuple[tuple[str, ...], ...]:
        return (("h",),) if self.scan else ()

    @property
    def activations(self) -> dict[str, int]:
        return {"heads": self.heads}

    def hparams(self) -> dict[str, float]:
        return {} if self.dropout is None else {"dropout": self.dropout}

    def weights(self, leaves: Leaves) -> dict[str, Any]:
        if not self.pretrained:
            return {}
        return weights.read(hub.folder(self.pretrained), leaves, self.arch.naming).values

    def folder(self, params: Any, leaves: Leaves) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        rates = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), self.dropout or 0.0)
        if self.mup:
            columns = np.ones((self.heads, 3, self.width // self.heads), np.float32)
            columns[:, 0] = query_factor(self.mup, self.width, self.heads)
            factors = {r"\.c_attn\.": columns.reshape(-1), r"^ln_f\.": logits_factor(self.mup, self.width)}
            params = folded(params, leaves, factors)
        return {**self.arch.config(), **rates}, with_biases(weights.write(params, leaves, self.arch.naming))

    def flops_per_token(self, length: int) -> float:
        """6 per matrix parameter (the tied output counts, embedding look-ups do not) plus 12 * layers * width * length
        for attention: PaLM (Chowdhery et al., 2022), appendix B. The causal mask saves nothing in this count.
        """
        matrices = self.layers * 12 * self.width**2 + self.vocab_size * self.width
        return 6.0 * matrices + 12.0 * self.layers * self.width * length


class Gpt2Module(nnx.Module):
    """tokens int32[rows, length] -> logits [rows, length, vocabulary] (float32)."""

    def __init__(self, config: Gpt2, policy: Policy, rngs: nnx.Rngs) -> None:
        self.config = config
        self.accumulate = policy.accumulate
        self.wte = embedding(config.vocab_size, config.width, "vocab", policy, rngs)
        self.wpe = embedding(config.context, config.width, "position", policy, rngs)
        self.h = make_layers(lambda r: Block(config, policy, r), config.layers, config.scan, rngs)
        self.ln_f = _layer_norm(config, policy, rngs)

    def __call__(
        self,
        tokens: jax.Array,
        *,
        segments: jax.Array | None = None,
        drop: Dropout = OFF,
        cache: Cache | None = None,
        offset: jax.Array | int = 0,
    ) -> Any:
        """With `segments` (int32[rows, length]) packed examples do not see each other. With a `cache` the tokens stand at
        `offset` and following, and `(logits, cache)` is returned.
        """
        length = tokens.shape[1]
        if length > self.config.context:
            raise UserError(
                f"{length} tokens are more than the model's context of {self.config.context}",
                where="model.context",
                fix="Shorten the sequences or build the model with a longer context.",
            )
        x = look_up(self.wte, tokens) + self.wpe(offset + jnp.arange(length))
        x = constrain(drop.at(0)(x), "batch", "length", None)
        sight = Sight(causal=True, offset=offset, segments=None if segments is None else (segments, segments))

        def block(layer: Block, x: jax.Array, index: Any, kv: Any) -> tuple[jax.Array, Any]:
            return layer(x, sight, drop.at(1 + index), kv, offset)

        x, cache_out = run_layers(self.h, x, block, cache, self.config.remat)
        x = scaled(self.ln_f(x), logits_factor(self.config.mup, self.config.width))
        table = self.wte.embedding[...].astype(x.dtype)
        logits = by_token(lambda x: jnp.einsum("...d,vd->...v", x, table, preferred_element_type=self.accumulate), x)
        logits = constrain(logits, "batch", "length", "vocab")
        return logits if cache is None else (logits, cache_out)

    def empty_cache(self, rows: int, length: int) -> Cache:
        size = self.config.width // self.config.heads
        shape = (self.config.layers, rows, length, self.config.heads, size)
        dtype = self.wte.dtype
        return {"key": jnp.zeros(shape, dtype), "value": jnp.zeros(shape, dtype)}


class Block(nnx.Module):
    """Attention and MLP, each behind a layer norm and added to the stream."""

    def __init__(self, config: Gpt2, policy: Policy, rngs: nnx.Rngs) -> None:
        self.ln_1 = _layer_norm(config, policy, rngs)
        self.attn = Attention(config, policy, rngs)
        self.ln_2 = _layer_norm(config, policy, rngs)
        self.mlp = Mlp(config, policy, rngs)

    def __call__(self, x: jax.Array, sight: Sight, drop: Dropout, kv: Any, offset: Any) -> tuple[jax.Array, Any]:
        attended, kv = self.attn(self.ln_1(x), sight, drop.at(0), kv, offset)
        x = constrain(x + drop.at(1)(attended), "batch", "length", None)
        x = constrain(x + drop.at(2)(self.mlp(self.ln_2(x))), "batch", "length", None)
        return x, kv


class Attention(nnx.Module):
    """Multi-head self-attention with one fused projection."""

    def __init__(self, config: Gpt2, policy: Policy, rngs: nnx.Rngs) -> None:
        self.heads = config.heads
        self.query_factor = query_factor(config.mup, config.width, config.heads)
        self.c_attn = linear(config.width, 3 * config.width, ("embed", "heads"), policy, rngs, config.bias)
        std = _residual_std(config)
        self.c_proj = linear(config.width, config.width, ("heads", "embed"), policy, rngs, config.bias, std)

    def __call__(self, x: jax.Array, sight: Sight, drop: Dropout, kv: Any, offset: Any) -> tuple[jax.Array, Any]:
        rows, length, width = x.shape
        qkv = by_token(self.c_attn, x).reshape(rows, length, self.heads, 3, width // self.heads)
        # Split, not sliced: the gradient is then one concatenation instead of three padded arrays and two sums.
        parts = (part.squeeze(3) for part in jnp.split(qkv, 3, axis=3))
        query, key, value = (constrain(part, "batch", "length", "heads", None) for part in parts)
        if kv is not None:
            key = jax.lax.dynamic_update_slice_in_dim(kv["key"], key, offset, axis=1)
            value = jax.lax.dynamic_update_slice_in_dim(kv["value"], value, offset, axis=1)
            kv = {"key": key, "value": value}
        out = attention(scaled(query, self.query_factor), key, value, sight=sight, drop=drop)
        return by_token(self.c_proj, out.reshape(rows, length, width)), kv


class Mlp(nnx.Module):
    """Four times as wide inside, tanh GELU."""

    def __init__(self, config: Gpt2, policy: Policy, rngs: nnx.Rngs) -> None:
        self.c_fc = linear(config.width, 4 * config.width, ("embed", "mlp"), policy, rngs, config.bias)
        std = _residual_std(config)
        self.c_proj = linear(4 * config.width, config.width, ("mlp", "embed"), policy, rngs, config.bias, std)

    def __call__(self, x: jax.Array) -> jax.Array:
        return by_token(lambda x: self.c_proj(jax.nn.gelu(self.c_fc(x), approximate=True)), x)


def _residual_std(config: Gpt2) -> float:
    return 0.02 / (2 * config.layers) ** 0.5  # the stream sums 2 * layers of these


def _layer_norm(config: Gpt2, policy: Policy, rngs: nnx.Rngs) -> nnx.LayerNorm:
    metadata: dict[str, Any] = {"axes": ("embed",)}
    return nnx.LayerNorm(
        config.width,
        epsilon=EPS,
        use_bias=config.bias,
        dtype=policy.compute,
        param_dtype=policy.param,
        scale_metadata=metadata,
        bias_metadata=metadata,
        rngs=rngs,
    )
