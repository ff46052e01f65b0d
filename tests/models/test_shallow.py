"""A pretrained encoder without its upper layers."""

import jax
import numpy as np
import pytest

from lepjax.core import parameters
from lepjax.core.errors import UserError
from lepjax.core.precision import policy
from lepjax.models import BertForSequenceClassification
from lepjax.models.bert import Bert
from lepjax.models.bert_heads import SequenceClassification
from lepjax.models.face import EncoderModel
from lepjax.models.shallow import ShallowBert

HEAD = SequenceClassification(2)


def values(recipe):
    """{name: array} of the pretrained parameters, and all leaves."""
    leaves = recipe.build(policy("float32")).leaves
    return recipe.weights(leaves), leaves


def test_the_lower_layers_are_the_pretrained_ones(tiny_bert):
    whole, _ = values(Bert(pretrained=str(tiny_bert), head=HEAD))
    lower, _ = values(ShallowBert(pretrained=str(tiny_bert), head=HEAD, keep=1))
    assert set(whole) - set(lower) == {name for name in whole if name.startswith("encoder.layer.1.")} != set()
    assert all(np.array_equal(array, whole[name]) for name, array in lower.items())


def test_all_layers_are_the_model_itself(tiny_bert):
    whole, _ = values(Bert(pretrained=str(tiny_bert), head=HEAD))
    assert values(ShallowBert(pretrained=str(tiny_bert), head=HEAD))[0].keys() == whole.keys()


def test_what_is_saved_is_a_folder_of_fewer_layers(tiny_bert, tmp_path):
    recipe = ShallowBert(pretrained=str(tiny_bert), head=HEAD, keep=1)
    read, leaves = values(recipe)

    def value(leaf):
        return read.get(leaf.name, np.ones(leaf.shape, np.float32))

    params = jax.tree.map(value, leaves, is_leaf=parameters.is_leaf)
    EncoderModel(recipe, params).save_pretrained(tmp_path)
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    assert again.recipe.arch.layers == 1 and not again.new and not again.unused


@pytest.mark.parametrize("keep", [-1, 3])
def test_layers_that_it_does_not_have(tiny_bert, keep):
    with pytest.raises(UserError, match=f"{keep} of 2 layers"):
        _ = ShallowBert(pretrained=str(tiny_bert), head=HEAD, keep=keep).arch
