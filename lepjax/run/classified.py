"""After training a classifier or a tagger: reports by class, and what it gets wrong."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy.special import log_softmax

from lepjax.core import class_metrics, tag_metrics
from lepjax.core.errors import UserError
from lepjax.experiment import FinalEvaluation
from lepjax.run.final import Heatmap, Lines, Section, Trained
from lepjax.run.predict import applied, in_order, predict
from lepjax.tasks.classification import Classification
from lepjax.tasks.tagging import Tagging


def outputs(trained: Trained, split: str) -> tuple[Any, Any]:
    """(the split's source, what `run.predict.predict` yields for it). Raises `UserError` for an unknown split."""
    built = trained.built
    sources = {**built.splits.evaluation, **built.splits.final}
    if split not in sources:
        raise UserError(f"no split {split!r}", where="final.split", fix=f"There are {', '.join(sources)}.")
    arranged, plan = built.scoring[split]
    apply = applied(built.experiment.task, built.model)
    return sources[split], predict(apply, trained.params, trained.state.model_state, arranged, plan, built.placement)


@dataclasses.dataclass(frozen=True)
class ClassReport(FinalEvaluation):
    """Precision, recall and F1 by class, the confusion matrix, ROC curves, and the records that are most wrong."""

    split: str = "dev"
    """The evaluation split."""
    worst: int = 10
    """How many wrong records to show."""

    def evaluate(self, trained: Trained) -> Section:
        names = _labels(trained, Classification)
        source, parts = outputs(trained, self.split)
        logits, labels = in_order(parts, len(source)), source.columns["label"]
        log_probabilities = log_softmax(logits, axis=-1)
        best = logits.argmax(-1)
        counts = np.zeros((len(names), len(names)), np.int64)
        np.add.at(counts, (labels, best), 1)
        return Section(
            title=f"{self.split} by class",
            text=class_metrics.report(counts, names),
            figures=(
                Heatmap(f"{self.split}: confusion", names, counts),
                _roc(log_probabilities, labels, names, self.split),
            ),
            appendix=self._most_wrong(log_probabilities, labels, best, names, source.texts),
        )

    def _most_wrong(
        self, scores: np.ndarray, labels: np.ndarray, best: np.ndarray, names: tuple[str, ...], texts: tuple[str, ...]
    ) -> str:
        """The wrong records with the least probability for their label."""
        wrong = np.flatnonzero(best != labels)
        order = wrong[np.argsort(scores[wrong, labels[wrong]], kind="stable")][: self.worst]
        lines = [f"The {len(order)} most wrong of {len(wrong)} wrong records (probability of the label given)"]
        for i in order:
            text = texts[i] if texts else f"record {i}"
            lines.append(f"{np.exp(scores[i, labels[i]]):.4f}  {names[labels[i]]}, predicted {names[best[i]]}: {text}")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class TagReport(FinalEvaluation):
    """Two reports: by token (B-, I- and O rows) and by entity, as the CoNLL evaluation counts them."""

    split: str = "dev"
    """The evaluation split."""

    def evaluate(self, trained: Trained) -> Section:
        names = _labels(trained, Tagging)
        _, parts = outputs(trained, self.split)
        score = tag_metrics.EntityScore(names)
        entities, counts = score.zero(), np.zeros((len(names), len(names)), np.int64)
        for ids, rows, logits in parts:
            best, counted = logits.argmax(-1), (rows["label_weight"] > 0) & (ids >= 0)[:, None]
            entities = score.merge(entities, (best, rows["label"], counted))
            np.add.at(counts, (rows["label"][counted], best[counted]), 1)
        by_token, by_entity = class_metrics.report(counts, names), tag_metrics.entity_report(entities[0], score.types)
        return Section(
            title=f"{self.split} by token and by entity",
            text=f"{by_token}\n\n{by_entity}",
            figures=(Heatmap(f"{self.split}: confusion of tags", names, counts),),
        )


def _labels(trained: Trained, kind: Any) -> tuple[str, ...]:
    task = trained.built.experiment.task
    if not isinstance(task, kind):
        raise UserError(f"a {type(task).__name__} task", where="final", fix=f"This report is for {kind.__name__}.")
    return task.labels if isinstance(task, Classification) else task.tags


def _roc(scores: np.ndarray, labels: np.ndarray, names: tuple[str, ...], split: str) -> Lines:
    """Each class against the rest; of two classes, the second."""
    chosen = [1] if len(names) == 2 else range(len(names))
    curves = {}
    for index in chosen:
        rest = np.logaddexp.reduce(np.delete(scores, index, axis=1), axis=1)
        order = np.argsort(rest - scores[:, index], kind="stable")
        odds = (scores[:, index] - rest)[order]
        positive = labels[order] == index
        ends = np.append(np.flatnonzero(np.diff(odds)), len(odds) - 1)  # equal scores are one step
        found = np.concatenate([[0], np.cumsum(positive)[ends]]) / max(positive.sum(), 1)
        false = np.concatenate([[0], np.cumsum(~positive)[ends]]) / max((~positive).sum(), 1)
        curves[names[index]] = (false, found)
    return Lines(f"{split}: ROC", "false positive rate", "true positive rate", curves)
