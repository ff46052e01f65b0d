"""Labelled text as a training recipe: tables of sentences or pairs, numbers to predict, tagged words."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from lepjax.core import hub
from lepjax.core.errors import UserError
from lepjax.core.fields import runtime
from lepjax.data import datasets
from lepjax.data.batching import Batching, Buckets
from lepjax.data.datasets import Dataset
from lepjax.data.encoded import EncodedRecords
from lepjax.data.quarantine import BadRecords, Refuse, Sieve, told
from lepjax.data.source import Data, Source, Splits, Work
from lepjax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class TextData(Data):
    """What all recipes of labelled text share: how text becomes batches."""

    tokenizer: str = ""
    """The tokenizer: a folder in the Hugging Face layout, or owner/repository[@revision] of the hub."""
    max_length: int = 128
    """Tokens after which a text is cut off."""
    batching: Batching = Buckets()
    """How texts of unequal length become batches."""
    bad_records: BadRecords = runtime(Refuse())
    """What becomes of records that cannot be used: refuse (an error), or skip."""

    def parts(self, sieve: Sieve) -> tuple[Dataset, dict[str, Dataset], dict[str, Dataset]]:
        """The training data, what is scored while training, and what is scored once at the end.

        Records that cannot be used go to the sieve.
        """
        raise TypeError(f"{type(self).__name__} must define parts")

    def load(self) -> Splits:
        tokenizer = Tokenizer.load(hub.folder(self.tokenizer))
        sieve = self.bad_records.sieve()
        train, evaluation, final = self.parts(sieve)
        labels = train.labels
        for other in (*evaluation.values(), *final.values()):
            if other.labels != labels:
                found = f"labels {', '.join(other.labels)}, those of {train.split} are {', '.join(labels)}"
                raise UserError(found, where=f"{other.name} {other.split} ({other.source})")
        train = train.usable(sieve)
        evaluation, final = ({name: data.usable(sieve) for name, data in some.items()} for some in (evaluation, final))
        encoded = {name: encode(data, tokenizer, self.max_length) for name, data in {**evaluation, **final}.items()}
        everything = {"train": train, **evaluation, **final}
        return Splits(
            train=encode(train, tokenizer, self.max_length),
            evaluation={name: encoded[name] for name in evaluation},
            final={name: encoded[name] for name in final},
            labels=labels,
            notes=(
                *(f"{name}: {len(data):,} records, {data.source}" for name, data in everything.items()),
                *told(sieve.dropped),
            ),
            quarantined=sieve.dropped,
            largest_token=tokenizer.size - 1,
        )

    def training(self, source: Source, seed: int, work: Work) -> tuple[Source, Any]:
        return self.batching.training(source, self.batch_size, seed, work)

    def scoring(self, source: Source, rows: int, work: Work) -> tuple[Source, Any]:
        return self.batching.evaluation(source, rows, work)


@dataclasses.dataclass(frozen=True)
class LabelledText(TextData):
    """A data set by name or path; see `datasets.load`."""

    dataset: str = "sst2"
    """The name of a known data set, or a folder or file of TSV, CSV, JSONL, Parquet or CoNLL files."""
    data_dir: str = runtime("")
    """The folder that holds it; empty: $LEPJAX_DATA/<name>, the hub or TFDS, whichever has it first."""
    dev: str = "validation"
    """The split to evaluate on."""
    test: str = ""
    """A split that is scored once, after training; empty: none."""
    choose_on: float = 0.0
    """Share of the training split that is set aside to choose checkpoints by (`tune`); `dev` is then scored once."""
    max_train_examples: int = 0
    """Train on the first so many records only; 0: all."""

    def parts(self, sieve: Sieve) -> tuple[Dataset, dict[str, Dataset], dict[str, Dataset]]:
        names = ["train", self.dev, *([self.test] if self.test else [])]
        train, dev, *test = datasets.load(self.dataset, split=names, data_dir=self.data_dir, sieve=sieve)
        final = {"test": test[0]} if test else {}
        if self.choose_on:
            train, tune = datasets.slice_off(train, self.choose_on, seed=0)
        if self.max_train_examples:
            train = train.head(self.max_train_examples)
        return (train, {"tune": tune}, {"dev": dev, **final}) if self.choose_on else (train, {"dev": dev}, final)


def encode(data: Dataset, tokenizer: Tokenizer, max_length: int) -> EncodedRecords:
    """Tokenised records with `label`: int32 per record, float32 where the data set has no classes, or int32 per token with
    `label_weight` (1 on the `first` token of each word) where words are tagged. Without labels there is no such column.
    """
    columns = data.columns
    if "tokens" in columns:
        words = tokenizer.encode_words(columns["tokens"], max_length)
        flat = {"tokens": words.ids, "first": words.first}
        if "tags" in columns:
            flat["label"] = np.zeros(len(words.ids), np.int32)
            flat["label"][words.first] = _tags_kept(data, words.kept)
            flat["label_weight"] = words.first.astype(np.float32)
        texts = tuple(" ".join(tokens) for tokens in columns["tokens"])
        return EncodedRecords(flat, words.starts, {}, {"tokens": tokenizer.pad}, texts=texts, origin=data.origin)
    pairs = columns.get("text_pair")
    encoded = tokenizer.encode(columns["text"], pairs, max_length)
    flat = {"tokens": encoded.ids} | ({"token_types": encoded.type_ids} if pairs is not None else {})
    labels = {}
    if "label" in columns:
        labels["label"] = data.label_ids() if data.labels else data.scores()
    texts = (
        tuple(columns["text"]) if pairs is None else tuple(map(" | ".join, zip(columns["text"], pairs, strict=True)))
    )
    return EncodedRecords(flat, encoded.starts, labels, {"tokens": tokenizer.pad}, texts=texts, origin=data.origin)


def _tags_kept(data: Dataset, kept: np.ndarray) -> np.ndarray:
    """int32: the tags of the first `kept[i]` words of each record, record after record."""
    sizes = np.array([len(tags) for tags in data.columns["tags"]], np.int64)
    place = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return data.label_ids()[place < np.repeat(kept, sizes)]
