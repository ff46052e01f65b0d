"""muP: the table of the paper on our own parameters, nothing changed at the base, and what is refused."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from lepjax.core import fields, parameters
from lepjax.core.errors import UserError
from lepjax.core.optimizers import SGD, Adafactor, Adam, Muon
from lepjax.core.precision import FLOAT32
from lepjax.core.serialise import from_json, to_json
from lepjax.core.sharding import make_mesh, parse_mesh
from lepjax.experiment import identity
from lepjax.models import pretrained
from lepjax.models.bert import Bert
from lepjax.models.bert_family import AlbertArchitecture, BertArchitecture
from lepjax.models.bert_heads import MaskedLM, PreTraining, SequenceClassification
from lepjax.models.gpt2 import Gpt2
from lepjax.models.mup import Mup, folded, logits_factor, query_factor
from lepjax.plan import lowered
from tests.tiny import tiny

BASE = Mup(width=32, heads=2)
R = 4.0  # how many times as wide

# Yang et al. (2022), table 3, of a parameter that is R times as wide: initial standard deviation, rate of SGD, rate of Adam.
# microsoft/mup sets the same rates (MuSGD, MuAdam); its readout has them with a factor on the output instead (table 8).
INPUT = (1.0, R, 1.0)  # "input weights & all biases": embeddings, norms, biases that the width has
HIDDEN = (R**-0.5, 1.0, 1 / R)  # variance 1 / fan_in
OUTPUT = (1 / R, 1 / R, 1 / R)  # variance 1 / fan_in^2
FIXED = (1.0, 1.0, 1.0)  # has no width
GPT2 = {
    "wte.embedding": INPUT,
    "wpe.embedding": INPUT,
    "h.*.ln_1.scale": INPUT,
    "h.*.attn.c_attn.kernel": HIDDEN,
    "h.*.attn.c_attn.bias": INPUT,
    "h.*.attn.c_proj.kernel": HIDDEN,
    "h.*.mlp.c_fc.kernel": HIDDEN,
    "h.*.mlp.c_fc.bias": INPUT,
    "h.*.mlp.c_proj.kernel": HIDDEN,
    "ln_f.bias": INPUT,
}
BERT = {
    "embeddings.word_embeddings.embedding": INPUT,
    "embeddings.token_type_embeddings.embedding": INPUT,
    "encoder.layer.*.attention.query.kernel": HIDDEN,
    "encoder.layer.*.mlp.down.kernel": HIDDEN,
    "encoder.layer.*.mlp.norm.scale": INPUT,
    "pooler.dense.kernel": HIDDEN,
    "head.transform.dense.kernel": HIDDEN,
    "head.bias": FIXED,
    "head.relation.kernel": OUTPUT,
    "head.relation.bias": FIXED,
}


def gpt(width=128, mup=BASE, **options):
    return Gpt2(vocab_size=64, context=16, layers=2, heads=2, width=width, mup=mup, **options)


def bert(width=128, mup=BASE, head=PreTraining(), kind=BertArchitecture, **options):
    arch = kind(vocab_size=64, width=width, layers=2, heads=2, mlp_width=3 * width, positions=16, mup=mup)
    return Bert(architecture=arch, head=head, **options)


def leaves_of(model):
    """{name: leaf}, of every layer alone."""
    flat = parameters.flat(model.build(FLOAT32).leaves)
    return {name: leaf for leaf in flat for name in leaf.names}


@pytest.mark.parametrize("scan", [True, False], ids=["scanned", "unrolled"])
@pytest.mark.parametrize(("make", "table"), [(gpt, GPT2), (bert, BERT)], ids=["gpt2", "bert"])
def test_table_3(make, table, scan):
    leaves = leaves_of(make(scan=scan))
    for name, expected in table.items():
        leaf = leaves[name.replace("*", "1")]
        found = (leaf.init, SGD().width_rate(leaf), Adam().width_rate(leaf))
        assert found == pytest.approx(expected), name
    at_the_base = leaves_of(make(width=32, scan=scan)).values()
    assert all((x.growth, x.init) == ((1.0, 1.0), 1.0) for x in at_the_base)


def test_other_optimizers():
    """Adafactor multiplies by the parameter's size already; a step of Muon has the spectral norm (outputs / inputs)^1/2."""
    leaves = leaves_of(gpt())
    hidden, narrowing = leaves["h.0.attn.c_proj.kernel"], leaves["h.0.mlp.c_proj.kernel"]
    assert Adafactor().width_rate(hidden) == pytest.approx(R**-0.5)
    assert Muon().width_rate(hidden) == Muon().width_rate(narrowing) == pytest.approx(R**-0.5)
    assert Muon().width_rate(leaves["wte.embedding"]) == Muon().width_rate(leaves["ln_f.scale"]) == 1.0


