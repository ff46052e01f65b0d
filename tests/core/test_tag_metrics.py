"""Entity scores equal seqeval's default mode (that of conlleval) on real corpora, their tags corrupted at several rates."""

import gzip

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqeval.metrics
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from lepjax.core.errors import UserError
from lepjax.core.tag_metrics import WHICH, EntityScore, entity_report, spans

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "E-LOC", "S-LOC", "E-PER", "S-PER")
RATES = [0.0, 0.01, 0.2, 1.0]


@jax.jit
def parts(logits, labels, weights):
    return EntityScore(TAGS).of_batch(logits, labels, weights)


def conll(path):
    """Tags of each sentence of a file of 'word tag' lines."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        blocks = lines.read().strip().split("\n\n")
    return [[line.split(" ")[1] for line in block.split("\n")] for block in blocks]


def corrupted(sentences, tags, rate, seed=0):
    """Each tag replaced at `rate` by any of `tags`: entities cut, merged, retyped, I- after O."""
    rng = np.random.default_rng(seed)
    return [[str(rng.choice(tags)) if rng.random() < rate else tag for tag in sentence] for sentence in sentences]


def spread(true, predicted, tags, size, length):
    """Batches as a model gives them: words at every other position, garbage between and after them (weights: 0)."""
    rng = np.random.default_rng(1)
    ids = {tag: i for i, tag in enumerate(tags)}
    for start in range(0, len(true), size):
        labels, found = rng.integers(-100, 100, (size, length)), rng.integers(0, len(tags), (size, length))
        weights = np.zeros((size, length), np.float32)
        for row in range(min(size, len(true) - start)):
            places = slice(0, 2 * len(true[start + row]), 2)
            labels[row, places] = [ids[tag] for tag in true[start + row]]
            found[row, places] = [ids[tag] for tag in predicted[start + row]]
            weights[row, places] = 1
        logits = np.eye(len(tags), dtype=np.float32)[found]
        logits[weights == 0] += rng.choice([np.nan, 0.0], (weights == 0).sum())[:, None]
        yield logits, labels.astype(np.int32), weights


def totals(true, predicted, tags, size, length):
    metric = EntityScore(tags)
    measure, total = jax.jit(metric.of_batch), metric.zero()
    for batch in spread(true, predicted, tags, size, length):
        total = metric.merge(total, measure(*batch))
    return total


def check(true, predicted, tags, size, length, names=lambda tag: tag):
    """Everything equals seqeval, which is handed the tags under `names`."""
    total = totals(true, predicted, tags, size, length)
    theirs = [[[names(tag) for tag in sentence] for sentence in sentences] for sentences in (true, predicted)]
    for which in WHICH:
        expected = getattr(seqeval.metrics, f"{which}_score")(*theirs, zero_division=0)
        assert EntityScore(tags, which).result(total) == pytest.approx(expected, abs=1e-12)
    expected = seqeval.metrics.classification_report(*theirs, digits=4, zero_division=0)
    assert entity_report(total[0], EntityScore(tags).types) == expected


@pytest.fixture(scope="module")
def valid(test_data):
    return conll(test_data / "conll2003" / "valid.txt.gz")


def tags_of(sentences):
    return tuple(sorted({tag for sentence in sentences for tag in sentence}))


@pytest.mark.parametrize("rate", RATES)
def test_conll_2003_scores_equal_seqeval(valid, rate):
    assert len(valid) == 3250
    tags = tags_of(valid)
    check(valid, corrupted(valid, tags, rate), tags, size=512, length=256)


def bioes(sentence):
    following = [*sentence[1:], "O"]
    last = [not after.startswith("I-") for after in following]
    ends = {"B": "S", "I": "E", "O": "O"}
    return [ends[tag[0]] + tag[1:] if end else tag for tag, end in zip(sentence, last, strict=True)]


@pytest.mark.parametrize("rate", RATES)
def test_bioes_scores_equal_seqeval(valid, rate):
    sentences = [bioes(sentence) for sentence in valid[:1000]]
    tags = tags_of(sentences)
    assert {tag[0] for tag in tags} == set("BIOES")
    check(sentences, corrupted(sentences, tags, rate), tags, size=512, length=256)


@pytest.mark.parametrize("rate", RATES)
def test_bmes_scores_equal_seqeval_on_the_same_tags_with_i_for_m(test_data, rate):
    with gzip.open(test_data / "resume_ner_zh" / "dev.tsv.gz", "rt", encoding="utf-8") as lines:
        sentences = [line.rstrip("\n").split("\t")[1].split(" ") for line in lines]
    tags = tags_of(sentences)
    assert {tag[0] for tag in tags} == set("BMEOS")
    length = 2 * max(map(len, sentences))
    check(sentences, corrupted(sentences, tags, rate), tags, 512, length, lambda tag: tag.replace("M-", "I-"))


sequences = st.lists(st.sampled_from([*TAGS, "B", "I", "E", "S", "I-a-b"]), max_size=12)


@given(sequences)
def test_spans_equal_seqevals_entities(tags):
    assert spans(tags) == [(name, start, end + 1) for name, start, end in get_entities(tags)]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("", []),
        ("O O", []),
        ("B-X I-X O", [("X", 0, 2)]),
        ("B-X B-X", [("X", 0, 1), ("X", 1, 2)]),
        ("O I-X I-X", [("X", 1, 3)]),
        ("B-X I-Y", [("X", 0, 1), ("Y", 1, 2)]),
        ("B-X M-X E-X E-X", [("X", 0, 3), ("X", 3, 4)]),
        ("M-X B-X", [("X", 0, 1), ("X", 1, 2)]),
        ("S-X I-X O E-X", [("X", 0, 1), ("X", 1, 2), ("X", 3, 4)]),
    ],
)
def test_spans_by_hand(tags, expected):
    assert spans(tags.split()) == expected


LENGTH = 12


@given(st.lists(sequences.map(lambda s: [tag for tag in s if tag in TAGS]), min_size=1, max_size=4), st.integers(0, 99))
def test_dropped_positions_change_nothing(true, seed):
    metric = EntityScore(TAGS)
    predicted = corrupted(true, TAGS, 0.3, seed)
    (batch,) = spread(true, predicted, TAGS, 4, 2 * LENGTH)
    (counts,) = metric.merge(metric.zero(), parts(*batch))
    found, gold = ({(i, *span) for i, s in enumerate(x) for span in spans(s)} for x in (predicted, true))
    np.testing.assert_array_equal(counts.sum(1), [len(found & gold), len(found), len(gold)])


EXAMPLE = [["B-PER", "I-PER"], ["I-PER", "O", "B-LOC"], ["I-LOC", "E-LOC"]]


def score_of(batch):
    metric = EntityScore(TAGS)
    return metric.merge(metric.zero(), parts(*batch))[0]


def test_sabotage_counting_subwords_is_noticed():
    (batch,) = spread(EXAMPLE, EXAMPLE, TAGS, 4, 2 * LENGTH)
    logits, labels, weights = batch
    everything = np.nan_to_num(logits), labels % len(TAGS), np.ones_like(weights)
    assert score_of(batch)[2].tolist() == [2, 2]
    assert score_of(everything)[2].sum() != 4


def test_sabotage_rows_that_run_into_each_other_are_noticed():
    whole = [tag for sentence in EXAMPLE for tag in sentence]
    (batch,) = spread([whole], [whole], TAGS, 4, 2 * LENGTH)
    assert score_of(batch)[2].tolist() == [1, 1]


def test_sabotage_reading_m_as_a_tag_of_its_own_is_noticed():
    assert get_entities(["B-X", "M-X", "B-X"]) != [("X", 0, 1), ("X", 2, 2)], "seqeval does not know M"
    assert spans(["B-X", "M-X", "B-X"]) == [("X", 0, 2), ("X", 2, 3)]


@pytest.mark.parametrize("fault", ["label", "logits"])
def test_a_position_that_counts_and_cannot_be_read_is_reported(fault):
    ((logits, labels, weights),) = spread(EXAMPLE, EXAMPLE, TAGS, 4, 2 * LENGTH)
    assert np.isfinite(score_of((logits, labels, weights))).all()
    if fault == "label":
        labels[1, 2] = len(TAGS)
    else:
        logits[1, 2, 0] = np.nan
    counts = score_of((logits, labels, weights))
    assert np.isnan(counts).all()
    assert np.isnan(EntityScore(TAGS).result((counts,)))


def test_little_leaves_the_device():
    (batch,) = spread(EXAMPLE, EXAMPLE, TAGS, 4, 2 * LENGTH)
    predicted, labels, counted = parts(*batch)
    assert (predicted.dtype, labels.dtype, counted.dtype) == (jnp.int8, jnp.int8, jnp.bool_)
    many = ("O", *(f"I-{i}" for i in range(200)))
    (wide, _, _) = EntityScore(many).of_batch(
        jnp.zeros((1, 1, 201)).at[0, 0, 200].set(1), jnp.zeros((1, 1)), jnp.ones((1, 1))
    )
    assert wide.item() == 200, "int8 would hold -56"


def test_no_entities_score_0_and_the_report_has_no_types():
    metric = EntityScore(TAGS)
    (batch,) = spread([["O"]], [["O"]], TAGS, 4, 2 * LENGTH)
    total = metric.merge(metric.zero(), parts(*batch))
    assert metric.result(total) == metric.result(metric.zero()) == 0.0
    lines = entity_report(total[0], metric.types).split("\n")
    assert [line.split()[:2] for line in lines if line][1:] == [["micro", "avg"], ["macro", "avg"], ["weighted", "avg"]]


def test_what_is_no_tag_is_refused():
    for tags in (("O", "NOUN"), ("O", "B_PER"), ("O", "")):
        with pytest.raises(UserError, match="tags: tag '.*'. Use O, or a type after B-, I-"):
            EntityScore(tags)
    with pytest.raises(UserError, match="tag 'X-PER'"):
        spans(["X-PER"])
    with pytest.raises(UserError, match="Use one of f1, precision, recall"):
        EntityScore(TAGS, "f2")
    with pytest.raises(UserError, match="4 logits for 9 tags"):
        EntityScore(TAGS).of_batch(jnp.zeros((1, 1, 4)), jnp.zeros((1, 1), int), jnp.ones((1, 1)))
