"""A trained text encoder as a model to hand on."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lepjax.core.errors import UserError
from lepjax.models.bert import Bert
from lepjax.models.face import EncoderModel
from lepjax.run.final import Trained


def encoder_of(trained: Trained, where: str) -> EncoderModel:
    """The model of a run, with the names of its labels. Raises `UserError` for a run of another kind of model."""
    recipe = trained.built.experiment.model
    if not isinstance(recipe, Bert):
        raise UserError(f"is a run of {type(recipe).__name__}", where=where, fix="This is for text encoders.")
    params = jax.tree.map(jnp.asarray, jax.device_get(trained.params))
    return EncoderModel(recipe, params, trained.built.splits.labels)
