"""The relatives of BERT as data: sizes, the few places where they differ, and what Hugging Face calls their parts.

BERT (Devlin et al., 2018), RoBERTa (Liu et al., 2019), DistilBERT (Sanh et al., 2019), ALBERT (Lan et al., 2019). To add
a relative, derive from `Architecture` and enter it in `FAMILIES`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from lepjax.core.errors import UserError, nearest
from lepjax.core.fields import later
from lepjax.models.model import LARGEST, check_sizes
from lepjax.models.mup import Mup, logits_factor, query_factor
from lepjax.models.pretrained import sizes
from lepjax.models.weights import Naming, Renames

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Sizes of an encoder; the defaults are bert-base-uncased's."""

    vocab_size: int = 30522
    """Number of tokens."""
    width: int = 768
    """Size of the residual stream."""
    layers: int = 12
    """Number of layers."""
    heads: int = 12
    """Attention heads per layer."""
    mlp_width: int = 3072
    """Size inside the feed-forward part."""
    positions: int = 512
    """Rows of the position table."""
    types: int = 2
    """Token types (segments A and B); 0: the model has none."""
    activation: str = "gelu"
    """gelu, gelu_tanh or relu."""
    eps: float = 1e-12
    """Epsilon of the layer norms."""
    pad: int = 0
    """Id of the padding token."""
    mup: Mup | None = later(None)
    """The base whose hyperparameters serve this width (`models.mup`); None: the released model's parametrisation."""

    shares_layers: ClassVar[bool] = False
    pooler_activation: ClassVar[str] = "tanh"
    drops_before_pooler: ClassVar[bool] = False
    bare_pools: ClassVar[bool] = True  # there is a pooler also without a head
    first_position: ClassVar[int] = 0
    widens: ClassVar[bool] = False  # a dense layer between the embeddings and the encoder
    head_activation: ClassVar[str | None] = None  # of the masked-LM head; None: that of the layers

    model_type: ClassVar[str] = "bert"
    hf_class: ClassVar[str] = "Bert"
    base: ClassVar[str] = "bert."
    keys: ClassVar[Mapping[str, str]] = {
        "vocab_size": "vocab_size",
        "width": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "mlp_width": "intermediate_size",
        "positions": "max_position_embeddings",
        "types": "type_vocab_size",
        "activation": "hidden_act",
        "eps": "layer_norm_eps",
        "pad": "pad_token_id",
    }
    renames: ClassVar[Renames] = (
        ("embeddings.norm.", "embeddings.LayerNorm."),
        ("encoder.layer.*.attention.query.", "encoder.layer.*.attention.self.query."),
        ("encoder.layer.*.attention.key.", "encoder.layer.*.attention.self.key."),
        ("encoder.layer.*.attention.value.", "encoder.layer.*.attention.self.value."),
        ("encoder.layer.*.attention.output.", "encoder.layer.*.attention.output.dense."),
        ("encoder.layer.*.attention.norm.", "encoder.layer.*.attention.output.LayerNorm."),
        ("encoder.layer.*.mlp.up.", "encoder.layer.*.intermediate.dense."),
        ("encoder.layer.*.mlp.down.", "encoder.layer.*.output.dense."),
        ("encoder.layer.*.mlp.norm.", "encoder.layer.*.output.LayerNorm."),
    )
    head_renames: ClassVar[Renames] = (
        ("head.classifier.", "classifier."),
        ("head.outputs.", "qa_outputs."),
        ("head.relation.", "cls.seq_relationship."),
        ("head.transform.dense.", "cls.predictions.transform.dense."),
        ("head.transform.norm.", "cls.predictions.transform.LayerNorm."),
        ("head.bias", "cls.predictions.bias"),
    )

    def __post_init__(self) -> None:
        check_sizes(self, ("vocab_size", "width", "layers", "heads", "mlp_width", "positions"), "model.architecture")
        if not 0 <= self.types <= LARGEST:
            raise UserError(f"{self.types}", where="model.architecture.types", fix="Use 0 (none) or more.")
        if self.width % self.heads:
            raise UserError(f"width {self.width} is not a multiple of {self.heads} heads", where="model.architecture")
        if self.activation not in ACTIVATIONS.values():
            fix = nearest(self.activation, ACTIVATIONS.values())
            raise UserError(f"activation {self.activation!r}", where="model.architecture", fix=fix)

    @property
    def longest(self) -> int:
        """Tokens in the longest sequence."""
        return self.positions - self.first_position

    @property
    def embedding_width(self) -> int:
        return self.width

    def resized(self, width: int, heads: int) -> Self:
        """In another width, with a feed-forward part in proportion. Raises `UserError` where that is no whole number."""
        mlp_width, rest = divmod(self.mlp_width * width, self.width)
        if rest:
            found = f"mlp_width {self.mlp_width} of width {self.width} has no equal for width {width}"
            raise UserError(found, where="model.architecture")
        return dataclasses.replace(self, width=width, heads=heads, mlp_width=mlp_width, mup=None)

    @property
    def query_factor(self) -> float:
        """muP's, on queries."""
        return query_factor(self.mup, self.width, self.heads)

    @property
    def logits_factor(self) -> float:
        """muP's, on the logits of the masked-LM head. ALBERT's embedding keeps its width."""
        return 1.0 if self.widens else logits_factor(self.mup, self.width)

    @property
    def factors(self) -> dict[str, float]:
        """What parameters must be multiplied by where no program knows of muP; see `mup.folded`."""
        named = {r"\.attention\.query\.": self.query_factor, r"^head\.transform\.norm\.": self.logits_factor}
        return named if self.mup else {}

    def naming(self, head: str) -> Naming:
        """The names that the Hugging Face class of this family with the head `head` uses."""
        tables = ((self.head_names(head), ""), (self.renames, self.base))
        return Naming(tables, self.base, may_lack=("head.", "pooler."), bare=head == "Head")

    def head_names(self, head: str) -> Renames:
        return self.head_renames

    def config(self) -> dict[str, Any]:
        """Our sizes as the keys of config.json."""
        theirs = {v: k for k, v in reversed(ACTIVATIONS.items())}
        values = {key: getattr(self, ours) for ours, key in self.keys.items()}
        activation = self.keys["activation"]
        return {"model_type": self.model_type, **values, activation: theirs[values[activation]]}


