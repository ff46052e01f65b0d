"""A trained model to hand on."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from lepjax.core import hub
from lepjax.core.errors import UserError
from lepjax.models import pretrained
from lepjax.models.bert import Bert
from lepjax.models.face import EncoderModel, tokenizer_files
from lepjax.run.final import Trained

SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def encoder_of(trained: Trained, where: str) -> EncoderModel:
    """The model of a run, with the names of its labels. Raises `UserError` for a run of another kind of model."""
    recipe = trained.built.experiment.model
    if not isinstance(recipe, Bert):
        raise UserError(f"is a run of {type(recipe).__name__}", where=where, fix="This is for text encoders.")
    params = jax.tree.map(jnp.asarray, jax.device_get(trained.params))
    return EncoderModel(recipe, params, trained.built.splits.labels)


def save(trained: Trained, folder: pathlib.Path, where: str) -> None:
    """Writes what a run has learned as a folder that transformers loads, with the tokenizer it started from.

    Raises `UserError` for a model that transformers does not know.
    """
    recipe = trained.built.experiment.model
    if isinstance(recipe, Bert):
        encoder_of(trained, where).save_pretrained(folder)  # knows the names of labels besides
        return
    config, tensors = recipe.folder(jax.device_get(trained.params), trained.built.model.leaves)
    source: str = getattr(recipe, "pretrained", "")
    config = {**config, **_special_tokens(source), "torch_dtype": "float32"}
    pretrained.write(folder, config, tensors, tokenizer_files(source))


def _special_tokens(source: str) -> dict[str, Any]:
    """Their ids as `source` has them. None without one: transformers would take those of the family's released model."""
    known = pretrained.read_config(hub.folder(source)) if source else {}
    return {key: known.get(key) for key in SPECIAL_TOKENS}
