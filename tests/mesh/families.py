"""A small experiment of each model family, as mesh tests and process tests train them."""

import dataclasses

from lepjax.models.llama import Llama
from lepjax.models.llama_family import LlamaArchitecture
from lepjax.ops.rope import Llama3, Rope
from tests.labelled import labelled
from tests.tiny import tiny

# Heads and lengths divide by eight, so that any axis may take all devices.
LLAMA = LlamaArchitecture(
    vocab_size=256,
    width=64,
    mlp_width=128,
    layers=2,
    heads=8,
    kv_heads=8,
    context=32,
    rope=Rope(theta=5e4, scaling=Llama3(factor=4.0, original=16)),
)


def llama(**changes):
    """Grouped queries where the mesh's tensor axis allows; dropout on."""
    return tiny(model=Llama(architecture=LLAMA, dropout=0.1), **changes)


def grouped_llama(**changes):
    """Two query heads per key head."""
    return tiny(model=Llama(architecture=dataclasses.replace(LLAMA, kv_heads=4), dropout=0.1), **changes)


def bert(**changes):
    return labelled(**{"mesh": "auto", **changes})


FAMILIES = {"gpt": tiny, "bert": bert, "llama": llama, "grouped": grouped_llama}
