"""`Trainer`: an Experiment made from a model and data sets at hand. It adds nothing to what an Experiment can do."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from lepjax.core import hub, sharding
from lepjax.core.errors import UserError
from lepjax.core.optimizers import Optimizer
from lepjax.core.recipes import adamw
from lepjax.core.sharding import Placement
from lepjax.data.batching import Batching, Buckets
from lepjax.data.datasets import Dataset
from lepjax.data.encoded import EncodedRecords
from lepjax.data.given import GivenText, remember
from lepjax.data.labelled import encode
from lepjax.data.source import Work
from lepjax.data.tokenizer import Tokenizer
from lepjax.experiment import EarlyStopping, Epochs, Examples, Experiment, Length, Steps
from lepjax.models import bert_heads as heads
from lepjax.models.face import EncoderModel
from lepjax.models.given import given
from lepjax.report.html import Report
from lepjax.run.callbacks import Callback
from lepjax.run.directory import RunDirectory
from lepjax.run.evaluation import merged
from lepjax.run.open import open_run
from lepjax.run.predict import applied, in_order, place_all, predict
from lepjax.run.train import train
from lepjax.tasks.classification import Classification
from lepjax.tasks.regression import Regression
from lepjax.tasks.tagging import Tagging
from lepjax.tasks.task import Task, make_measure


@dataclasses.dataclass(frozen=True)
class History:
    """`evaluations`: the metrics of each evaluation while training, with its `step`; `result`: result.json."""

    evaluations: tuple[dict[str, float], ...]
    result: dict[str, Any]
    run_dir: str


@dataclasses.dataclass(frozen=True)
class Predictions:
    """`labels`: per record the name of a class, a number (regression), or a list of tags (one per word).

    `scores`: float32 probabilities [records, classes], the numbers [records], or None for tags.
    """

    labels: list[Any]
    scores: np.ndarray | None


class Trainer:
    """Fine-tunes `model` on `train_dataset`. The model that was given is never changed; `trainer.model` is the trained one.

    Give one of `max_epochs`, `max_steps`, `max_examples` (default: 3 epochs). `class_weights`: None, "auto" or
    {label: weight}. `freeze`: a regular expression on parameter names. `best`: the metric whose best checkpoint is restored
    at the end; None takes the task's first headline, "" keeps the last. `callbacks` watch the run or change how it begins
    (`tune.FindLr`). Raises `UserError` for what does not fit, before anything is compiled but what such callbacks look with.
    """

    def __init__(
        self,
        model: EncoderModel,
        train_dataset: Dataset | None = None,
        dev_dataset: Dataset | None = None,
        optimizer: Optimizer | None = None,
        *,
        max_epochs: float | None = None,
        max_steps: int | None = None,
        max_examples: int | None = None,
        batch_size: int = 32,
        max_length: int = 128,
        grad_accumulation: int = 1,
        label_smoothing: float = 0.0,
        class_weights: dict[str, float] | str | None = None,
        freeze: str = "",
        ema: float | None = None,
        best: str | None = None,
        early_stopping: EarlyStopping | None = None,
        batching: Batching = Buckets(),
        precision: str = "float32",
        seed: int = 0,
        run_dir: str = "",
        tokenizer: str = "",
        callbacks: Sequence[Callback] = (),
        quiet: bool = False,
    ) -> None:
        labelled = train_dataset or dev_dataset
        labels = labelled.labels if labelled is not None else model.labels
        self.model = dataclasses.replace(model, labels=labels or model.labels)
        self.task = task_of(model, labels, label_smoothing, class_weights)
        self.callbacks, self.quiet = tuple(callbacks), quiet
        recipe, self._values = given(model.recipe, model.params, model.functional.leaves)
        self._kept = (train_dataset, dev_dataset)  # `GivenText` only borrows them
        self._data = GivenText(
            train=remember(train_dataset) if train_dataset is not None else "",
            dev=remember(dev_dataset) if dev_dataset is not None else "",
            tokenizer=tokenizer or model.recipe.pretrained,
            max_length=max_length,
            batch_size=batch_size,
            batching=batching,
        )
        if best is None:
            best = f"dev_{self.task.headline[0]}" if dev_dataset is not None else ""
        optimizer = optimizer or adamw()
        self.experiment = Experiment(
            model=recipe,
            task=self.task,
            data=self._data,
            optimizer=dataclasses.replace(optimizer, freeze=freeze) if freeze else optimizer,
            length=_length(max_epochs, max_steps, max_examples),
            accumulate=grad_accumulation,
            precision=precision,
            ema=ema,
            seed=seed,
            best=best,
            best_mode="min" if best.endswith("loss") else "max",
            early_stopping=early_stopping,
            evaluate_every=Epochs(1),
            run_dir=run_dir,
        )

    def train(self) -> History:
        """Trains, or goes on where the same training stopped; a finished one only tells its result.

        However it ends (done, interrupted, diverged), `trainer.model` has the best parameters so far, or the last ones where
        nothing was evaluated yet or no metric chooses.
        """
        if not self._data.train:
            raise UserError("no train_dataset", where="Trainer", fix="Pass one to train.")
        # Plain lines in a notebook: rich would make a block of HTML of each.
        console = Console(quiet=self.quiet or jax.process_index() != 0, force_jupyter=False)
        outcome = train(self.experiment, "trainer", [*self.callbacks, Report()], console)
        trained = outcome.trained
        if trained is None:
            chosen = outcome.result.get("best", {}).get("step", -1) > 0
            trained, _ = open_run(outcome.directory, outcome.experiment, "best" if chosen else "last")
        params = jax.tree.map(jnp.asarray, jax.device_get(trained.params))
        self.model = dataclasses.replace(self.model, params=params, new=())
        return History(_evaluations(outcome.directory), outcome.result, str(outcome.directory.path))

    def evaluate(self, dataset: Dataset | None = None) -> dict[str, float]:
        """The task's metrics of `trainer.model` on labelled data (default: the dev_dataset)."""
        data = dataset if dataset is not None else self._kept[1]
        if data is None:
            raise UserError("no data set", where="Trainer.evaluate", fix="Pass one, or a dev_dataset to the Trainer.")
        if data.labels != self.model.labels:
            found = f"labels {', '.join(data.labels)}, the model's are {', '.join(self.model.labels)}"
            raise UserError(found, where=f"{data.name} {data.split}")
        source, plan = self._scoring(self._encode(data))
        hparams = {name: jnp.float32(value) for name, value in self.task.hparams().items()}
        measure = jax.jit(make_measure(self.task, self.model.functional))
        batches = place_all(source, plan, _placement())
        return merged(self.task.metrics(), (measure(self.model.params, {}, batch, hparams) for _, batch in batches))

    def predict(self, texts: Sequence[str] | Sequence[Sequence[str]] | Dataset) -> Predictions:
        """What `trainer.model` says to texts, to (text, text) pairs, to lists of words (tagging), or to a data set."""
        data = texts if isinstance(texts, Dataset) else _unlabelled(self.task, texts, self.model.labels)
        encoded = self._encode(data)
        source, plan = self._scoring(encoded)
        parts = predict(self._applied, self.model.params, {}, source, plan, _placement())
        if isinstance(self.task, Tagging):
            return Predictions(_tags(parts, encoded, self.model.labels), None)
        logits = in_order(parts, len(encoded))
        if isinstance(self.task, Regression):
            return Predictions([float(x) for x in logits[:, 0]], logits[:, 0])
        scores = np.asarray(jax.nn.softmax(logits, axis=-1))
        return Predictions([self.model.labels[i] for i in scores.argmax(-1)], scores)

    @functools.cached_property
    def _applied(self) -> Any:
        return applied(self.task, self.model.functional)

    def _encode(self, data: Dataset) -> EncodedRecords:
        tokenizer = Tokenizer.load(hub.folder(self._data.tokenizer))
        return encode(data, tokenizer, self._data.max_length)

    def _scoring(self, source: EncodedRecords) -> tuple[Any, Any]:
        return self._data.scoring(source, self._data.batch_size, Work(1.0, self.model.recipe.flops_per_token))


