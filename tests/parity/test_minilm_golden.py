"""MiniLM-L6 (22 million trained weights) against the numbers that came with them, and what its sentence vectors know.

Needs LEPJAX_TEST_DATA; nothing here needs torch. Errors measured on a CPU in float32: 4e-6 where there is text and 6e-5
at padding, of values up to 10; the published Spearman correlation to three places.
"""

import csv
import dataclasses
import gzip

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import tokenizers

from lepjax.core import parameters
from lepjax.core.precision import FLOAT32
from lepjax.models import weights
from lepjax.models.bert import Bert

BATCH = 64
LAYERS = {"hidden0": 0, "hidden3": 3, "last_hidden_state": 6}


@pytest.fixture(scope="module")
def folder(test_data):
    return test_data / "weights" / "minilm_l6_fp16"


@pytest.fixture(scope="module")
def golden(folder):
    with np.load(folder / "golden.npz") as file:
        return {name: file[name] for name in file.files}


def loaded(folder, scan=False, **changes):
    """(functional, parameters), of an architecture that may be changed for sabotage."""
    arch = dataclasses.replace(Bert(pretrained=str(folder)).arch, **changes)
    functional = Bert(architecture=arch, scan=scan).build(FLOAT32)
    read = weights.read(folder, functional.leaves, arch.naming("Head"))
    assert (read.new, read.unused) == ((), ())
    params = jax.tree.map(
        lambda leaf: jnp.asarray(read.values[leaf.name]), functional.leaves, is_leaf=parameters.is_leaf
    )
    return functional, params


def computed(functional, params, golden, shift=0, second="token_type_ids2"):
    """What golden.npz holds, from the tokens in it. `shift` and `second` are for sabotage."""
    tokens, mask = golden["input_ids"].astype(np.int32), golden["attention_mask"]
    places = shift + np.arange(tokens.shape[1])

    @jax.jit
    def run(params, tokens, types):
        options = {"mask": mask, "token_types": types, "positions": places}
        _, layers = functional.apply(params, {}, tokens, method="encode", every=True, **options)[0]
        return layers, functional.apply(params, {}, tokens, **options)[0][1]

    layers, pooled = run(params, tokens, np.zeros_like(tokens))
    found = {name: np.asarray(layers[layer]) for name, layer in LAYERS.items()}
    weight = mask[..., None] / mask.sum(1)[:, None, None]
    vectors = (found["last_hidden_state"] * weight).sum(1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    types = golden[second].astype(np.int32) if second else np.zeros_like(tokens)
    again, _ = run(params, tokens, types)
    return {**found, "pooler_output": pooled, "sentence_embedding": vectors, "last_hidden_state2": again[6]}


def check(found, golden):
    assert set(found) == set(golden) - {"texts", "input_ids", "attention_mask", "token_type_ids2"}
    for name, value in found.items():
        np.testing.assert_allclose(value, golden[name], rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
def test_hidden_states(folder, golden, scan):
    found = computed(*loaded(folder, scan), golden)
    check(found, golden)
    seen = golden["attention_mask"].astype(bool)
    for name in LAYERS:  # nothing reads what stands at padding, where rounding errors are ten times as large
        np.testing.assert_allclose(found[name][seen], golden[name][seen], rtol=0, atol=1e-5, err_msg=name)


SABOTAGE = {
    "tanh gelu": ({"activation": "gelu_tanh"}, {}),
    "epsilon": ({"eps": 1e-5}, {}),
    "heads": ({"heads": 6}, {}),
    "positions": ({}, {"shift": 1}),
    "no token types": ({}, {"second": ""}),
}


@pytest.mark.parametrize("how", SABOTAGE)
def test_sabotage_hidden_states(folder, golden, how):
    architecture, inputs = SABOTAGE[how]
    found = computed(*loaded(folder, **architecture), golden, **inputs)
    with pytest.raises(AssertionError):
        check(found, golden)


def test_sentence_vectors(folder, test_data):
    """STS-B dev: the cosine of two mean-pooled vectors ranks pairs of sentences as people do, without any training.
    The published weights reach a Spearman correlation of 0.867.
    """
    with gzip.open(test_data / "glue" / "stsb_dev.tsv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    scores = np.array([float(row["score"]) for row in rows])
    texts = [row[side] for side in ("sentence1", "sentence2") for row in rows]
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(128)
    tokenizer.no_padding()
    ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    functional, params = loaded(folder)

    @jax.jit
    def pooled(params, tokens, mask):
        (hidden, _), _ = functional.apply(params, {}, tokens, mask=mask)
        return hidden[:, 0], (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True), hidden.mean(1)

    ways = np.zeros((3, len(texts), 384))
    order = np.argsort([len(x) for x in ids], kind="stable")
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        longest = max(len(ids[i]) for i in batch)
        tokens = np.zeros((BATCH, -(-longest // 8) * 8), np.int32)  # few lengths, so few programs
        for row, i in enumerate(batch):
            tokens[row, : len(ids[i])] = ids[i]
        ways[:, batch] = np.stack(pooled(params, tokens, tokens != 0))[:, : len(batch)]

    def spearman(vectors):
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        left, right = np.split(vectors, 2)
        return scipy.stats.spearmanr((left * right).sum(1), scores).statistic

    first, mean, unmasked = map(spearman, ways)
    assert mean == pytest.approx(0.867, abs=0.001)
    for sabotaged in (first, unmasked, spearman(np.roll(ways[1], 1, 0))):
        assert sabotaged != pytest.approx(0.867, abs=0.001)
