"""GPT-2 in the folders of Hugging Face: its sizes in config.json, and what GPT2LMHeadModel calls its parts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from lepjax.core.errors import UserError
from lepjax.models.pretrained import sizes
from lepjax.models.weights import Array, Layout, Naming

EPS = 1e-5  # of the layer norms


@dataclasses.dataclass(frozen=True)
class Gpt2Architecture:
    """What decides the shapes of the parameters; see `Gpt2` for each."""

    vocab_size: int
    context: int
    layers: int
    heads: int
    width: int

    model_type: ClassVar[str] = "gpt2"
    hf_class: ClassVar[str] = "GPT2LMHeadModel"
    keys: ClassVar[Mapping[str, str]] = {
        "vocab_size": "vocab_size",
        "context": "n_positions",
        "layers": "n_layer",
        "heads": "n_head",
        "width": "n_embd",
    }

    @property
    def naming(self) -> Naming:
        """Our names are theirs, and so are the kernels: Conv1D keeps [in, out]."""
        return Naming(
            (),
            base="transformer.",
            layouts=((r"\.c_attn\.", by_head(self.heads)),),
            ignored=(".attn.bias", ".attn.masked_bias"),  # the causal mask, in older folders
            copies=(("lm_head.weight", "transformer.wte.weight"),),
        )

    def config(self) -> dict[str, Any]:
        """Our sizes as the keys of config.json."""
        return {
            "model_type": self.model_type,
            "architectures": [self.hf_class],
            **{key: getattr(self, ours) for ours, key in self.keys.items()},
            "activation_function": "gelu_new",
            "layer_norm_epsilon": EPS,
        }


def by_head(heads: int) -> Layout:
    """Columns [q|k|v, head, size] -> ours [head, q|k|v, size], of a kernel and of a bias."""

    def read(x: Array) -> Array:
        return x.reshape(*x.shape[:-1], 3, heads, -1).swapaxes(-3, -2).reshape(x.shape)

    def write(x: Array) -> Array:
        return x.reshape(*x.shape[:-1], heads, 3, -1).swapaxes(-3, -2).reshape(x.shape)

    return Layout(read, write)


def architecture(config: Mapping[str, Any], where: str) -> Gpt2Architecture:
    """The architecture that a config.json describes. Raises `UserError` for what `Gpt2` cannot express."""
    if config.get("model_type") != Gpt2Architecture.model_type:
        raise UserError(f"model_type {config.get('model_type')!r} is not supported", where=where, fix="Known: gpt2.")
    keys = Gpt2Architecture.keys
    arch = Gpt2Architecture(**sizes(config, keys, keys, where))
    refused = {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh", None),  # two names of the same function
        "layer_norm_epsilon": (EPS, None),
        "n_inner": (4 * arch.width, None),
        "scale_attn_weights": (True, None),
        "scale_attn_by_inverse_layer_idx": (False, None),
        "add_cross_attention": (False, None),
        "tie_word_embeddings": (True, None),
    }
    for key, fine in refused.items():
        if config.get(key) not in fine:
            raise UserError(f"{key} {config[key]!r} is not supported", where=where, fix=f"Only {fine[0]!r} is.")
    return arch


def with_biases(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """With zeros for the biases that GPT2LMHeadModel has and a model without biases has not: they change nothing."""
    biased = [name for name in tensors if re.search(r"\.(ln|c)_\w+\.weight$", name)]
    zeros = {name.removesuffix("weight") + "bias": np.zeros(tensors[name].shape[-1:], np.float32) for name in biased}
    return {**zeros, **tensors}
