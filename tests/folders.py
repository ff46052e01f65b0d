"""Models from folders, as tests of decoders need them."""

import jax

from lepjax.core import parameters
from lepjax.core.precision import FLOAT32
from lepjax.models import weights
from lepjax.models.llama import Llama


def loaded(folder, **options):
    """(recipe, functional model, parameters); nothing of the folder is left over and nothing is missing."""
    recipe = Llama(pretrained=str(folder), **options)
    model = recipe.build(FLOAT32)
    read = weights.read(folder, model.leaves, recipe.arch.naming)
    assert (read.new, read.unused) == ((), ())
    return recipe, model, jax.tree.map(lambda leaf: read.values[leaf.name], model.leaves, is_leaf=parameters.is_leaf)
