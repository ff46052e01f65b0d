"""Which models may fit, by what their vocabulary makes of the texts."""

import json

import jax
import numpy as np
import pytest

from lepjax.core import parameters
from lepjax.core.errors import UserError
from lepjax.core.precision import policy
from lepjax.data.tokenizer import Tokenizer
from lepjax.models.bert import Bert
from lepjax.models.bert_family import BertArchitecture
from lepjax.models.face import BertModel
from lepjax.tune import candidates
from lepjax.tune.candidates import Candidate, Refused, coverage, find, from_scratch, look, words
from tests.tune.folders import rows
from tests.words import word_pieces

SIZES = BertArchitecture(vocab_size=76, width=16, layers=2, heads=2, mlp_width=32, positions=64)
TEXTS = [text for text, _ in rows(40)]
CHINESE = ["酒店环境很好", "房间太小 不会再来"] * 10


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder of models: one that works two folders down, a decoder, one without weights, and no model at all."""
    top = tmp_path_factory.mktemp("models")
    word_pieces(top / "small" / "english")
    recipe = Bert(architecture=SIZES)
    leaves = recipe.build(policy("float32")).leaves
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), leaves, is_leaf=parameters.is_leaf)
    BertModel(recipe, zeros).save_pretrained(top / "small" / "english")
    for name, config in (("decoder", {"model_type": "gpt2"}), ("empty", {**SIZES.config()})):
        (top / name).mkdir()
        (top / name / "config.json").write_text(json.dumps(config))
    (top / "notes").mkdir()
    return top


def test_models_are_found_in_folders_below(models):
    assert [path.name for path in find([str(models)])] == ["decoder", "empty", "english"]
    assert [path.name for path in find([str(models / "decoder"), str(models)])][0] == "decoder"
    assert find([]) == []


@pytest.mark.parametrize(("name", "message"), [("notes", "holds no model"), ("nowhere", "no such folder")])
def test_folders_without_a_model(models, name, message):
    with pytest.raises(UserError, match=message):
        find([str(models / name)])


def test_a_model_that_fits(models):
    found = look(models / "small" / "english", TEXTS, None, 2)
    assert isinstance(found, Candidate) and not found.scratch and found.coverage.fits
    assert len(found.lengths) == 40 and found.percentile(0.5) <= found.percentile(1.0) == found.lengths.max()
    assert found.size == parameters.count(Bert(architecture=SIZES).build(policy("float32")).leaves) + 2 * 16 + 2


@pytest.mark.parametrize(("name", "message"), [("decoder", "model_type 'gpt2'"), ("empty", "no model.safetensors")])
def test_models_that_cannot_be_loaded_are_refused_with_the_reason(models, name, message):
    found = look(models / name, TEXTS, None, 2)
    assert isinstance(found, Refused) and message in found.why


def test_a_vocabulary_of_another_script_is_refused_with_its_numbers(models):
    found = look(models / "small" / "english", CHINESE, None, 2)
    assert isinstance(found, Refused) and "100.0% of its tokens are unknown" in found.why


def test_sabotage_without_the_rule_it_would_be_taken(models, monkeypatch):
    monkeypatch.setattr(candidates, "UNKNOWN", 1.0)
    assert isinstance(look(models / "small" / "english", CHINESE, None, 2), Candidate)


def test_a_vocabulary_that_spells_everything_is_refused(models):
    found = look(models / "small" / "english", ["extraordinary circumstances prevail"], None, 2)
    assert isinstance(found, Refused) and "tokens a word" in found.why


def test_from_scratch_every_character_is_known(tmp_path):
    found = from_scratch(CHINESE, None, 2, tmp_path)
    assert found.scratch and found.coverage.unknown == 0.0 and found.coverage.fits
    assert found.model.arch.vocab_size == Tokenizer.load(tmp_path).size


def test_coverage_counts_words_and_not_special_tokens(models):
    tokenizer = Tokenizer.load(models / "small" / "english")
    assert coverage(tokenizer, ["the fox", "the dog and"]) == candidates.Coverage(0.0, 1.0)
    assert coverage(tokenizer, ["the 好"]).unknown == 0.5


@pytest.mark.parametrize(("text", "count"), [("two words", 2), ("a.b", 3), ("很好 ok", 3), ("", 0), ("좋은", 2)])
def test_words(text, count):
    assert words(text) == count
