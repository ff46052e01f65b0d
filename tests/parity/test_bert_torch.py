"""BERT, RoBERTa, DistilBERT and ALBERT against transformers on torch: every class of lepjax.models.face, both ways.

Tiny random models, far from their initial values, in float32 on both sides. Measured on a CPU with torch 2.13.0 and
transformers 5.23.0: logits differ by 5e-6 at most, of values up to 5; gradients by 3e-6 of a leaf's norm where it is not
zero but for rounding.
"""

import copy
import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lepjax.core import parameters
from lepjax.models import bert_heads as heads
from lepjax.models import face, weights
from lepjax.models.bert import Head
from lepjax.tasks.classification import Classification
from lepjax.tasks.masked_lm import MaskedLanguageModeling, PreTraining
from lepjax.tasks.multiple_choice import MultipleChoice
from lepjax.tasks.question_answering import QuestionAnswering
from lepjax.tasks.regression import Regression
from lepjax.tasks.tagging import Tagging
from lepjax.tasks.task import make_loss

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("quickly")

ROWS, CHOICES, LENGTH, VOCAB = 4, 2, 13, 101
NAMES = ("no", "perhaps", "yes")
SIZES = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 20}
CONFIGS = {
    "Bert": {**SIZES, "num_hidden_layers": 2, "type_vocab_size": 2},
    "Roberta": {
        **SIZES,
        "num_hidden_layers": 2,
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "layer_norm_eps": 1e-5,
        "hidden_act": "relu",
    },
    "DistilBert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 20},
    "Albert": {**SIZES, "num_hidden_layers": 2, "type_vocab_size": 2, "embedding_size": 16},
}
PADS = {"Roberta": 1}
TYPED = ("Bert", "Albert")
CLASSES = [
    name
    for name, cls in vars(face).items()
    if isinstance(cls, type) and issubclass(cls, face.EncoderModel) and name.startswith(tuple(CONFIGS))
]
REGRESSIONS = [f"{name} of one label" for name in CLASSES if name.endswith("SequenceClassification")]
TASKS = {
    heads.SequenceClassification: Classification(NAMES),
    heads.TokenClassification: Tagging(NAMES),
    heads.MultipleChoice: MultipleChoice(),
    heads.QuestionAnswering: QuestionAnswering(),
    heads.MaskedLM: MaskedLanguageModeling(),
    heads.NextSentence: Classification(),
    heads.PreTraining: PreTraining(),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One class on one batch. `inputs` and `answers` are the arguments of transformers' model."""

    theirs: object
    folder: object
    task: object
    inputs: dict
    answers: dict
    batch: dict

    def their_outputs(self, **answers):
        tensors = {name: torch.as_tensor(value) for name, value in {**self.inputs, **answers}.items()}
        return self.theirs(**tensors).to_tuple()

    def our_outputs(self, ours):
        return tuple(x for x in ours(**self.inputs) if x is not None)  # DistilBERT has no pooler


def family_of(name):
    return next(family for family in CONFIGS if name.startswith(family))


def random_model(name, **options):
    """transformers' class, every parameter far from where training starts."""
    family = family_of(name)
    torch.manual_seed(8)
    config = getattr(transformers, f"{family}Config")(vocab_size=VOCAB, **{**CONFIGS[family], **options})
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            centre = 1.0 if "norm" in key.lower() and key.endswith("weight") else 0.0
            weight.copy_(centre + 0.2 * torch.randn_like(weight))
    return model


def random_inputs(family, shape):
    """Rows of unequal length, padded on the right, in the names of transformers."""
    random = np.random.default_rng(8)
    ids = random.integers(5, VOCAB, shape)
    mask = np.arange(LENGTH) < random.integers(6, LENGTH + 1, shape[:-1])[..., None]
    inputs = {"input_ids": np.where(mask, ids, PADS.get(family, 0)), "attention_mask": mask.astype(np.int64)}
    if family in TYPED:
        inputs["token_type_ids"] = (np.arange(LENGTH) > random.integers(2, 5, shape[:-1])[..., None]).astype(np.int64)
    return inputs


def random_answers(head, mask, labels):
    """(what transformers takes, what our task takes)"""
    random = np.random.default_rng(9)
    if head is Head:
        return {}, {}
    if head is heads.SequenceClassification and labels == 1:
        value = random.normal(size=ROWS).astype(np.float32)
        return {"labels": value}, {"label": value}
    if head is heads.QuestionAnswering:
        start, end = random.integers(0, 3, ROWS), random.integers(3, 6, ROWS)
        return {"start_positions": start, "end_positions": end}, {"start": start, "end": end}
    if head is heads.TokenClassification:
        tags = np.where(mask.astype(bool) & (random.random(mask.shape) < 0.6), random.integers(0, 3, mask.shape), -100)
        return {"labels": tags}, {"label": tags, "label_weight": (tags >= 0).astype(np.float32)}
    relation = random.integers(0, 2, ROWS)
    if head in (heads.MaskedLM, heads.PreTraining):
        words = np.where(
            mask.astype(bool) & (random.random(mask.shape) < 0.3), random.integers(5, VOCAB, mask.shape), -100
        )
        places = np.argsort(words < 0, axis=1, kind="stable")[:, : (words >= 0).sum(1).max()]
        label = np.take_along_axis(words, places, 1)
        ours = {"places": places, "label": label, "label_weight": (label >= 0).astype(np.float32)}
        return {"labels": words, "relation": relation}, {**ours, "relation": relation}
    classes = len(NAMES) if head is heads.SequenceClassification else 2
    label = random.integers(0, classes, ROWS)
    return {"labels": label}, {"label": label}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    @functools.cache
    def make(name):
        name, _, single = name.partition(" ")
        family, head, labels = family_of(name), getattr(face, name).head, 1 if single else len(NAMES)
        shape = (ROWS, CHOICES, LENGTH) if head is heads.MultipleChoice else (ROWS, LENGTH)
        options = {}
        if head in (heads.SequenceClassification, heads.TokenClassification):
            options = {"id2label": dict(enumerate(NAMES[:labels])), "label2id": {NAMES[i]: i for i in range(labels)}}
        theirs = random_model(name, **options)
        folder = tmp_path_factory.mktemp(name)
        theirs.save_pretrained(folder)
        inputs = random_inputs(family, shape)
        answers, ours = random_answers(head, inputs["attention_mask"], labels)
        if "relation" in answers:
            relation = answers.pop("relation")
            if head is heads.PreTraining:
                answers["next_sentence_label" if family == "Bert" else "sentence_order_label"] = relation
        given = {"tokens": "input_ids", "mask": "attention_mask", "token_types": "token_type_ids"}
        batch = {key: inputs[value] for key, value in given.items() if value in inputs}
        batch = {**batch, **ours, "weight": np.ones(ROWS, np.float32)}
        task = Regression() if single else TASKS.get(head)
        return Case(theirs, folder, task, inputs, answers, {k: jnp.asarray(v) for k, v in batch.items()})

    return make


@pytest.fixture(scope="module", params=[*CLASSES, *REGRESSIONS])
def each(request, case):
    """Every class in turn, with all its tests: what was built for one serves the next."""
    return case(request.param)


def load(case, **options):
    return getattr(face, type(case.theirs).__name__).from_pretrained(case.folder, dropout=None, **options)


def altered(model, **changes):
    """The model with functions applied to some of its parameters. Keys are their names with `__` for a dot."""
    leaves = {leaf.name: leaf for leaf in parameters.flat(model.functional.leaves)}
    values = dict(zip(leaves, jax.tree.leaves(model.params), strict=True))
    changed = {name: change(values[name]) for key, change in changes.items() for name in [key.replace("__", ".")]}
    return dataclasses.replace(model, params=parameters.replaced(model.params, model.functional.leaves, changed))


def loss_and_gradients(model, task, batch):
    """The loss as the training step puts it together, and its gradients under transformers' names."""
    loss = make_loss(task, model.functional)
    hparams = {name: jnp.float32(value) for name, value in task.hparams().items()}

    def total(params):
        terms, _, _ = loss(params, {}, batch, hparams, None, False)
        return sum(term.coefficient * term.sum / term.weight for term in terms.values())

    value, gradients = jax.jit(jax.value_and_grad(total))(model.params)
    head = type(model.recipe.head).__name__
    return value, weights.write(gradients, model.functional.leaves, model.recipe.arch.naming(head))


def their_loss_and_gradients(case):
    case.theirs.zero_grad()
    loss, *_ = case.their_outputs(**case.answers)
    loss.backward()
    return loss.item(), {name: weight.grad.numpy() for name, weight in case.theirs.named_parameters()}


def check_outputs(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=0, atol=1e-4)


def check_loss(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def check_gradients(ours, theirs):
    assert ours.keys() == theirs.keys()
    # What a softmax does not see (a bias that all keys share) has a gradient of zero, of which rounding leaves 1e-8.
    floor = 1e-4 * sum(np.sum(gradient**2) for gradient in theirs.values()) ** 0.5
    for name, gradient in theirs.items():
        error = np.linalg.norm(ours[name] - gradient) / max(np.linalg.norm(gradient), floor)
        assert error < 1e-3, f"{name}: {error:.1e} of its norm"


def without_padding_rows(gradients, model):
    """torch.nn.Embedding(padding_idx=...) never trains the row of the padding token; ours is trained like any other.
    Only a loss that looks at padding can tell: question answering, where every token may be a start or an end.
    """
    gradients = dict(gradients)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            array = gradients[f"{name}.weight"].copy()
            array[module.padding_idx] = 0
            gradients[f"{name}.weight"] = array
    return gradients


def test_outputs_loss_and_gradients(each):
    ours = load(each)
    assert (ours.new, ours.unused) == ((), ())
    check_outputs(each.our_outputs(ours), each.their_outputs())
    if each.task is None:  # a bare encoder
        return
    loss, gradients = loss_and_gradients(ours, each.task, each.batch)
    their_loss, their_gradients = their_loss_and_gradients(each)
    check_loss(loss, their_loss)
    if ours.head is heads.QuestionAnswering:
        gradients = without_padding_rows(gradients, each.theirs)
    check_gradients(gradients, their_gradients)


def test_stacked_layers(case):
    case = case("BertForMaskedLM")
    ours = load(case, scan=True)
    check_outputs(case.our_outputs(ours), case.their_outputs())
    check_gradients(loss_and_gradients(ours, case.task, case.batch)[1], their_loss_and_gradients(case)[1])


SABOTAGE = {
    "transposed": {"encoder__layer__0__attention__query__kernel": jnp.transpose},
    "no scale": {"encoder__layer__1__mlp__norm__scale": jnp.ones_like},
    "no bias": {"encoder__layer__0__attention__value__bias": jnp.zeros_like},
    "positions": {"embeddings__position_embeddings__embedding": lambda x: jnp.roll(x, 1, 0)},
    "token types": {"embeddings__token_type_embeddings__embedding": lambda x: x[::-1]},
    "labels": {"head__classifier__kernel": lambda x: x[:, ::-1]},
}


@pytest.mark.parametrize("how", SABOTAGE)
def test_sabotage_parameters(case, how):
    case = case("BertForTokenClassification")
    ours = load(case)
    check_outputs(case.our_outputs(ours), case.their_outputs())
    with pytest.raises(AssertionError):
        check_outputs(case.our_outputs(altered(ours, **SABOTAGE[how])), case.their_outputs())


@pytest.mark.parametrize("change", [{"hidden_act": "gelu_new"}, {"num_attention_heads": 2}], ids=str)
def test_sabotage_config(case, change, tmp_path):
    case = case("BertForTokenClassification")
    shutil.copytree(case.folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(AssertionError):
        check_outputs(case.our_outputs(load(dataclasses.replace(case, folder=tmp_path))), case.their_outputs())


def test_sabotage_loss_and_gradients(case):
    case = case("BertForTokenClassification")
    ours = load(case)
    loss, gradients = their_loss_and_gradients(case)
    # -100 counts as label 0.
    counted = {**case.batch, "label": jnp.maximum(case.batch["label"], 0), "label_weight": jnp.ones((ROWS, LENGTH))}
    wrong_loss, wrong_gradients = loss_and_gradients(ours, case.task, counted)
    with pytest.raises(AssertionError):
        check_loss(wrong_loss, loss)
    with pytest.raises(AssertionError):
        check_gradients(wrong_gradients, gradients)
    name = "bert.encoder.layer.0.attention.self.query.weight"
    for wrong in (gradients[name].T, 1.01 * gradients[name]):
        with pytest.raises(AssertionError, match=name):
            check_gradients({**gradients, name: wrong}, gradients)


def test_padding_on_the_left(case):
    """RoBERTa counts its positions from the first token that is no padding."""
    case = case("RobertaModel")
    flipped = dataclasses.replace(case, inputs={name: value[:, ::-1].copy() for name, value in case.inputs.items()})
    assert flipped.inputs["input_ids"][:, 0].min() == 1
    check_outputs(flipped.our_outputs(load(case)), flipped.their_outputs())


def test_albert_with_wide_embeddings(tmp_path):
    """transformers keeps the dense layer after the embeddings where it could do without."""
    theirs = random_model("AlbertModel", embedding_size=32)
    theirs.save_pretrained(tmp_path)
    case = Case(theirs, tmp_path, None, random_inputs("Albert", (ROWS, LENGTH)), {}, {})
    ours = load(case)
    assert (ours.new, ours.unused) == ((), ())
    check_outputs(case.our_outputs(ours), case.their_outputs())


# ---- folders ----


def test_transformers_loads_what_we_save(each, tmp_path):
    ours = load(each)
    trained = dataclasses.replace(ours, params=jax.tree.map(lambda x: 1.1 * np.asarray(x), ours.params))
    trained.save_pretrained(tmp_path)
    theirs, info = type(each.theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert {key: problems for key, problems in info.items() if problems} == {}
    loaded = dataclasses.replace(each, theirs=theirs.eval())
    check_outputs(each.our_outputs(trained), loaded.their_outputs())
    with pytest.raises(AssertionError):  # the parameters from before
        check_outputs(each.our_outputs(ours), loaded.their_outputs())
    assert theirs.config.id2label == each.theirs.config.id2label
    assert theirs.config.label2id == each.theirs.config.label2id
    for key in ours.recipe.arch.keys.values():
        assert getattr(theirs.config, key) == getattr(each.theirs.config, key), key
    assert theirs.config.architectures == [type(theirs).__name__]


def test_shards(case, tmp_path):
    case = case("BertForTokenClassification")
    case.theirs.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2 and (tmp_path / "model.safetensors.index.json").is_file()
    sharded = load(dataclasses.replace(case, folder=tmp_path))
    jax.tree.map(np.testing.assert_array_equal, sharded.params, load(case).params)
    with pytest.raises(AssertionError):
        one = altered(sharded, head__classifier__bias=lambda x: x + 1e-6)
        jax.tree.map(np.testing.assert_array_equal, one.params, load(case).params)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes(case, dtype, tmp_path):
    case = case("BertForTokenClassification")
    theirs = copy.deepcopy(case.theirs).to(getattr(torch, dtype))
    theirs.save_pretrained(tmp_path)
    ours = load(dataclasses.replace(case, folder=tmp_path))
    assert {x.dtype for x in jax.tree.leaves(ours.params)} == {np.dtype(np.float32)}
    head = type(ours.recipe.head).__name__
    written = weights.write(ours.params, ours.functional.leaves, ours.recipe.arch.naming(head))
    rounded = theirs.float().state_dict()
    assert written.keys() == rounded.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(array, rounded[name].numpy(), err_msg=name)
    changed = any((rounded[name] != weight).any() for name, weight in case.theirs.state_dict().items())
    assert changed == (dtype != "float64")
