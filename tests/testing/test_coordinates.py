"""The coordinate check tells muP from other parametrisations."""

import dataclasses

import pytest

from lepjax.core.optimizers import SGD, Adam, Lion, Muon
from lepjax.models.bert import Bert
from lepjax.models.bert_heads import SequenceClassification
from lepjax.models.gpt2 import Gpt2
from lepjax.models.mup import Mup
from lepjax.testing import assert_width_independent
from tests.labelled import SIZES, labelled
from tests.tiny import TinyText, tiny

BASE = Mup(width=32, heads=4)
WIDTHS = (32, 128)
ADAM = Adam(learning_rate=2e-3)
STEEP = r"width\^(0\.[5-9]|[1-9]\.)\d+"


def gpt(mup=BASE, optimizer=ADAM):
    def at(width):
        model = Gpt2(vocab_size=256, context=16, layers=1, heads=4, width=width, bias=False, mup=mup)
        return tiny(model=model, data=TinyText(batch_size=8, length=16), optimizer=optimizer)

    return at


def bert(mup=BASE, optimizer=ADAM):
    def at(width):
        architecture = dataclasses.replace(SIZES, width=width, heads=4, mlp_width=4 * width, layers=1, mup=mup)
        model = Bert(architecture=architecture, head=SequenceClassification(2))
        return labelled(model=model, optimizer=optimizer)

    return at


class SameRate(Adam):
    """Adam as if no parameter had grown."""

    def width_rate(self, leaf):
        return 1.0


def test_all_widths_move_alike():
    assert_width_independent(gpt(), WIDTHS)


def test_sabotage_without_the_rates_the_wide_one_moves_further():
    with pytest.raises(AssertionError, match=rf"moves by {STEEP} over the widths 32, 128; at most 0.2"):
        assert_width_independent(gpt(optimizer=SameRate(learning_rate=2e-3)), WIDTHS)


def test_sabotage_the_standard_parametrisation_is_not_flat():
    with pytest.raises(AssertionError, match=f"moves by {STEEP}"):
        assert_width_independent(gpt(mup=None), WIDTHS)


@pytest.mark.full
def test_all_widths_of_bert_move_alike():
    """From 64 on: between 32 and 128 the keys of its single layer move by width^-0.27, which is not there any more above."""
    assert_width_independent(bert(), (64, 256))
    with pytest.raises(AssertionError, match=f"moves by {STEEP}"):
        assert_width_independent(bert(mup=None), (64, 256))


@pytest.mark.full
@pytest.mark.parametrize(
    "optimizer",
    [SGD(learning_rate=0.3), Muon(learning_rate=1e-2), Lion(learning_rate=1e-3)],
    ids=lambda o: type(o).__name__,
)
def test_every_optimizer_has_its_rule(optimizer):
    assert_width_independent(gpt(optimizer=optimizer), (64, 256))
    with pytest.raises(AssertionError, match=f"moves by {STEEP}"):
        assert_width_independent(gpt(mup=None, optimizer=optimizer), (64, 256))
