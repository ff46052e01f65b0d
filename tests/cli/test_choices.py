"""A flag chooses which kind of recipe a field holds."""

import pytest

from lepjax.cli import _choices
from lepjax.cli._overrides import apply
from lepjax.core.errors import UserError
from lepjax.core.optimizers import Muon
from lepjax.core.plateau import Plateau
from lepjax.data.batching import Packed
from lepjax.data.labelled import LabelledText
from lepjax.data.quarantine import BadRecords, Refuse, Skip
from lepjax.experiment import EarlyStopping, identity
from tests.labelled import labelled


def changed(*arguments, experiment=None):
    return apply(experiment or labelled(), list(arguments), "small.py")


def test_a_kind_and_its_fields():
    assert changed("--data.batching", "packed", "--data.batching.slots", "3").data.batching == Packed(slots=3)
    assert changed("--optimizer=muon", "--optimizer.beta", "0.9").optimizer == Muon(beta=0.9)
    texts = labelled(data=LabelledText())
    assert changed("--data.bad-records", "skip", experiment=texts).data.bad_records == Skip()
    three = changed("--data.bad-records", "skip", "--data.bad-records.most", "3", experiment=texts)
    assert three.data.bad_records == Skip(3) and identity(three) == identity(texts)
    assert changed("--data.bad-records", "refuse", experiment=three).data.bad_records == Refuse()
    assert _choices.kinds(BadRecords) == {"refuse": Refuse, "skip": Skip}


def test_a_field_that_may_be_empty():
    stopping = changed("--early-stopping", "early-stopping", "--early-stopping.patience", "5")
    assert stopping.early_stopping == EarlyStopping(patience=5)
    assert changed("--early-stopping.patience", "7", experiment=stopping).early_stopping == EarlyStopping(patience=7)
    assert changed("--early-stopping", "none", experiment=stopping).early_stopping is None
    assert changed("--plateau=plateau", "--plateau.factor=0.5").plateau == Plateau(factor=0.5)


MISTAKES = {
    ("--data.batching", "pack"): "--data.batching: no kind 'pack'. Did you mean packed?",
    ("--data.batching",): "--data.batching: needs a value. Known: buckets, fixed, packed.",
    ("--data.batchin", "packed"): "no field --data.batchin. Did you mean --data.batching?",
    ("--data.batching.most", "3"): "no field --data.batching.most",
    ("--seed.x", "3"): "no field --seed.x",
    ("--early-stopping", "yes"): "--early-stopping: no kind 'yes'. Known: early-stopping, none.",
    ("--early-stopping.patience", "3"): "no field --early-stopping.patience. Did you mean --early-stopping?",
    ("--ema.x", "3"): "no field --ema.x",
}


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_line(arguments):
    with pytest.raises(UserError) as error:
        changed(*arguments)
    assert MISTAKES[arguments] in str(error.value)


def test_sabotage_without_the_choice_the_flag_is_unknown(monkeypatch):
    monkeypatch.setattr(_choices, "choose", lambda config, arguments: (config, arguments))
    with pytest.raises(UserError, match="no field --data.batching"):
        changed("--data.batching", "packed")
