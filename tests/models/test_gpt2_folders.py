"""GPT-2 in Hugging Face's folders: what is written is read, and what cannot be read is said in one line.

Parity with transformers: tests/parity.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lepjax.cli._overrides import apply
from lepjax.core.errors import UserError
from lepjax.core.precision import FLOAT32
from lepjax.core.serialise import from_json, to_json
from lepjax.experiment import build
from lepjax.models import pretrained, weights
from lepjax.models.gpt2 import Gpt2
from lepjax.models.gpt2_family import architecture, by_head
from tests.folders import loaded
from tests.tiny import tiny

TINY = Gpt2(vocab_size=61, context=24, layers=2, heads=4, width=32)
OLD = {"transformer.h.0.attn.bias": np.ones((1, 1, 24, 24)), "transformer.h.1.attn.masked_bias": np.float32(-1e4)}
WTE, HEAD = "transformer.wte.weight", "lm_head.weight"


def noisy(recipe):
    """(model, parameters of which none is 0 or 1)."""
    model = recipe.build(FLOAT32)
    noise = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0))[0]
    return model, jax.tree.map(lambda x: noise.standard_normal(x.shape, np.float32), shapes)


@pytest.fixture(scope="module")
def params():
    return noisy(TINY)[1]


@pytest.fixture
def folder(params, tmp_path):
    pretrained.write(tmp_path / "gpt2", *TINY.folder(params, TINY.build(FLOAT32).leaves))
    return tmp_path / "gpt2"


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def change_tensors(folder, change):
    tensors = change(load_file(folder / pretrained.WEIGHTS))
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, folder / pretrained.WEIGHTS)


def change_config(folder, **changes):
    path = folder / pretrained.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# ---- what comes back ----


def test_what_is_written_is_read(params, folder, tmp_path):
    recipe, model, read = loaded(folder, Gpt2)
    same(read, params)
    assert dataclasses.replace(recipe, pretrained="") == TINY
    pretrained.write(tmp_path / "again", *recipe.folder(read, model.leaves))
    for name in (pretrained.CONFIG, pretrained.WEIGHTS):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()

    change_tensors(folder, lambda tensors: {**tensors, WTE: np.nextafter(tensors[WTE], np.float32(9))})
    with pytest.raises(AssertionError):
        same(loaded(folder, Gpt2)[2], params)


def test_unrolled_layers_are_the_same(params, folder):
    read = loaded(folder, Gpt2, scan=False)[2]
    for i in range(TINY.layers):
        same(read["h"][i], jax.tree.map(lambda x, i=i: x[i], params["h"]))


def test_columns_are_ordered_by_head():
    """Written by hand: 2 heads of size 1 have the columns q0 q1 k0 k1 v0 v1 there, q0 k0 v0 q1 k1 v1 here."""
    theirs, ours = np.array([1, 2, 3, 4, 5, 6]), np.array([1, 3, 5, 2, 4, 6])
    for x, y in ((theirs, ours), (np.stack([theirs, -theirs]), np.stack([ours, -ours]))):
        same(by_head(2).read(x), y)
        same(by_head(2).write(y), x)


def bare(tensors):
    return {name.removeprefix("transformer."): array for name, array in tensors.items()}


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: {**tensors, **OLD},
        lambda tensors: bare({**tensors, **OLD}),
        lambda tensors: {**tensors, HEAD: tensors[WTE]},
        lambda tensors: {HEAD if name == WTE else name: array for name, array in tensors.items()},
        lambda tensors: {**bare(tensors), HEAD: tensors[WTE]},
    ],
    ids=["masks", "no prefix, masks", "the output twice", "the output instead", "no prefix, the output twice"],
)
def test_older_and_other_folders(params, folder, change):
    change_tensors(folder, change)
    same(loaded(folder, Gpt2)[2], params)


def test_what_has_no_place_is_told(folder):
    change_tensors(folder, lambda tensors: {**tensors, "transformer.h.0.extra.bias": tensors["transformer.ln_f.bias"]})
    recipe = Gpt2(pretrained=str(folder))
    read = weights.read(folder, recipe.build(FLOAT32).leaves, recipe.arch.naming)
    assert (read.new, read.unused) == ((), ("transformer.h.0.extra.bias",))


def test_training_starts_from_it(params, folder):
    """And the data is checked against the folder's sizes."""
    change_config(folder, vocab_size=256, n_positions=32)
    change_tensors(
        folder, lambda tensors: {**tensors, WTE: np.ones((256, 32)), "transformer.wpe.weight": np.ones((32, 32))}
    )
    start = build(tiny(model=Gpt2(pretrained=str(folder)), mesh="data=1"), jax.devices()[:1]).init().params
    same(start["h"], params["h"])
    assert start["wte"]["embedding"].shape == (256, 32) and (start["wte"]["embedding"] == 1).all()
    change_config(folder, vocab_size=61)
    with pytest.raises(UserError, match="model.vocab_size: the data has 256 tokens, the model 61"):
        build(tiny(model=Gpt2(pretrained=str(folder)), mesh="data=1"), jax.devices()[:1])