def test_the_factors_of_table_8():
    """Attention by 1 / size, which at the base is its size^-1/2; tied logits by 1 / width."""
    for heads in (2, 8):
        size = 128 / heads
        assert query_factor(BASE, 128, heads) * size**-0.5 == pytest.approx(16**0.5 / size)
    assert logits_factor(BASE, 128) == 1 / R
    assert query_factor(None, 128, 2) == logits_factor(None, 128) == 1.0


def test_initial_values_are_the_standard_ones_scaled():
    key = jax.random.key(0)
    model = gpt()
    draw, draw_plain = model.build(FLOAT32).init, dataclasses.replace(model, mup=None).build(FLOAT32).init
    ours, theirs = jax.jit(lambda key: (draw(key)[0], draw_plain(key)[0]))(key)
    for leaf, mine, plain in zip(
        parameters.flat(model.build(FLOAT32).leaves), jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True
    ):
        np.testing.assert_allclose(mine, plain * leaf.init, rtol=1e-6)


# ---- nothing changes at the base, and nothing for who does not ask ----


@functools.cache
def program(model):
    """The text of the training step and of initialisation: equal programs compute equal bits."""
    mesh = make_mesh(parse_mesh("data=1", 1), jax.devices()[:1])
    step = lowered.abstract_step(tiny(model=model), mesh, lowered.token_batch(2, 16))
    return step.lower().as_text() + jax.jit(step.model.init).lower(jax.random.key(0)).as_text()


def test_at_the_base_it_is_the_same_program():
    assert program(gpt(width=32)) == program(gpt(width=32, mup=None))


def test_sabotage_of_another_base_it_is_another_program():
    assert program(gpt(width=32, mup=Mup(16, 2))) != program(gpt(width=32, mup=None))


def test_it_is_part_of_the_identity_only_where_it_is_set():
    """Runs from before there was muP are found under their names."""
    plain, wide = tiny(), tiny(model=dataclasses.replace(tiny().model, mup=BASE))
    assert not [path for path, *_ in fields.walk(plain) if path.endswith(".mup")]
    assert identity(wide) != identity(plain)
    assert identity(wide) != identity(tiny(model=dataclasses.replace(tiny().model, mup=Mup(64, 2))))
    assert from_json(json.loads(json.dumps(to_json(wide)))) == wide


# ---- readouts of zero ----


def test_zero_readout():
    zero = dataclasses.replace(BASE, zero_readout=True)
    for width in (32, 128):
        leaves = leaves_of(bert(width=width, mup=zero, head=SequenceClassification()))
        assert [name for name, leaf in leaves.items() if leaf.init == 0.0] == ["head.classifier.kernel"]


def test_a_tied_output_cannot_begin_at_zero():
    for model in (gpt(mup=Mup(32, 2, zero_readout=True)), bert(mup=Mup(32, 2, zero_readout=True), head=MaskedLM())):
        with pytest.raises(UserError, match=r"zero_readout.*no parameters of its own"):
            model.build(FLOAT32)
    with pytest.raises(UserError, match="ALBERT has no zero readout"):
        bert(mup=Mup(32, 2, zero_readout=True), kind=AlbertArchitecture)


# ---- for programs that know nothing of muP ----

IDS = jax.random.randint(jax.random.key(1), (2, 16), 0, 64)


def answers(model, params):
    return np.asarray(jax.jit(lambda params: model.build(FLOAT32).apply(params, {}, IDS)[0])(params))


def trained(model):
    """Parameters in which every factor matters."""
    leaves, rng = model.build(FLOAT32).leaves, np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), leaves, is_leaf=parameters.is_leaf)


def test_a_folder_holds_the_same_function(tmp_path):
    model = gpt()
    params = trained(model)
    pretrained.write(tmp_path / "gpt2", *model.folder(params, model.build(FLOAT32).leaves))
    read = Gpt2(pretrained=str(tmp_path / "gpt2"))
    theirs = read.build(FLOAT32)
    there = parameters.replaced(params, theirs.leaves, read.weights(theirs.leaves))
    expected = answers(model, params)
    np.testing.assert_allclose(answers(read, there), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(AssertionError):  # the same parameters without the factors
        np.testing.assert_allclose(answers(read, params), expected, rtol=1e-4, atol=1e-4)


def test_folded_parameters_of_bert_compute_the_same():
    model, plain = (bert(mup=mup, head=MaskedLM(), scan=True, dropout=None) for mup in (BASE, None))
    params = trained(model)
    there = folded(params, model.build(FLOAT32).leaves, model.arch.factors)
    expected = answers(model, params)
    np.testing.assert_allclose(answers(plain, there), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(answers(plain, params), expected, rtol=1e-4, atol=1e-4)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gpt2(pretrained="nowhere", mup=BASE), "model.mup: pretrained GPT-2 is not in muP"),
        (lambda: bert(pretrained="nowhere"), "architecture.mup: pretrained weights are not in muP"),
        (lambda: Mup(30, 4), "a base of width 30 with 4 heads"),
        (lambda: Mup(0, 4), "a base of width 0"),
        (lambda: dataclasses.replace(bert().architecture, mlp_width=129).resized(32, 2), "no equal for width 32"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