def task_of(
    model: EncoderModel, labels: tuple[str, ...], smoothing: float = 0.0, weights: dict[str, float] | str | None = None
) -> Task:
    """The task that a model's head is for."""
    head = model.recipe.head
    if not isinstance(head, heads.SequenceClassification | heads.TokenClassification):
        fix = "Write an Experiment: the Trainer classifies and tags."
        raise UserError(f"a {type(head).__name__} head", where="Trainer", fix=fix)
    count = head.num_labels
    if labels and count != len(labels):
        found = f"the data has {len(labels)} labels, the model's head {count}"
        raise UserError(found, where="num_labels", fix=f"Load the model with num_labels={len(labels)}.")
    names = labels or tuple(map(str, range(count)))
    if isinstance(head, heads.TokenClassification):
        return Tagging(tags=names, label_smoothing=smoothing)
    if count == 1:
        return Regression()
    named = tuple(weights.items()) if isinstance(weights, dict) else weights
    return Classification(names, label_smoothing=smoothing, class_weights=named)


def _length(epochs: float | None, steps: int | None, examples: int | None) -> Length:
    made = (epochs and Epochs(epochs), steps and Steps(steps), examples and Examples(examples))
    chosen = [length for length in made if length]
    if len(chosen) > 1:
        names = "max_epochs, max_steps, max_examples"
        raise UserError(f"{len(chosen)} of {names} are given", where="Trainer", fix="Give one.")
    return chosen[0] if chosen else Epochs(3)


def _placement() -> Placement:
    """One device: what is asked for by hand is small."""
    return Placement(sharding.make_mesh(sharding.parse_mesh("auto", 1), jax.devices()[:1]))


def _evaluations(directory: RunDirectory) -> tuple[dict[str, float], ...]:
    lines = directory.read_metrics()
    return tuple(line for line in lines if not any(name.startswith("train_") for name in line))


def _unlabelled(task: Task, texts: Sequence[Any], labels: tuple[str, ...]) -> Dataset:
    if isinstance(texts, str):
        raise UserError("one text", where="Trainer.predict", fix="Pass a list of texts.")
    if isinstance(task, Tagging):
        words = [text.split() if isinstance(text, str) else list(text) for text in texts]
        columns: dict[str, list[Any]] = {"tokens": words}
    elif texts and not isinstance(texts[0], str):
        columns = {"text": [a for a, _ in texts], "text_pair": [b for _, b in texts]}
    else:
        columns = {"text": list(texts)}
    return Dataset(name="given", split="", source="given in Python", columns=columns, labels=labels)


def _tags(parts: Any, encoded: EncodedRecords, names: tuple[str, ...]) -> list[list[str]]:
    """Per record a tag for each word that was not cut off."""
    found: list[list[str]] = [[] for _ in range(len(encoded))]
    for ids, rows, logits in parts:
        best = logits.argmax(-1)
        for row, record in enumerate(ids):
            if record >= 0:
                found[record] = [names[i] for i in best[row][rows["first"][row]]]
    return found
