"""Models as people know them: `from_pretrained`, a call that returns a named result, `save_pretrained`.

Each is a recipe with its parameters, nothing more: training takes the recipe and a copy of the parameters.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from lepjax.core import hub, parameters, rng
from lepjax.core.errors import UserError
from lepjax.core.functional import Functional
from lepjax.core.precision import policy
from lepjax.models import bert_heads as heads
from lepjax.models import pretrained, weights
from lepjax.models.bert import Bert, Head
from lepjax.models.bert_family import (
    AlbertArchitecture,
    Architecture,
    BertArchitecture,
    DistilBertArchitecture,
    RobertaArchitecture,
    architecture,
)
from lepjax.models.mup import folded

TOKENIZER_FILES: tuple[str, ...] = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
)

HF_HEADS = {
    heads.SequenceClassification: "ForSequenceClassification",
    heads.TokenClassification: "ForTokenClassification",
    heads.MultipleChoice: "ForMultipleChoice",
    heads.QuestionAnswering: "ForQuestionAnswering",
    heads.MaskedLM: "ForMaskedLM",
    heads.NextSentence: "ForNextSentencePrediction",
    heads.PreTraining: "ForPreTraining",
    Head: "Model",
}


class Encoded(NamedTuple):
    """last_hidden_state float32[rows, length, width], pooler_output float32[rows, width] (None: no pooler)."""

    last_hidden_state: Any
    pooler_output: Any


class Logits(NamedTuple):
    logits: Any


class SpanLogits(NamedTuple):
    """Both float32[rows, length]."""

    start_logits: Any
    end_logits: Any


class PreTrainingLogits(NamedTuple):
    """float32[rows, length, vocabulary] and float32[rows, 2]."""

    prediction_logits: Any
    seq_relationship_logits: Any


Self = TypeVar("Self", bound="EncoderModel")


@dataclasses.dataclass(frozen=True)
class EncoderModel:
    """An encoder with a head and its parameters (float32, nested dicts)."""

    recipe: Bert
    params: Any
    labels: tuple[str, ...] = ()
    """Names of the classes or tags, which `save_pretrained` writes into config.json."""
    new: tuple[str, ...] = ()
    """Parameters that no checkpoint gave: they are random until trained."""
    unused: tuple[str, ...] = ()
    """Tensors of the checkpoint that this model has no place for."""

    family: ClassVar[type[Architecture]] = BertArchitecture
    head: ClassVar[type[Head]] = Head

    @classmethod
    def from_pretrained(cls: type[Self], name: str | pathlib.Path, seed: int = 0, **options: Any) -> Self:
        """Loads a folder in the Hugging Face layout or `owner/repository[@revision]` of the hub; safetensors only.

        `options` go to the head (`num_labels`), or to the recipe (`dropout`). What the checkpoint lacks is drawn from
        `seed` and named in `new`. Raises `UserError` for what does not fit.
        """
        recipe, labels = cls._recipe(str(name), options)
        folder, functional = hub.folder(recipe.pretrained), _functional(recipe)
        loaded = weights.read(folder, functional.leaves, recipe.arch.naming(cls.head.__name__))
        values = {**loaded.values, **_drawn(functional, loaded.new, seed)}
        params = jax.tree.map(lambda x: jnp.asarray(values[x.name]), functional.leaves, is_leaf=parameters.is_leaf)
        return cls(recipe, params, labels, loaded.new, loaded.unused)

    @classmethod
    def from_config(cls: type[Self], config: Architecture, seed: int = 0, **options: Any) -> Self:
        """The same, with random weights."""
        known = {field.name for field in dataclasses.fields(cls.head)}
        head = cls.head(**{k: v for k, v in options.items() if k in known})
        recipe = Bert(architecture=config, head=head, **{k: v for k, v in options.items() if k not in known})
        params, _ = jax.jit(_functional(recipe).init)(rng.seed_key(seed, rng.INIT))
        return cls(recipe, params)

    @classmethod
    def _recipe(cls, name: str, options: dict[str, Any]) -> tuple[Bert, tuple[str, ...]]:
        folder = hub.folder(name)
        config = pretrained.read_config(folder)
        where = str(folder / pretrained.CONFIG)
        if not isinstance(architecture(config, where), cls.family):
            raise UserError(f"model_type {config['model_type']!r}", where=where, fix=f"{cls.__name__} loads others.")
        known = {field.name for field in dataclasses.fields(cls.head)}
        try:
            ids = {int(key): str(label) for key, label in (config.get("id2label") or {}).items()}
        except (AttributeError, ValueError) as error:
            raise UserError("id2label is no {number: name}", where=where) from error
        named = tuple(ids[i] for i in sorted(ids))
        chosen = {key: value for key, value in options.items() if key in known}
        if "num_labels" in known and "num_labels" not in chosen and named:
            chosen["num_labels"] = len(named)
        rest = {key: value for key, value in options.items() if key not in known}
        labels = named if len(named) == chosen.get("num_labels") else ()
        return Bert(pretrained=name, head=cls.head(**chosen), **rest), labels

    @property
    def functional(self) -> Functional:
        """Pure `apply(params, {}, tokens, mask=..., token_types=...)`: what training uses."""
        return _functional(self.recipe)

    @property
    def num_parameters(self) -> int:
        return parameters.count(self.functional.leaves)

    def __call__(self, input_ids: Any, attention_mask: Any = None, token_type_ids: Any = None) -> Any:
        """int[rows, length] each ([rows, choices, length] for multiple choice) -> a named result, without dropout."""
        given = [None if x is None else jnp.asarray(x, jnp.int32) for x in (input_ids, attention_mask, token_type_ids)]
        return self.result(_apply(self.recipe, self.params, *given))

    def result(self, outputs: Any) -> Any:
        return Logits(outputs)

    def save_pretrained(self, folder: str | pathlib.Path) -> pathlib.Path:
        """Writes config.json, model.safetensors and the tokenizer's files; transformers loads the folder."""
        target = pathlib.Path(folder)
        arch, head = self.recipe.arch, type(self.recipe.head)
        leaves = self.functional.leaves
        tensors = weights.write(folded(self.params, leaves, arch.factors), leaves, arch.naming(head.__name__))
        config = {**arch.config(), "architectures": [arch.hf_class + HF_HEADS[head]], "torch_dtype": "float32"}
        count = getattr(self.recipe.head, "num_labels", 0)
        if count:
            names = self.labels or tuple(f"LABEL_{i}" for i in range(count))
            config |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
        pretrained.write(target, config, tensors, tokenizer_files(self.recipe.pretrained))
        return target

    def summary(self) -> str:
        """One line per parameter: name, shape; then the total."""
        leaves = parameters.flat(self.functional.leaves)
        lines = [f"{leaf.name:<60} {' x '.join(map(str, leaf.shape)):>16}" for leaf in leaves]
        return "\n".join([*lines, f"{self.num_parameters:,} parameters"])


