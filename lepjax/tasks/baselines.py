"""How well text compresses without a neural network: the numbers a language model has to beat."""

from __future__ import annotations

import lzma

import numpy as np

from lepjax.core.errors import UserError

VOCABULARY = 256


def lzma_bits_per_byte(text: np.ndarray) -> float:
    """xz at its strongest preset, on the text alone. uint8[n]."""
    data = text.astype(np.uint8).tobytes()
    return 8.0 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data)


def bigram_bits_per_byte(train: np.ndarray, heldout: np.ndarray) -> float:
    """Add-one smoothed bigram counts of `train`, scored on every byte of `heldout` but the first. uint8[n] each."""
    pairs = train[:-1].astype(np.int64) * VOCABULARY + train[1:]
    counts = np.bincount(pairs, minlength=VOCABULARY**2).reshape(VOCABULARY, VOCABULARY) + 1.0
    log = np.log2(counts / counts.sum(1, keepdims=True))
    return float(-log[heldout[:-1], heldout[1:]].mean())


def ngram_bits_per_byte(train: np.ndarray, heldout: np.ndarray, order: int = 5) -> float:
    """Interpolated n-grams with Witten-Bell smoothing, scored on every byte of `heldout` but the first. uint8[n] each.

    p_k(c | h) = (count(h c) + distinct(h) p_{k-1}(c | h')) / (count(h) + distinct(h)), where h' drops the oldest byte:
    Chen and Goodman, An Empirical Study of Smoothing Techniques (1998), section 2.5. p_0 is uniform.
    """
    if not 1 <= order <= 8:
        raise UserError(f"order {order}", where="ngram", fix="Use 1 to 8: a gram is held in 64 bits.")
    probability = np.full(len(heldout) - 1, 1.0 / VOCABULARY)
    for k in range(1, min(order, len(train), len(heldout)) + 1):  # k - 1 bytes of context
        grams, counts = np.unique(_grams(train, k), return_counts=True)
        contexts, first = np.unique(grams >> np.uint64(8), return_index=True)
        totals = np.add.reduceat(counts, first).astype(np.float64)
        distinct = np.diff(np.append(first, len(grams))).astype(np.float64)
        scored = _grams(heldout, k)[max(0, 2 - k) :]  # the first byte of the text is never scored
        at = len(probability) - len(scored)  # the first bytes have shorter contexts and keep the lower order
        seen = _look_up(grams, counts.astype(np.float64), scored)
        total = _look_up(contexts, totals, scored >> np.uint64(8))
        kinds = _look_up(contexts, distinct, scored >> np.uint64(8))
        known = total > 0
        lower = probability[at:]
        mixed = (seen + kinds * lower) / np.where(known, total + kinds, 1.0)
        probability[at:] = np.where(known, mixed, lower)
    return float(-np.log2(probability).mean())


def _grams(text: np.ndarray, k: int) -> np.ndarray:
    """Every run of k bytes as one number, the last byte lowest. uint64[n - k + 1]."""
    grams = np.zeros(len(text) - k + 1, np.uint64)
    for i in range(k):
        grams = (grams << np.uint64(8)) | text[i : len(text) - k + 1 + i].astype(np.uint64)
    return grams


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """values where `wanted` is among the sorted keys, else 0."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0.0)
