"""The relatives of Llama as data: sizes, the few places where they differ, and what Hugging Face calls their parts.

Llama 1 to 3 (Touvron et al., 2023; Grattafiori et al., 2024), Qwen 2 and 3, Mistral (Jiang et al., 2023). To add a relative,
derive from `LlamaArchitecture` and enter it in `FAMILIES`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from lepjax.core.errors import UserError
from lepjax.models.model import check_sizes
from lepjax.models.pretrained import sizes
from lepjax.models.weights import TURNED, Array, Layout, Naming, Renames
from lepjax.ops.rope import Dynamic, Linear, Llama3, Rope, Scaling, Yarn, yarn_magnitude


@dataclasses.dataclass(frozen=True)
class LlamaArchitecture:
    """Sizes of a decoder; the defaults are Llama 2 7B's."""

    vocab_size: int = 32000
    """Number of tokens."""
    width: int = 4096
    """Size of the residual stream."""
    mlp_width: int = 11008
    """Size inside the feed-forward part."""
    layers: int = 32
    """Number of blocks."""
    heads: int = 32
    """Query heads per block."""
    kv_heads: int = 32
    """Key and value heads per block; each serves heads / kv_heads query heads (Ainslie et al., GQA, 2023)."""
    head_size: int = 0
    """Size of a head; 0: width / heads."""
    context: int = 4096
    """Longest sequence."""
    eps: float = 1e-5
    """Epsilon of the RMS norms."""
    rope: Rope = Rope()
    """Rotary positions."""
    window: int = 0
    """Tokens that a token sees, itself included; 0: all before it."""
    tied: bool = False
    """The output matrix is the token embedding."""

    qkv_bias: ClassVar[bool] = False
    qk_norm: ClassVar[bool] = False  # queries and keys are normalised, head by head
    windowed: ClassVar[bool] = False  # `sliding_window` means something
    window_is_optional: ClassVar[bool] = False  # only with `use_sliding_window`, from layer `max_window_layers` on
    model_type: ClassVar[str] = "llama"
    hf_class: ClassVar[str] = "LlamaForCausalLM"
    keys: ClassVar[Mapping[str, str]] = {
        "vocab_size": "vocab_size",
        "width": "hidden_size",
        "mlp_width": "intermediate_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads",
        "head_size": "head_dim",
        "context": "max_position_embeddings",
        "eps": "rms_norm_eps",
        "tied": "tie_word_embeddings",
    }
    renames: ClassVar[Renames] = (
        ("embed.", "model.embed_tokens."),
        ("layers.*.attention_norm.", "model.layers.*.input_layernorm."),
        ("layers.*.attention.query_norm.", "model.layers.*.self_attn.q_norm."),
        ("layers.*.attention.key_norm.", "model.layers.*.self_attn.k_norm."),
        ("layers.*.attention.query.", "model.layers.*.self_attn.q_proj."),
        ("layers.*.attention.key.", "model.layers.*.self_attn.k_proj."),
        ("layers.*.attention.value.", "model.layers.*.self_attn.v_proj."),
        ("layers.*.attention.output.", "model.layers.*.self_attn.o_proj."),
        ("layers.*.mlp_norm.", "model.layers.*.post_attention_layernorm."),
        ("layers.*.mlp.gate.", "model.layers.*.mlp.gate_proj."),
        ("layers.*.mlp.up.", "model.layers.*.mlp.up_proj."),
        ("layers.*.mlp.down.", "model.layers.*.mlp.down_proj."),
        ("norm.", "model.norm."),
        ("head.", "lm_head."),
    )

    def __post_init__(self) -> None:
        where = "model.architecture"
        check_sizes(self, ("vocab_size", "width", "mlp_width", "layers", "heads", "kv_heads", "context"), where)
        if self.heads % self.kv_heads:
            raise UserError(f"{self.heads} heads do not share {self.kv_heads} key heads evenly", where=where)
        if not self.head_size and self.width % self.heads:
            raise UserError(f"width {self.width} is not a multiple of {self.heads} heads", where=where)
        if self.size % 2:
            raise UserError(f"heads of odd size {self.size} cannot be rotated", where=where)

    @property
    def size(self) -> int:
        """Of a head."""
        return self.head_size or self.width // self.heads

    @property
    def naming(self) -> Naming:
        copies = (("lm_head.weight", "model.embed_tokens.weight"),) if self.tied else ()
        return Naming(((self.renames, ""),), copies=copies)

    def config(self) -> dict[str, Any]:
        """Our sizes as the keys of config.json."""
        values = {key: getattr(self, ours) for ours, key in self.keys.items()}
        return {
            "model_type": self.model_type,
            "architectures": [self.hf_class],
            **values,
            "head_dim": self.size,
            "hidden_act": "silu",
            "rope_theta": self.rope.theta,
            "rope_scaling": write_scaling(self.rope.scaling),
            **self.own_config(),
        }

    def own_config(self) -> dict[str, Any]:
        """What this relative alone writes."""
        return {}


