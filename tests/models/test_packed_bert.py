"""An encoder's answer to a record does not depend on its neighbours: alone, padded, bucketed and packed are one thing."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from lepjax.core import rng
from lepjax.core.loss_scale import none
from lepjax.core.optimizers import SGD
from lepjax.core.precision import FLOAT32
from lepjax.core.state import as_leaves, create
from lepjax.core.step import make_train_step
from lepjax.data.buckets import BucketEvaluationPlan
from lepjax.data.encoded import EncodedRecords
from lepjax.data.loader import load_rows
from lepjax.data.packing import PackedPlan
from lepjax.data.plan import EvaluationPlan
from lepjax.models.bert import Bert
from lepjax.models.bert_family import BertArchitecture, RobertaArchitecture
from lepjax.models.bert_heads import SequenceClassification
from lepjax.ops.dropout import OFF
from lepjax.run.predict import in_order
from lepjax.tasks.classification import Classification
from lepjax.tasks.task import make_loss

SIZES = {"vocab_size": 50, "width": 16, "layers": 2, "heads": 2, "mlp_width": 32, "positions": 42}
BERT = Bert(architecture=BertArchitecture(**SIZES), head=SequenceClassification(3), dropout=None, scan=True)
ROBERTA = dataclasses.replace(BERT, architecture=RobertaArchitecture(**SIZES))
FAMILIES = {"bert": BERT, "roberta": ROBERTA}
TASK = Classification(labels=("a", "b", "c"), class_loss_weights=(1.0, 2.0, 1.0))
HPARAMS = as_leaves({"label_smoothing": 0.1, "dropout": 0.2})
RECORDS = [3, 11, 6, 3, 11, 6, 6, 11, 3, 11, 3, 6, 6]  # tokens of each
LENGTH = 24  # of packed rows


def records(arch):
    """Random texts with all token types the model has."""
    noise = np.random.default_rng(0)
    starts = np.concatenate([[0], np.cumsum(RECORDS)])
    flat = {
        "tokens": noise.integers(2, arch.vocab_size, starts[-1]).astype(np.int32),
        "token_types": noise.integers(0, arch.types, starts[-1]).astype(np.int32),
    }
    columns = {"label": noise.integers(0, 3, len(RECORDS)).astype(np.int32)}
    return EncodedRecords(flat, starts, columns, {"tokens": arch.pad})


def batches(arch, layout):
    """[(record ids, host rows)] of all records, laid out in one way."""
    source = records(arch)
    if layout == "alone":
        arranged, plan = source, EvaluationPlan(len(source), 1)
    elif layout == "packed":
        arranged = source.packed(LENGTH)
        plan = PackedPlan(source.lengths, LENGTH, 2, 8, 0, source.digest, shuffled=False)
    else:
        edges = (4, 12) if layout == "bucketed" else (int(layout.removeprefix("padded to ")),)
        arranged, plan = source.padded(edges), BucketEvaluationPlan(source.lengths, edges, 4)
    chosen = [plan.batch(cursor) for cursor in range(len(plan))]
    return [(ids, load_rows(arranged, ids, epochs)) for ids, epochs in chosen]


def loud(path, leaf):
    """Initial matrices are so small that little of what a model does would show."""
    return 8 * leaf if getattr(path[-1], "key", "") in ("kernel", "embedding") else leaf


@functools.cache
def program(config):
    """(params, compiled (params, batch, keys) -> (outputs, terms); without keys there is no dropout)."""
    model = config.build(FLOAT32)
    params = jax.tree_util.tree_map_with_path(loud, model.init(rng.seed_key(1, rng.INIT))[0])
    loss = make_loss(TASK, model)

    def call(params, batch, keys):
        outputs, _ = TASK.outputs(model, params, {}, batch, OFF, False)
        return outputs, loss(params, {}, batch, HPARAMS, keys, keys is not None)[0]["nll"]

    return params, jax.jit(call)


def answers(config, layout, change=lambda rows: rows):
    """(logits [records, classes], the loss over all records) in one layout."""
    params, call = program(config)
    parts, terms = [], []
    for ids, rows in batches(config.arch, layout):
        logits, term = jax.device_get(call(params, change(rows), None))
        parts.append((ids, rows, logits))
        terms.append((term.sum, term.weight))
    total, weight = np.sum(terms, axis=0, dtype=np.float64)
    return in_order(iter(parts), len(RECORDS)), total / weight


def check_same(config, layout, change=lambda rows: rows, tolerance=1e-5):
    logits, loss = answers(config, layout, change)
    expected, expected_loss = answers(config, "alone")
    assert expected.std(axis=0).min() > 0.05, "answers differ from record to record"
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)
    assert loss == pytest.approx(expected_loss, rel=1e-6)


@pytest.mark.parametrize("layout", ["packed", "bucketed", "padded to 12"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_layout_does_not_change_logits_or_loss(family, layout):
    check_same(FAMILIES[family], layout)


def test_packed_rows_hold_several_records():
    packed = batches(BERT.arch, "packed")
    assert sum(rows["weight"].size for _, rows in packed) == 4 < len(RECORDS)
    assert min(rows["segments"].max() for _, rows in packed) >= 4


SABOTAGE = {
    "records see each other": lambda rows: {**rows, "segments": np.minimum(rows["segments"], 1)},
    "positions run through the row": lambda rows: {**rows, "positions": np.arange(LENGTH) + 0 * rows["positions"]},
    "all read the first token": lambda rows: {**rows, "firsts": 0 * rows["firsts"]},
    "all types are A": lambda rows: {**rows, "token_types": 0 * rows["token_types"]},
}


@pytest.mark.parametrize("sabotage", SABOTAGE)
def test_sabotage_wrong_packing_changes_the_logits(sabotage):
    with pytest.raises(AssertionError):
        check_same(BERT, "packed", SABOTAGE[sabotage], tolerance=1e-2)


def test_sabotage_empty_slots_that_count_change_the_loss():
    with pytest.raises(AssertionError):
        check_same(BERT, "packed", lambda rows: {**rows, "slot_weight": np.ones_like(rows["slot_weight"])})


def test_padding_does_not_change_logits():
    expected, _ = answers(BERT, "padded to 12")
    np.testing.assert_allclose(answers(BERT, "padded to 40")[0], expected, rtol=0, atol=1e-6)
    seen, _ = answers(BERT, "padded to 40", lambda rows: {**rows, "mask": np.ones_like(rows["mask"])})
    assert np.abs(seen - expected).max() > 1e-2, "sabotage: padding that is seen"


# ---- how it is computed ----


def layers(params):
    return params["encoder"]["layer"]


def test_scanned_layers_are_unrolled_layers():
    """With and without dropout."""
    scanned = dataclasses.replace(BERT, dropout=0.2, scan=True)
    ((_, rows),) = batches(BERT.arch, "packed")[:1]
    keys = rng.row_keys(rng.seed_key(0, rng.TRAIN), 2)
    params, unrolled = program(dataclasses.replace(scanned, scan=False))
    stacked, scan = program(scanned)
    assert layers(stacked)["mlp"]["up"]["kernel"].shape == (2, 16, 32)

    def difference(stacked):
        pairs = zip(
            jax.tree.leaves(unrolled(params, rows, keys)), jax.tree.leaves(scan(stacked, rows, keys)), strict=True
        )
        return max(np.abs(a - b).max() for a, b in pairs)

    assert difference(stacked) < 1e-5
    turned = {**stacked, "encoder": {"layer": jax.tree.map(lambda x: x[::-1], layers(stacked))}}
    assert difference(turned) > 1e-2, "sabotage: the layers in the wrong order"


SHALLOW = dataclasses.replace(BERT, architecture=BertArchitecture(**{**SIZES, "layers": 1}), dropout=0.2, scan=False)


def gradient_of(config):
    """Of the loss of a packed batch with dropout: a function of (params, keys)."""
    loss = make_loss(TASK, config.build(FLOAT32))
    ((_, rows),) = batches(config.arch, "packed")[:1]
    return jax.grad(lambda params, keys: loss(params, {}, rows, HPARAMS, keys, True)[0]["nll"].mean)


def norm(tree):
    return np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in jax.tree.leaves(tree)))


def test_remat_does_not_change_gradients():
    params, keys = program(SHALLOW)[0], rng.row_keys(rng.seed_key(0, rng.TRAIN), 2)
    plain, remat = (gradient_of(dataclasses.replace(SHALLOW, remat=remat)) for remat in ("none", "full"))
    assert "remat" in str(jax.make_jaxpr(remat)(params, keys))
    assert "remat" not in str(jax.make_jaxpr(plain)(params, keys))
    compiled = jax.jit(plain)
    expected = compiled(params, keys)

    def distance(gradients):
        return norm(jax.tree.map(lambda a, b: a - b, gradients, expected)) / norm(expected)

    assert distance(jax.jit(remat)(params, keys)) < 1e-6
    assert distance(compiled(params, keys[::-1])) > 1e-2, "sabotage: other noise in the second pass"


def first_step(accumulate):
    """A function of a batch: the metrics of a training step with dropout."""
    model, recipe = SHALLOW.build(FLOAT32), SGD(momentum=0.0)
    params, hparams, optimizer = program(SHALLOW)[0], {**recipe.hparams(10), **HPARAMS}, recipe.build(model.leaves)
    train = jax.jit(make_train_step(make_loss(TASK, model), optimizer, recipe.schedule, FLOAT32, accumulate))
    state = create(params, {}, optimizer(hparams).init(params), hparams, rng.seed_key(0, rng.TRAIN), none())
    return lambda rows: {name: float(value) for name, value in train(state, rows)[1].items()}


def test_microbatches_draw_the_noise_of_the_whole_batch():
    ids = PackedPlan(np.array(RECORDS), LENGTH, 4, 8, 0, "four rows", shuffled=False).batch(0)[0]
    rows = load_rows(records(SHALLOW.arch).packed(LENGTH), ids, ids * 0)
    whole, halves = first_step(1), first_step(2)
    assert halves(rows) == pytest.approx(whole(rows), rel=1e-6)
    turned = {name: array[::-1] for name, array in rows.items()}  # sabotage: rows meet the keys of other rows
    assert whole(turned)["loss"] != pytest.approx(whole(rows)["loss"], rel=1e-3)
    assert halves(turned) == pytest.approx(whole(turned), rel=1e-6)