def tokenizer_files(name: str) -> list[pathlib.Path]:
    """Those of the folder or hub repository `name`; none where it is empty."""
    paths = [hub.folder(name) / file for file in TOKENIZER_FILES] if name else []
    return [path for path in paths if path.is_file()]


@functools.lru_cache(maxsize=16)
def _functional(recipe: Bert) -> Functional:
    return recipe.build(policy("float32"))


def _drawn(functional: Functional, names: tuple[str, ...], seed: int) -> dict[str, jax.Array]:
    """The random initial values of these parameters. Only they are computed: the compiler drops the others."""

    def draw(key: jax.Array) -> dict[str, jax.Array]:
        params, _ = functional.init(key)
        leaves = zip(parameters.flat(functional.leaves), jax.tree.leaves(params), strict=True)
        return {leaf.name: value for leaf, value in leaves if leaf.name in names}

    return jax.jit(draw)(rng.seed_key(seed, rng.INIT)) if names else {}


@functools.partial(jax.jit, static_argnums=0)
def _apply(recipe: Bert, params: Any, tokens: jax.Array, mask: Any, token_types: Any) -> Any:
    return _functional(recipe).apply(params, {}, tokens, mask=mask, token_types=token_types)[0]


class BareModel(EncoderModel):
    def result(self, outputs: Any) -> Encoded:
        return Encoded(*outputs)


class SpanModel(EncoderModel):
    head = heads.QuestionAnswering

    def result(self, outputs: Any) -> SpanLogits:
        return SpanLogits(outputs[..., 0], outputs[..., 1])


class PreTrainingModel(EncoderModel):
    head = heads.PreTraining

    def result(self, outputs: Any) -> PreTrainingLogits:
        return PreTrainingLogits(*outputs)


def _class(family: type[Architecture], head: type[Head], base: type[EncoderModel] = EncoderModel) -> Any:
    """`BertForSequenceClassification` and its relatives: a family and a head."""
    name = family.hf_class + HF_HEADS[head]
    return type(name, (base,), {"family": family, "head": head, "__module__": __name__, "__doc__": head.__doc__})


BertModel = _class(BertArchitecture, Head, BareModel)
BertForSequenceClassification = _class(BertArchitecture, heads.SequenceClassification)
BertForTokenClassification = _class(BertArchitecture, heads.TokenClassification)
BertForMaskedLM = _class(BertArchitecture, heads.MaskedLM)
BertForNextSentencePrediction = _class(BertArchitecture, heads.NextSentence)
BertForPreTraining = _class(BertArchitecture, heads.PreTraining, PreTrainingModel)
BertForQuestionAnswering = _class(BertArchitecture, heads.QuestionAnswering, SpanModel)
BertForMultipleChoice = _class(BertArchitecture, heads.MultipleChoice)
RobertaModel = _class(RobertaArchitecture, Head, BareModel)
RobertaForSequenceClassification = _class(RobertaArchitecture, heads.SequenceClassification)
RobertaForTokenClassification = _class(RobertaArchitecture, heads.TokenClassification)
RobertaForMaskedLM = _class(RobertaArchitecture, heads.MaskedLM)
RobertaForQuestionAnswering = _class(RobertaArchitecture, heads.QuestionAnswering, SpanModel)
RobertaForMultipleChoice = _class(RobertaArchitecture, heads.MultipleChoice)
DistilBertModel = _class(DistilBertArchitecture, Head, BareModel)
DistilBertForSequenceClassification = _class(DistilBertArchitecture, heads.SequenceClassification)
DistilBertForTokenClassification = _class(DistilBertArchitecture, heads.TokenClassification)
DistilBertForMaskedLM = _class(DistilBertArchitecture, heads.MaskedLM)
DistilBertForQuestionAnswering = _class(DistilBertArchitecture, heads.QuestionAnswering, SpanModel)
DistilBertForMultipleChoice = _class(DistilBertArchitecture, heads.MultipleChoice)
AlbertModel = _class(AlbertArchitecture, Head, BareModel)
AlbertForSequenceClassification = _class(AlbertArchitecture, heads.SequenceClassification)
AlbertForTokenClassification = _class(AlbertArchitecture, heads.TokenClassification)
AlbertForMaskedLM = _class(AlbertArchitecture, heads.MaskedLM)
AlbertForPreTraining = _class(AlbertArchitecture, heads.PreTraining, PreTrainingModel)
AlbertForQuestionAnswering = _class(AlbertArchitecture, heads.QuestionAnswering, SpanModel)
AlbertForMultipleChoice = _class(AlbertArchitecture, heads.MultipleChoice)