@dataclasses.dataclass(frozen=True)
class Qwen2Architecture(LlamaArchitecture):
    """Qwen 2 and 2.5: biases on queries, keys and values."""

    eps: float = 1e-6

    qkv_bias: ClassVar[bool] = True
    windowed: ClassVar[bool] = True
    window_is_optional: ClassVar[bool] = True
    model_type: ClassVar[str] = "qwen2"
    hf_class: ClassVar[str] = "Qwen2ForCausalLM"

    def own_config(self) -> dict[str, Any]:
        sliding = {"use_sliding_window": True, "sliding_window": self.window, "max_window_layers": 0}
        return sliding if self.window else {"use_sliding_window": False}


@dataclasses.dataclass(frozen=True)
class Qwen3Architecture(Qwen2Architecture):
    """Qwen 3: normalised queries and keys instead of biases."""

    qkv_bias: ClassVar[bool] = False
    qk_norm: ClassVar[bool] = True
    model_type: ClassVar[str] = "qwen3"
    hf_class: ClassVar[str] = "Qwen3ForCausalLM"


@dataclasses.dataclass(frozen=True)
class MistralArchitecture(LlamaArchitecture):
    """Mistral: a sliding window in its first version."""

    windowed: ClassVar[bool] = True
    model_type: ClassVar[str] = "mistral"
    hf_class: ClassVar[str] = "MistralForCausalLM"

    def own_config(self) -> dict[str, Any]:
        return {"sliding_window": self.window or None}


@dataclasses.dataclass(frozen=True)
class MetaArchitecture(LlamaArchitecture):
    """Llama in the layout of Meta's own releases (and llama2.c): other names, and pairs of dimensions side by side."""

    keys: ClassVar[Mapping[str, str]] = {
        "vocab_size": "vocab_size",
        "width": "dim",
        "mlp_width": "hidden_dim",
        "layers": "n_layers",
        "heads": "n_heads",
        "kv_heads": "n_kv_heads",
        "context": "max_seq_len",
        "eps": "norm_eps",
        "tied": "tied",
    }
    renames: ClassVar[Renames] = (
        ("embed.", "tok_embeddings."),
        ("layers.*.attention_norm.", "layers.*.attention_norm."),
        ("layers.*.attention.query.", "layers.*.attention.wq."),
        ("layers.*.attention.key.", "layers.*.attention.wk."),
        ("layers.*.attention.value.", "layers.*.attention.wv."),
        ("layers.*.attention.output.", "layers.*.attention.wo."),
        ("layers.*.mlp_norm.", "layers.*.ffn_norm."),
        ("layers.*.mlp.gate.", "layers.*.feed_forward.w1."),
        ("layers.*.mlp.down.", "layers.*.feed_forward.w2."),
        ("layers.*.mlp.up.", "layers.*.feed_forward.w3."),
        ("norm.", "norm."),
        ("head.", "output."),
    )

    @property
    def naming(self) -> Naming:
        rotated = r"\.attention\.(query|key)\.kernel$"
        return Naming(((self.renames, ""),), layouts=((rotated, side_by_side(self.size)), (r"\.kernel$", TURNED)))