def test_it_is_named_on_the_command_line(folder):
    """Its sizes replace those of the experiment's own model, and what is wrong is told as for any field."""
    made = apply(tiny(model=Gpt2(layers=12)), ["--model.pretrained", str(folder), "--model.dropout", "0.2"], "tiny.py")
    assert made.model == dataclasses.replace(TINY, pretrained=str(folder), dropout=0.2)
    assert from_json(to_json(made)) == made
    with pytest.raises(UserError, match="/nowhere: no such folder"):
        apply(tiny(), ["--model.pretrained", "/nowhere"], "tiny.py")


def test_a_model_without_biases_gets_zeros(tmp_path):
    recipe = dataclasses.replace(TINY, bias=False)
    model, params = noisy(recipe)
    pretrained.write(tmp_path, *recipe.folder(params, model.leaves))
    _, other, read = loaded(tmp_path, Gpt2)
    tokens = np.arange(12).reshape(1, 12)
    np.testing.assert_allclose(other.apply(read, {}, tokens)[0], model.apply(params, {}, tokens)[0], rtol=1e-5)
    same(read["h"]["mlp"]["c_fc"]["bias"], np.zeros((2, 128)))


def test_dropout_is_told():
    model, params = noisy(dataclasses.replace(TINY, dropout=0.25))
    config, _ = dataclasses.replace(TINY, dropout=0.25).folder(params, model.leaves)
    assert {config[key] for key in ("embd_pdrop", "attn_pdrop", "resid_pdrop")} == {0.25}


# ---- what is wrong ----


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"model_type": "gpt_neo"}, "model_type 'gpt_neo' is not supported. Known: gpt2."),
        ({"n_embd": None}, "has no 'n_embd'"),
        ({"n_head": "four"}, "n_head 'four' is no number"),
        ({"activation_function": "relu"}, "activation_function 'relu' is not supported. Only 'gelu_new' is."),
        ({"activation_function": "gelu"}, "activation_function 'gelu' is not supported. Only 'gelu_new' is."),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon 1e-06 is not supported. Only 1e-05 is."),
        ({"n_inner": 64}, "n_inner 64 is not supported. Only 128 is."),
        ({"scale_attn_weights": False}, "scale_attn_weights False is not supported. Only True is."),
        (
            {"scale_attn_by_inverse_layer_idx": True},
            "scale_attn_by_inverse_layer_idx True is not supported. Only False is.",
        ),
        ({"add_cross_attention": True}, "add_cross_attention True is not supported. Only False is."),
        ({"tie_word_embeddings": False}, "tie_word_embeddings False is not supported. Only True is."),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_what_cannot_be_expressed_is_refused(config, line):
    with pytest.raises(UserError) as caught:
        architecture({**TINY.arch.config(), **config}, "config.json")
    assert str(caught.value) == f"config.json: {line}"


def test_sabotage_what_can_be_expressed_is_not_refused():
    config = {"activation_function": "gelu_pytorch_tanh", "n_inner": 128, "reorder_and_upcast_attn": True}
    assert architecture({**TINY.arch.config(), **config}, "config.json") == TINY.arch
    keys = ("model_type", "vocab_size", "n_positions", "n_embd", "n_layer", "n_head")  # the oldest folders say no more
    assert architecture({key: TINY.arch.config()[key] for key in keys}, "config.json") == TINY.arch


def lose(name):
    def damage(folder):
        change_tensors(folder, lambda tensors: {key: array for key, array in tensors.items() if key != name})

    return damage


def cut(folder):
    path = folder / pretrained.WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES = {
    "no config": (lambda f: (f / "config.json").unlink(), "gpt2/config.json: no such file"),
    "a missing tensor": (
        lose("transformer.h.1.attn.c_attn.weight"),
        "gpt2: has no tensor transformer.h.1.attn.c_attn.weight. Is it another architecture?",
    ),
    "no token embedding": (lose(WTE), f"gpt2: has no tensor {WTE}. Is it another architecture?"),
    "cut short": (cut, "gpt2/model.safetensors: is damaged or cut short ("),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "gpt2: no model.safetensors. Save the model as"),
    "another size": (
        lambda f: change_config(f, n_positions=30),
        "gpt2/model.safetensors transformer.wpe.weight: shape (24, 32), expected (30, 32)",
    ),
    "heads that do not divide": (
        lambda f: change_config(f, n_head=5),
        "model.width: width 32 is not a multiple of 5 heads",
    ),
    "an output of its own": (
        lambda f: change_tensors(f, lambda tensors: {**tensors, HEAD: 2 * tensors[WTE]}),
        f"gpt2/model.safetensors {HEAD}: differs from {WTE}. Both have to be the same array.",
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_bad_folders(what, folder):
    damage, line = DAMAGES[what]
    damage(folder)
    with pytest.raises(UserError) as caught:
        loaded(folder, Gpt2)
    text = str(caught.value)
    assert text.removeprefix(f"{folder.parent}/").startswith(line) and "\n" not in text, text


def test_no_folder():
    with pytest.raises(UserError, match="/nowhere: no such folder"):
        Gpt2(pretrained="/nowhere")


def test_pretrained_has_biases(folder):
    with pytest.raises(UserError, match="model.bias: pretrained GPT-2 has biases. Leave it true."):
        Gpt2(pretrained=str(folder), bias=False)
