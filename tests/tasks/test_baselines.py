"""The classical numbers a language model has to beat, against slow and obvious versions of the same formulas."""

import collections
import itertools
import lzma
import math
import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepjax.tasks.baselines import bigram_bits_per_byte, lzma_bits_per_byte, ngram_bits_per_byte

# Few letters repeat, so that contexts are seen again; a rare one is unseen on one side.
texts = st.lists(st.sampled_from([97, 98, 99, 0, 255]), min_size=12, max_size=60).map(bytes)


def array(text):
    return np.frombuffer(text, np.uint8)


def bigram_reference(train, heldout):
    pairs, firsts = collections.Counter(itertools.pairwise(train)), collections.Counter(train[:-1])
    bits = [-math.log2((pairs[a, b] + 1) / (firsts[a] + 256)) for a, b in itertools.pairwise(heldout)]
    return sum(bits) / len(bits)


def ngram_reference(train, heldout, order):
    """p_k(c | h) = (count(h c) + distinct(h) p_{k-1}(c | h')) / (count(h) + distinct(h)); an unseen h backs off."""
    followers = collections.defaultdict(collections.Counter)  # {context: {next byte: count}}
    for k in range(order):
        for i in range(k, len(train)):
            followers[train[i - k : i]][train[i]] += 1

    def p(byte, history, k):
        if k == 0:
            return 1 / 256
        context = history[len(history) - (k - 1) :]
        lower = p(byte, context[1:], k - 1)
        seen = followers.get(context)
        if not seen:
            return lower
        return (seen[byte] + len(seen) * lower) / (seen.total() + len(seen))

    # The i-th byte has i bytes before it.
    bits = [-math.log2(p(heldout[i], heldout[:i], min(order, i + 1))) for i in range(1, len(heldout))]
    return sum(bits) / len(bits)


@given(texts, texts)
def test_bigram(train, heldout):
    assert bigram_bits_per_byte(array(train), array(heldout)) == pytest.approx(
        bigram_reference(train, heldout), rel=1e-12
    )


@given(texts, texts, st.integers(1, 6))
def test_ngram(train, heldout, order):
    ours = ngram_bits_per_byte(array(train), array(heldout), order)
    assert ours == pytest.approx(ngram_reference(train, heldout, order), rel=1e-9)


def test_ngram_against_the_reference_of_another_order():
    train, heldout = b"abracadabra, abracadabra!", b"abracadabra abraxas"
    for order in (1, 2, 5):
        ours = ngram_bits_per_byte(array(train), array(heldout), order)
        with pytest.raises(AssertionError):
            assert ours == pytest.approx(ngram_reference(train, heldout, order + 1), rel=1e-9)


def check_sums_to_one(bits_per_byte, train, history):
    """The total code length of history + c, less that of the history, is -log2 p(c | history)."""

    def total(text):
        return bits_per_byte(array(train), array(text)) * (len(text) - 1)

    before = total(history)
    assert math.isclose(sum(2 ** (before - total(history + bytes([c]))) for c in range(256)), 1, rel_tol=1e-9)


@pytest.mark.parametrize("history", [b"abrac", b"zzzzz", b"xabra"], ids=str)
@pytest.mark.parametrize(
    "bits_per_byte",
    [bigram_bits_per_byte, *(lambda t, h, k=k: ngram_bits_per_byte(t, h, order=k) for k in (1, 2, 5))],
    ids=["bigram", "1-gram", "2-gram", "5-gram"],
)
def test_the_next_byte_has_probability_one_in_all(bits_per_byte, history):
    train = b"abracadabra, abracadabra!"
    check_sums_to_one(bits_per_byte, train, history)
    with pytest.raises(AssertionError):  # one part in ten thousand is noticed
        check_sums_to_one(lambda t, h: bits_per_byte(t, h) * 1.0001, train, history)


def test_what_uniform_and_constant_text_cost():
    noise = np.random.default_rng(0).integers(0, 256, 20_000).astype(np.uint8)
    assert 7.9 < bigram_bits_per_byte(noise, noise[::-1]) < 8.3
    assert 8.0 < lzma_bits_per_byte(noise) < 8.1  # incompressible: the container's headers are counted
    constant = np.full(20_000, 97, np.uint8)
    assert ngram_bits_per_byte(constant, constant, 5) < 0.001 and lzma_bits_per_byte(constant) < 0.1


def test_lzma_is_xz(tmp_path):
    text = np.random.default_rng(0).choice(np.frombuffer(b"abcdefg\n", np.uint8), 5_000)
    ours = lzma_bits_per_byte(text)
    path = tmp_path / "text.xz"
    with lzma.open(path, "wb", preset=9 | lzma.PRESET_EXTREME) as file:
        file.write(text.tobytes())
    assert ours == 8 * path.stat().st_size / 5_000
    assert 3.0 < ours < 4.0  # three bits are the entropy of eight equally likely letters, which no code can beat
    assert lzma_bits_per_byte(text.astype(np.int64)) == ours, "the bytes count, not how they are held"
    if shutil.which("xz"):
        out = subprocess.run(["xz", "-9e", "-c"], input=text.tobytes(), capture_output=True, check=True).stdout
        assert abs(len(out) * 8 / 5_000 - ours) < 0.05  # the same arithmetic; headers may differ by a few bytes
