"""After training a masked language model: what knowing how frequent each token is comes to."""

from __future__ import annotations

import dataclasses

import numpy as np

from lepjax.core.errors import UserError
from lepjax.data.masked import MaskedWindows
from lepjax.experiment import FinalEvaluation
from lepjax.run.final import Section, Trained


@dataclasses.dataclass(frozen=True)
class UnigramEntropy(FinalEvaluation):
    """The loss of a model that ignores the context: nats per token of a split under the training tokens' frequencies."""

    split: str = "heldout"
    """The evaluation split."""

    def evaluate(self, trained: Trained) -> Section:
        train, scored = trained.built.splits.train, trained.built.splits.evaluation.get(self.split)
        if not isinstance(train, MaskedWindows) or not isinstance(scored, MaskedWindows):
            raise UserError(f"no masked windows in the split {self.split!r}", where="final.split")
        words = train.masking.words
        values = {
            "unigram_entropy": unigram_entropy(train.tokens, scored.tokens, words),
            f"{self.split}_loss": trained.results[f"{self.split}_loss"],
        }
        counted = int(np.isin(scored.tokens, words).sum())
        title = f"Nats per token: unigrams on all {counted:,} {self.split} tokens, the model on those it is asked for"
        return Section(title, values, tuple(zip(("unigram", "this model"), values.values(), strict=True)))


def unigram_entropy(train: np.ndarray, scored: np.ndarray, words: np.ndarray) -> float:
    """Mean negative log-likelihood, in nats, of the tokens of `scored` that are `words`, under add-one smoothed counts of
    `train`. int[n] each; what is no word (special tokens) does not count.
    """
    size = int(words.max()) + 1
    counts = np.bincount(train, minlength=size)[words] + 1.0
    log_share = np.full(size, np.nan)
    log_share[words] = np.log(counts / counts.sum())
    return float(-log_share[scored[np.isin(scored, words)]].mean())