def side_by_side(size: int) -> Layout:
    """[out, in] whose rows are (head, pair, 2) -> our [in, out] with columns (head, 2, pair)."""

    def read(x: Array) -> Array:
        return x.reshape(-1, size // 2, 2, x.shape[1]).swapaxes(1, 2).reshape(x.shape).T

    def write(x: Array) -> Array:
        return x.T.reshape(-1, 2, size // 2, x.shape[0]).swapaxes(1, 2).reshape(x.T.shape)

    return Layout(read, write)


NEEDED = ("vocab_size", "width", "layers", "heads", "mlp_width")  # what no default can stand for
FAMILIES: dict[str, type[LlamaArchitecture]] = {
    kind.model_type: kind for kind in (LlamaArchitecture, Qwen2Architecture, Qwen3Architecture, MistralArchitecture)
}


def architecture(config: Mapping[str, Any], where: str) -> LlamaArchitecture:
    """The architecture that a config.json describes. Raises `UserError` for what these models cannot express."""
    meta = "model_type" not in config and "n_layers" in config
    kind = MetaArchitecture if meta else FAMILIES.get(str(config.get("model_type")))
    if kind is None:
        found = f"model_type {config.get('model_type')!r} is not supported"
        raise UserError(found, where=where, fix=f"Known: {', '.join(FAMILIES)}.")
    refused = {"hidden_act": ("silu", None), "attention_bias": (kind.qkv_bias, False, None), "mlp_bias": (False, None)}
    for key, fine in refused.items():
        if config.get(key) not in fine:
            raise UserError(f"{key} {config[key]!r} is not supported", where=where, fix=f"Only {fine[0]!r} is.")
    values = sizes(config, kind.keys, NEEDED, where)
    values.setdefault("kv_heads", values["heads"])
    if values.get("head_size") == values["width"] / values["heads"]:
        del values["head_size"]  # what it would be anyway
    return kind(**values, rope=read_rope(config, where), window=_window(kind, config, values["layers"], where))


def _window(kind: type[LlamaArchitecture], config: Mapping[str, Any], count: int, where: str) -> int:
    """The window of all `count` layers, 0 where all see everything."""
    window = config.get("sliding_window")
    if not window or not kind.windowed or (kind.window_is_optional and not config.get("use_sliding_window")):
        return 0
    layers = config.get("layer_types")
    if layers is None:  # as older files say it
        full = min(config.get("max_window_layers", 28), count) if kind.window_is_optional else 0
        layers = ["full_attention"] * full + ["sliding_attention"] * (count - full)
    if len(set(layers)) > 1:
        raise UserError("a sliding window in some layers only is not supported", where=where)
    return int(window) if layers[0] == "sliding_attention" else 0


def read_rope(config: Mapping[str, Any], where: str) -> Rope:
    """Rotary positions from config.json: `rope_parameters`, or `rope_theta` and `rope_scaling` as older files have."""
    given = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    theta = float(given.pop("rope_theta", config.get("rope_theta") or 10_000.0))
    kind = given.pop("rope_type", given.pop("type", "default"))
    if given.get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError("partial_rotary_factor is not supported", where=where, fix="Only whole heads are rotated.")
    given.setdefault("original_max_position_embeddings", config.get("max_position_embeddings"))
    if kind not in SCALINGS:
        raise UserError(f"rope_type {kind!r} is not supported", where=where, fix=f"Known: {', '.join(SCALINGS)}.")
    scaling, fields = SCALINGS[kind]
    if "factor" in fields and not given.get("factor"):
        raise UserError(f"rope_type {kind!r} without a factor", where=where)
    if kind == "dynamic":  # stretches from the context of config.json, whatever was learned first
        given["original_max_position_embeddings"] = config["max_position_embeddings"]
    if kind == "yarn" and given.get("mscale") and given.get("mscale_all_dim") and not given.get("attention_factor"):
        sharp, all_dim = (yarn_magnitude(given["factor"], given[name]) for name in ("mscale", "mscale_all_dim"))
        given["attention_factor"] = sharp / all_dim
    values = {ours: given[theirs] for ours, theirs in fields.items() if given.get(theirs) is not None}
    return Rope(theta, scaling(**values))


_CONTEXT = {"original": "original_max_position_embeddings"}
SCALINGS: dict[str, tuple[type[Scaling], dict[str, str]]] = {
    "default": (Scaling, {}),
    "linear": (Linear, {"factor": "factor"}),
    "dynamic": (Dynamic, {"factor": "factor", **_CONTEXT}),
    "llama3": (Llama3, {"factor": "factor", "low": "low_freq_factor", "high": "high_freq_factor", **_CONTEXT}),
    "yarn": (
        Yarn,
        {
            "factor": "factor",
            "fast": "beta_fast",
            "slow": "beta_slow",
            "magnitude": "attention_factor",
            "whole": "truncate",
            **_CONTEXT,
        },
    ),
}


def write_scaling(scaling: Scaling) -> dict[str, Any] | None:
    """`rope_scaling` of config.json; None where nothing is scaled."""
    for name, (kind, fields) in SCALINGS.items():
        if type(scaling) is kind and fields:
            given = {theirs: getattr(scaling, ours) for ours, theirs in fields.items()}
            return {"rope_type": name, **{key: value for key, value in given.items() if value is not None}}
    return None