@dataclasses.dataclass(frozen=True)
class BertArchitecture(Architecture):
    """BERT."""


@dataclasses.dataclass(frozen=True)
class RobertaArchitecture(Architecture):
    """RoBERTa: BERT's encoder with positions counted from `pad + 1`."""

    vocab_size: int = 50265
    positions: int = 514
    types: int = 1
    eps: float = 1e-5
    pad: int = 1

    first_position: ClassVar[int] = 2
    drops_before_pooler: ClassVar[bool] = True
    head_activation: ClassVar[str | None] = "gelu"
    model_type: ClassVar[str] = "roberta"
    hf_class: ClassVar[str] = "Roberta"
    base: ClassVar[str] = "roberta."
    head_renames: ClassVar[Renames] = (
        ("head.classifier.", "classifier."),
        ("head.outputs.", "qa_outputs."),
        ("head.transform.dense.", "lm_head.dense."),
        ("head.transform.norm.", "lm_head.layer_norm."),
        ("head.bias", "lm_head.bias"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pad != 1:
            raise UserError(f"pad_token_id {self.pad}", where="model.architecture.pad", fix="RoBERTa's is 1.")

    def head_names(self, head: str) -> Renames:
        if head != "SequenceClassification":
            return self.head_renames
        # RoBERTa's classification head owns what is the pooler elsewhere.
        return (("pooler.dense.", "classifier.dense."), ("head.classifier.", "classifier.out_proj."))


@dataclasses.dataclass(frozen=True)
class DistilBertArchitecture(Architecture):
    """DistilBERT: no token types, and a pooler with ReLU that belongs to the head."""

    layers: int = 6
    types: int = 0

    pooler_activation: ClassVar[str] = "relu"
    bare_pools: ClassVar[bool] = False
    model_type: ClassVar[str] = "distilbert"
    hf_class: ClassVar[str] = "DistilBert"
    base: ClassVar[str] = "distilbert."
    keys: ClassVar[Mapping[str, str]] = {
        "vocab_size": "vocab_size",
        "width": "dim",
        "layers": "n_layers",
        "heads": "n_heads",
        "mlp_width": "hidden_dim",
        "positions": "max_position_embeddings",
        "activation": "activation",
        "pad": "pad_token_id",
    }
    renames: ClassVar[Renames] = (
        ("embeddings.norm.", "embeddings.LayerNorm."),
        ("encoder.layer.*.attention.query.", "transformer.layer.*.attention.q_lin."),
        ("encoder.layer.*.attention.key.", "transformer.layer.*.attention.k_lin."),
        ("encoder.layer.*.attention.value.", "transformer.layer.*.attention.v_lin."),
        ("encoder.layer.*.attention.output.", "transformer.layer.*.attention.out_lin."),
        ("encoder.layer.*.attention.norm.", "transformer.layer.*.sa_layer_norm."),
        ("encoder.layer.*.mlp.up.", "transformer.layer.*.ffn.lin1."),
        ("encoder.layer.*.mlp.down.", "transformer.layer.*.ffn.lin2."),
        ("encoder.layer.*.mlp.norm.", "transformer.layer.*.output_layer_norm."),
    )
    head_renames: ClassVar[Renames] = (
        ("pooler.dense.", "pre_classifier."),
        ("head.classifier.", "classifier."),
        ("head.outputs.", "qa_outputs."),
        ("head.transform.dense.", "vocab_transform."),
        ("head.transform.norm.", "vocab_layer_norm."),
        ("head.bias", "vocab_projector.bias"),
    )


@dataclasses.dataclass(frozen=True)
class AlbertArchitecture(Architecture):
    """ALBERT: one layer used `layers` times, and narrow token embeddings. Dropout as in BERT."""

    vocab_size: int = 30000
    activation: str = "gelu_tanh"
    narrow: int = 128
    """Width of the token embeddings."""

    shares_layers: ClassVar[bool] = True
    widens: ClassVar[bool] = True  # also where both widths are equal
    model_type: ClassVar[str] = "albert"
    hf_class: ClassVar[str] = "Albert"
    base: ClassVar[str] = "albert."
    keys: ClassVar[Mapping[str, str]] = {**Architecture.keys, "narrow": "embedding_size"}
    renames: ClassVar[Renames] = (
        ("embeddings.norm.", "embeddings.LayerNorm."),
        ("embeddings.widen.", "encoder.embedding_hidden_mapping_in."),
        ("encoder.shared.attention.query.", "encoder.albert_layer_groups.0.albert_layers.0.attention.query."),
        ("encoder.shared.attention.key.", "encoder.albert_layer_groups.0.albert_layers.0.attention.key."),
        ("encoder.shared.attention.value.", "encoder.albert_layer_groups.0.albert_layers.0.attention.value."),
        ("encoder.shared.attention.output.", "encoder.albert_layer_groups.0.albert_layers.0.attention.dense."),
        ("encoder.shared.attention.norm.", "encoder.albert_layer_groups.0.albert_layers.0.attention.LayerNorm."),
        ("encoder.shared.mlp.up.", "encoder.albert_layer_groups.0.albert_layers.0.ffn."),
        ("encoder.shared.mlp.down.", "encoder.albert_layer_groups.0.albert_layers.0.ffn_output."),
        ("encoder.shared.mlp.norm.", "encoder.albert_layer_groups.0.albert_layers.0.full_layer_layer_norm."),
        ("pooler.dense.", "pooler."),
    )
    head_renames: ClassVar[Renames] = (
        ("head.classifier.", "classifier."),
        ("head.outputs.", "qa_outputs."),
        ("head.relation.", "sop_classifier.classifier."),
        ("head.transform.dense.", "predictions.dense."),
        ("head.transform.norm.", "predictions.LayerNorm."),
        ("head.bias", "predictions.bias"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mup and self.mup.zero_readout:  # the dense layer before the narrow embedding would be taken for one
            raise UserError("ALBERT has no zero readout", where="model.architecture.mup", fix="Leave it false.")

    @property
    def embedding_width(self) -> int:
        return self.narrow


NEEDED = ("vocab_size", "width", "layers", "heads", "mlp_width")  # what no default can stand for
FAMILIES: dict[str, type[Architecture]] = {
    kind.model_type: kind
    for kind in (BertArchitecture, RobertaArchitecture, DistilBertArchitecture, AlbertArchitecture)
}


def architecture(config: Mapping[str, Any], where: str) -> Architecture:
    """The architecture that a config.json describes. Raises `UserError` for what these models cannot express."""
    kind = FAMILIES.get(str(config.get("model_type")))
    if kind is None:
        known = ", ".join(FAMILIES)
        raise UserError(
            f"model_type {config.get('model_type')!r} is not supported", where=where, fix=f"Known: {known}."
        )
    refused = {
        "position_embedding_type": ("absolute", None),
        "is_decoder": (False, None),
        "tie_word_embeddings": (True, None),
        "sinusoidal_pos_embds": (False, True, None),  # only says how the table was initialised
        "num_hidden_groups": (1, None),
        "inner_group_num": (1, None),
    }
    for key, fine in refused.items():
        if config.get(key) not in fine:
            raise UserError(f"{key} {config[key]!r} is not supported", where=where, fix=f"Only {fine[0]!r} is.")
    values = sizes(config, kind.keys, NEEDED, where, words=("activation",))
    act = values.get("activation", "gelu")
    if act not in ACTIVATIONS:
        raise UserError(f"activation {act!r} is not supported", where=where, fix=f"Known: {', '.join(ACTIVATIONS)}.")
    return kind(**{**values, "activation": ACTIVATIONS[act]})
