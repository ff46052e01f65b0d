"""BERT (Devlin et al., 2018), and RoBERTa, DistilBERT and ALBERT, which are the same parts with other sizes.

Post-norm encoder layers as in the released models; names of parameters follow Hugging Face's where a name is needed.
The parts of a head that sit on the encoder are here too; what is learned with them is a task's business.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from lepjax.core import hub
from lepjax.core.errors import UserError
from lepjax.core.fields import hparam, runtime
from lepjax.core.functional import Functional
from lepjax.core.parameters import Leaves
from lepjax.core.precision import Policy
from lepjax.core.remat import check_remat
from lepjax.core.sharding import constrain
from lepjax.models import pretrained, weights
from lepjax.models.bert_family import Architecture, BertArchitecture, architecture
from lepjax.models.layers import by_token, embedding, linear, look_up, make_layers, run_layers
from lepjax.models.model import Model, check_rate
from lepjax.models.mup import parametrised, scaled
from lepjax.ops.attention import attention
from lepjax.ops.dropout import OFF, Dropout
from lepjax.ops.sight import Sight

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5)).astype(x.dtype),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
}


@dataclasses.dataclass(frozen=True)
class Pick:
    """Some tokens of each sequence: those at `places` int32[rows, k], or the first one."""

    places: jax.Array | None = None

    def __call__(self, x: jax.Array) -> jax.Array:
        """[rows, length, width] -> [rows, k, width]."""
        return x[:, :1] if self.places is None else gather(x, self.places)

    def looking(self, sight: Sight) -> Sight:
        """What these tokens see, where `sight` is that of all."""
        if sight.segments is None:
            return sight
        mine, theirs = sight.segments
        return dataclasses.replace(sight, segments=(self(mine[..., None])[..., 0], theirs))

    def dropout(self, drop: Dropout, length: int) -> Dropout:
        """Its noise for these tokens of a sequence of `length`: the same as where all of them are computed."""
        return drop.picked(jnp.zeros((1, 1), jnp.int32) if self.places is None else self.places, length)


@dataclasses.dataclass(frozen=True)
class Head:
    """What stands on the encoder. To add one, derive a dataclass and define `module`."""

    pooled: ClassVar[bool] = True  # reads the first token through the pooler
    reads_tokens: ClassVar[bool] = True  # reads hidden states besides

    def module(self, arch: Architecture, policy: Policy, rngs: nnx.Rngs) -> nnx.Module | None:
        """Called as `head(hidden, pooled, table, drop)`; see the modules below. None: no head."""
        return None


@dataclasses.dataclass(frozen=True)
class Bert(Model):
    """An encoder with a head. With `pretrained`, its config.json decides the architecture and its weights are loaded."""

    pretrained: str = ""
    """A folder in the Hugging Face layout, or owner/repository[@revision] of the hub; empty starts from random weights."""
    architecture: Architecture = BertArchitecture()
    """Sizes, where nothing pretrained is named."""
    head: Head = Head()
    """What stands on the encoder."""
    dropout: float | None = hparam(0.1)
    """Dropout rate everywhere; None removes it from the program."""
    scan: bool = runtime(False)
    """Compile one layer and scan it, instead of unrolling all: compiles sooner, runs slower on CPUs."""
    remat: str = runtime("none")
    """What each layer recomputes in the backward pass: none, full, dots, all_dots or offload; see `core.remat`."""

    def __post_init__(self) -> None:
        if self.pretrained and self.architecture.mup:
            found = "pretrained weights are not in muP"
            raise UserError(found, where="model.architecture.mup", fix="Leave it out.")
        check_rate(self.dropout)
        check_remat(self.remat)

    @property
    def arch(self) -> Architecture:
        """The architecture, from config.json where `pretrained` names one."""
        if not self.pretrained:
            return self.architecture
        folder = hub.folder(self.pretrained)
        return architecture(pretrained.read_config(folder), str(folder / pretrained.CONFIG))

    @property
    def vocab_size(self) -> int:
        return self.arch.vocab_size

    def module(self, policy: Policy, rngs: nnx.Rngs) -> nnx.Module:
        return BertModule(self, self.arch, policy, rngs)

    def build(self, policy: Policy) -> Functional:
        def sized(width: int, heads: int) -> Leaves:
            other = self.architecture.resized(width, heads)
            return dataclasses.replace(self, architecture=other).build(policy).leaves

        return parametrised(super().build(policy), self.architecture.mup, sized)

    @property
    def stacks(self) -> tuple[tuple[str, ...], ...]:
        return (("encoder", "layer"),) if self.scan and not self.arch.shares_layers else ()

    @property
    def activations(self) -> dict[str, int]:
        return {"heads": self.arch.heads}

    def hparams(self) -> dict[str, float]:
        return {} if self.dropout is None else {"dropout": self.dropout}

    def weights(self, leaves: Leaves) -> dict[str, Any]:
        """The pretrained values of all parameters but those of a new head; see `weights.read`."""
        if not self.pretrained:
            return {}
        return weights.read(hub.folder(self.pretrained), leaves, self.arch.naming(type(self.head).__name__)).values

    def flops_per_token(self, length: int) -> float:
        """6 per matrix parameter of the layers and 12 * layers * width * length for attention (Chowdhery et al., 2022).

        Where the head reads a few tokens only, of the last layer all tokens need but keys and values (unless it is one of
        a scan).
        """
        a = self.arch
        whole = a.layers if self.head.reads_tokens or self.stacks else a.layers - 1
        matrices = whole * (4 * a.width + 2 * a.mlp_width) + (a.layers - whole) * 2 * a.width
        return 6.0 * a.width * matrices + 12.0 * whole * a.width * length


class BertModule(nnx.Module):
    """tokens int32[rows, length] -> what the head gives; without a head `(hidden, pooled)`.

    mask         bool or int[rows, length]: which tokens are seen; None sees all
    token_types  int32[rows, length]: segment A or B; None is all A
    segments     int32[rows, length]: packed examples, numbered from 1 (0 is padding), that do not see each other
    positions    int32[rows, length]: places in their example, where rows are packed
    firsts       int32[rows, examples]: where the first token of each packed example stands
    places       int32[rows, places]: the tokens a masked-LM head is asked about; None asks about all

    With tokens [rows, choices, length] (and mask and types alike) each choice is read alone: logits [rows, choices].
    """

    def __init__(self, config: Bert, arch: Architecture, policy: Policy, rngs: nnx.Rngs) -> None:
        self.arch, self.remat, self.reads_tokens = arch, config.remat, config.head.reads_tokens
        self.embeddings = Embeddings(arch, policy, rngs)
        self.encoder = Encoder(arch, config.scan, policy, rngs)
        if config.head.pooled and (arch.bare_pools or type(config.head) is not Head):
            self.pooler = Pooler(arch, policy, rngs)
        head = config.head.module(arch, policy, rngs)
        if head is not None:
            self.head = head

    def __call__(
        self,
        tokens: jax.Array,
        *,
        mask: jax.Array | None = None,
        token_types: jax.Array | None = None,
        segments: jax.Array | None = None,
        positions: jax.Array | None = None,
        firsts: jax.Array | None = None,
        places: jax.Array | None = None,
        drop: Dropout = OFF,
    ) -> Any:
        if tokens.ndim == 3:
            rows, choices, length = tokens.shape
            given = {"mask": mask, "token_types": token_types}
            flat: dict[str, Any] = {k: x.reshape(-1, length) for k, x in given.items() if x is not None}
            return self(tokens.reshape(-1, length), drop=drop.split(choices), **flat).reshape(rows, choices)
        pick = self.picks(firsts, places)
        hidden, _ = self.encode(tokens, mask, token_types, segments, positions, drop, pick)
        pooled = None
        if hasattr(self, "pooler"):
            if pick is None:
                first = hidden[:, :1] if firsts is None else gather(hidden, firsts)
            else:
                count = 1 if firsts is None else firsts.shape[1]
                first, hidden = hidden[:, :count], hidden[:, count:]
            first = first[:, 0] if firsts is None else first
            first = constrain(first, "batch", *[None] * (first.ndim - 1))
            pooled = constrain(self.pooler(first, drop.at(1)), "batch", *[None] * (first.ndim - 1))
        if not hasattr(self, "head"):
            return hidden, pooled
        return self.head(hidden, pooled, self.embeddings.word_embeddings, drop.at(2))

    def picks(self, firsts: jax.Array | None, places: jax.Array | None) -> Pick | None:
        """The tokens that pooler and head read, in this order; None: all. The last layer need not compute any other,
        which for a classifier saves most of that layer.
        """
        if self.reads_tokens and places is None:
            return None
        if firsts is None and places is None:
            return Pick()
        wanted = [places] if self.reads_tokens and places is not None else []
        if hasattr(self, "pooler"):
            wanted.insert(0, jnp.zeros_like(wanted[0][:, :1]) if firsts is None else firsts)
        return Pick(jnp.concatenate(wanted, axis=1))

    def encode(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        token_types: jax.Array | None = None,
        segments: jax.Array | None = None,
        positions: jax.Array | None = None,
        drop: Dropout = OFF,
        pick: Pick | None = None,
        every: bool = False,
    ) -> tuple[jax.Array, Any]:
        """(last hidden states [rows, length, width] or those of the picked tokens; if `every`, all those after the
        embeddings and each layer, stacked).
        """
        if tokens.shape[1] > self.arch.longest:
            raise UserError(
                f"{tokens.shape[1]} tokens are more than the model's {self.arch.longest} positions",
                where="model",
                fix="Shorten the sequences.",
            )
        sight = Sight(keys=None if mask is None else mask.astype(bool))
        if segments is not None:
            sight = Sight(segments=(segments, segments))
        drop = drop.at(0)
        x = self.embeddings(tokens, token_types, positions, drop.at(0))
        out, layers = self.encoder(x, sight, drop, self.remat, pick, every)
        return out, jnp.concatenate([x[None], layers]) if every else None


class Embeddings(nnx.Module):
    """Token, position and type vectors, summed, normalised and dropped out."""

    def __init__(self, arch: Architecture, policy: Policy, rngs: nnx.Rngs) -> None:
        width = arch.embedding_width
        self.first_position, self.pad = arch.first_position, arch.pad
        self.word_embeddings = embedding(arch.vocab_size, width, "vocab", policy, rngs)
        self.position_embeddings = embedding(arch.positions, width, "position", policy, rngs)
        if arch.types:
            self.token_type_embeddings = embedding(arch.types, width, None, policy, rngs)
        self.norm = layer_norm(width, arch, policy, rngs)
        if arch.widens:
            self.widen = linear(width, arch.width, (None, "embed"), policy, rngs)

    def __call__(
        self, tokens: jax.Array, token_types: jax.Array | None, positions: jax.Array | None, drop: Dropout
    ) -> jax.Array:
        x = look_up(self.word_embeddings, tokens)
        if hasattr(self, "token_type_embeddings"):
            table = self.token_type_embeddings
            x = x + (table.embedding[0].astype(x.dtype) if token_types is None else table(token_types))
        if positions is not None:
            places = self.first_position + positions
        elif self.first_position:  # RoBERTa counts what is no padding; padding has the place before the first
            seen = tokens != self.pad
            places = self.first_position - 1 + jnp.cumsum(seen, axis=1) * seen
        else:
            places = jnp.arange(tokens.shape[1])
        x = x + self.position_embeddings(places)
        x = constrain(drop(self.norm(x)), "batch", "length", None)
        return by_token(self.widen, x) if hasattr(self, "widen") else x


class Encoder(nnx.Module):
    """Layers in a row: `layer` holds them all, or `shared` is the one that is used again and again."""

    def __init__(self, arch: Architecture, scan: bool, policy: Policy, rngs: nnx.Rngs) -> None:
        self.depth = arch.layers
        if arch.shares_layers:
            self.shared = Layer(arch, policy, rngs)
        else:
            self.layer = make_layers(lambda r: Layer(arch, policy, r), arch.layers, scan, rngs)

    def __call__(
        self, x: jax.Array, sight: Sight, drop: Dropout, remat: str, pick: Pick | None, every: bool
    ) -> tuple[jax.Array, Any]:
        def call(layer: Layer, x: jax.Array, index: Any, _: Any) -> tuple[jax.Array, Any]:
            x = layer(x, sight, drop.at(1 + index))
            return x, x if every else None

        layers = nnx.List([self.shared] * self.depth) if hasattr(self, "shared") else self.layer
        if pick is None:
            return run_layers(layers, x, call, None, remat)
        if not isinstance(layers, nnx.List):  # one layer of a scan is like the other
            x, _ = run_layers(layers, x, call, None, remat)
            return pick(x), None
        last_drop = pick.dropout(drop.at(self.depth), x.shape[1])

        def call_last(layer: Layer, x: jax.Array, index: Any, _: Any) -> tuple[jax.Array, Any]:
            return layer(x, sight, last_drop, pick), None

        *before, last = layers
        x, _ = run_layers(nnx.List(before), x, call, None, remat)
        return run_layers(nnx.List([last]), x, call_last, None, remat)


class Layer(nnx.Module):
    """Self-attention and a feed-forward part; each is added to its input, and the sum normalised."""

    def __init__(self, arch: Architecture, policy: Policy, rngs: nnx.Rngs) -> None:
        self.attention = Attention(arch, policy, rngs)
        self.mlp = Mlp(arch, policy, rngs)

    def __call__(self, x: jax.Array, sight: Sight, drop: Dropout, pick: Pick | None = None) -> jax.Array:
        along = "length" if pick is None else None
        x = constrain(self.attention(x, sight, drop.at(0), pick), "batch", along, None)
        return constrain(self.mlp(x, drop.at(1)), "batch", along, None)


class Attention(nnx.Module):
    def __init__(self, arch: Architecture, policy: Policy, rngs: nnx.Rngs) -> None:
        self.heads = arch.heads
        self.query_factor = arch.query_factor
        self.query = linear(arch.width, arch.width, ("embed", "heads"), policy, rngs)
        self.key = linear(arch.width, arch.width, ("embed", "heads"), policy, rngs)
        self.value = linear(arch.width, arch.width, ("embed", "heads"), policy, rngs)
        self.output = linear(arch.width, arch.width, ("heads", "embed"), policy, rngs)
        self.norm = layer_norm(arch.width, arch, policy, rngs)

    def __call__(self, x: jax.Array, sight: Sight, drop: Dropout, pick: Pick | None = None) -> jax.Array:
        """All tokens are seen; those that `pick` takes (None: all) look."""
        asking = x
        if pick is not None:
            asking, sight = pick(x), pick.looking(sight)

        def heads(project: Callable[[jax.Array], jax.Array], x: jax.Array, along: str | None = "length") -> jax.Array:
            y = by_token(project, x).reshape(*x.shape[:2], self.heads, -1)
            return constrain(y, "batch", along, "heads", None)

        query = scaled(heads(self.query, asking, "length" if pick is None else None), self.query_factor)
        out = attention(query, heads(self.key, x), heads(self.value, x), sight=sight, drop=drop.at(0))
        out = by_token(self.output, out.reshape(asking.shape))
        return self.norm(asking + drop.at(1)(out))


class Mlp(nnx.Module):
    def __init__(self, arch: Architecture, policy: Policy, rngs: nnx.Rngs) -> None:
        self.activation = ACTIVATIONS[arch.activation]
        self.up = linear(arch.width, arch.mlp_width, ("embed", "mlp"), policy, rngs)
        self.down = linear(arch.mlp_width, arch.width, ("mlp", "embed"), policy, rngs)
        self.norm = layer_norm(arch.width, arch, policy, rngs)

    def __call__(self, x: jax.Array, drop: Dropout) -> jax.Array:
        return self.norm(x + drop(by_token(lambda x: self.down(self.activation(self.up(x))), x)))


class Pooler(nnx.Module):
    """The first token's hidden state [..., width] through one dense layer."""

    def __init__(self, arch: Architecture, policy: Policy, rngs: nnx.Rngs) -> None:
        self.drops_before, self.activation = arch.drops_before_pooler, ACTIVATIONS[arch.pooler_activation]
        self.dense = linear(arch.width, arch.width, ("embed", None), policy, rngs)

    def __call__(self, first: jax.Array, drop: Dropout) -> jax.Array:
        return self.activation(self.dense(drop(first) if self.drops_before else first))


def gather(x: jax.Array, places: jax.Array) -> jax.Array:
    """x [rows, length, width], places int32[rows, k] -> [rows, k, width]."""
    return jnp.take_along_axis(x, places[..., None], axis=1)


def layer_norm(width: int, arch: Architecture, policy: Policy, rngs: nnx.Rngs) -> nnx.LayerNorm:
    metadata: dict[str, Any] = {"axes": ("embed",) if width == arch.width else (None,)}
    return nnx.LayerNorm(
        width,
        epsilon=arch.eps,
        dtype=policy.compute,
        param_dtype=policy.param,
        scale_metadata=metadata,
        bias_metadata=metadata,
        rngs=rngs,
    )
