"""After training on questions: exact match and F1 of the answers, as SQuAD's evaluation counts them."""

from __future__ import annotations

import collections
import dataclasses
import re
import string
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lepjax.core.errors import UserError
from lepjax.data.questions import EncodedQuestions
from lepjax.experiment import FinalEvaluation
from lepjax.run.classified import outputs
from lepjax.run.final import Section, Trained

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclasses.dataclass(frozen=True)
class SquadScores(FinalEvaluation):
    """Exact match and F1 over the questions of a split, 0 to 1, each against the best of its right answers.

    The answer is the span with the largest sum of start and end logits over all windows of the passage. Where the data have
    questions without an answer, "no answer" wins if [CLS] scores higher than that in every window (Rajpurkar et al., 2018).
    """

    split: str = "dev"
    """The evaluation split."""
    longest: int = 30
    """Most tokens of an answer."""

    def evaluate(self, trained: Trained) -> Section:
        if self.longest < 1:
            raise UserError(f"{self.longest} tokens", where="final.longest", fix="Use at least 1.")
        source, parts = outputs(trained, self.split)
        if not isinstance(source, EncodedQuestions):
            raise UserError(f"no questions in the split {self.split!r}", where="final.split")
        right = source.data.columns["answer_text"]
        predicted = answers(source, parts, self.longest)
        pairs = list(zip(predicted, right, strict=True))
        values = {
            f"{self.split}_exact_match": float(np.mean([exact_match(*pair) for pair in pairs])),
            f"{self.split}_f1": float(np.mean([f1(*pair) for pair in pairs])),
        }
        wrong = [row for row, pair in enumerate(pairs) if not exact_match(*pair)]
        lines = [f"The first {len(wrong[:10])} of {len(wrong)} questions that are not answered exactly"]
        for row in wrong[:10]:
            asked = source.data.columns["question"][row]
            lines.append(
                f"{asked} Predicted {predicted[row]!r}, right {' | '.join(map(repr, right[row])) or 'no answer'}"
            )
        table = tuple(zip(("exact match", "F1"), values.values(), strict=True))
        return Section(f"{self.split} answers of {len(pairs):,} questions", values, table, appendix="\n".join(lines))


def answers(source: EncodedQuestions, parts: Iterator[tuple[np.ndarray, Any, np.ndarray]], longest: int) -> list[str]:
    """The predicted answer of each question. `parts`: (window ids, host batch, logits [rows, length, 2]) per batch."""
    scores = np.full(len(source), -np.inf)
    no_answer = np.full(len(source), np.inf)
    characters = np.zeros((len(source), 2), np.int64)
    for ids, _, logits in parts:
        for window, one in zip(ids, logits, strict=True):
            if window < 0:
                continue
            offsets = source.offsets[source.starts[window] : source.starts[window + 1]]
            scores[window], first, last = best_span(one[: len(offsets)], offsets[:, 0] >= 0, longest)
            no_answer[window] = one[0].sum()
            characters[window] = offsets[first, 0], offsets[last, 1]
    contexts = source.data.columns["context"]
    unanswerable = not all(map(any, source.data.columns["answer_text"]))
    order = np.lexsort((-scores, source.example))  # by question, best window first
    best = order[np.unique(source.example[order], return_index=True)[1]]
    none = np.full(len(contexts), np.inf)
    np.minimum.at(none, source.example, no_answer)
    found = []
    for row, window in enumerate(best):
        begin, end = characters[window]
        empty = scores[window] == -np.inf or (unanswerable and none[row] > scores[window])
        found.append("" if empty else contexts[row][begin:end].strip())
    return found


def best_span(logits: np.ndarray, allowed: np.ndarray, longest: int) -> tuple[float, int, int]:
    """(score, first, last) of the span of allowed tokens with the largest start + end. logits [length, 2], bool[length].

    The score is -inf where no token is allowed; of equal spans the shortest, then the first wins.
    """
    start, end = np.where(allowed[:, None], logits.astype(np.float64), -np.inf).T
    best = (-np.inf, 0, 0)
    for more in range(min(longest, len(start))):
        scores = start[: len(start) - more] + end[more:]
        first = int(scores.argmax())
        best = max(best, (float(scores[first]), first, first + more), key=lambda span: span[0])
    return best


# ---- SQuAD's own evaluation, version 2.0, which agrees with 1.1 wherever there is an answer ----


def normalised(text: str) -> list[str]:
    """The words that count: lower case, without punctuation and articles."""
    return ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()


def exact_match(predicted: str, right: Sequence[str]) -> float:
    return float(any(normalised(predicted) == words for words in _counted(right)))


def f1(predicted: str, right: Sequence[str]) -> float:
    """Of the words in common, against the answer that fits best."""
    return max(_overlap(normalised(predicted), words) for words in _counted(right))


def _counted(right: Sequence[str]) -> list[list[str]]:
    """The right answers as words; where none has any, the empty answer is right."""
    return [words for words in map(normalised, right) if words] or [[]]


def _overlap(predicted: list[str], right: list[str]) -> float:
    if not predicted or not right:
        return float(predicted == right)
    common = sum((collections.Counter(predicted) & collections.Counter(right)).values())
    return 2 * common / (len(predicted) + len(right))
