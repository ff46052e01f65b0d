"""The other side of `bert_vs_hf_trainer`: Hugging Face's Trainer on PyTorch. It runs in an environment of its own.

Needs     pip install torch==2.13.0 transformers==5.23.0 accelerate==1.15.0   (nothing of lepjax)
Command   python bert_vs_hf_trainer_peer.py steps --model FOLDER --train FILE --rows 512 --length 64
          runs a block of N training steps for every line `N` on stdin and answers with the seconds per step
          python bert_vs_hf_trainer_peer.py job --model FOLDER --train FILE --rows 3200 --dev FILE [--grouped] --seed 0
          trains one epoch and evaluates; answers with the seconds of its parts and the accuracy
Answers   lines of JSON on stdout; what the libraries print there goes to stderr
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse  # noqa: E402
import gzip  # noqa: E402
import itertools  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from typing import Any, TextIO  # noqa: E402

import accelerate  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

IMPORTED = time.perf_counter()
THREADS = 2
BATCH = 32
MAX_LENGTH = 128  # tokens after which a sentence of the job is cut off
HEAD = {"classifier.weight", "classifier.bias"}


class Rows(torch.utils.data.Dataset):
    """Encoded sentences: `input_ids`, `attention_mask`, `labels`."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.rows[row]


def read(path: str, count: int) -> tuple[list[str], list[int]]:
    """The first `count` rows (0: all) of a table `sentence<TAB>label` with a header: (sentences, labels)."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        header = next(file)
        assert header.rstrip("\n") == "sentence\tlabel", header
        rows = [line.rstrip("\n").split("\t") for line in itertools.islice(file, count or None)]
    assert not count or len(rows) == count, f"{path} has {len(rows)} rows"
    return [sentence for sentence, _ in rows], [int(label) for _, label in rows]


def encode(tokenizer: Any, path: str, count: int, length: int, padded: bool) -> Rows:
    """Tokenised rows of a table, cut off after `length` tokens and padded to it if `padded`."""
    sentences, labels = read(path, count)
    encoded = tokenizer(
        sentences,
        add_special_tokens=True,
        truncation=True,
        max_length=length,
        padding="max_length" if padded else False,
        return_token_type_ids=False,  # all 0, which the model takes for granted; one lookup less
        return_attention_mask=True,
    )
    columns = zip(encoded["input_ids"], encoded["attention_mask"], labels, strict=True)
    return Rows([{"input_ids": ids, "attention_mask": mask, "labels": label} for ids, mask, label in columns])


def load(folder: str) -> Any:
    """The classifier in float32 with a new head. Raises AssertionError where the folder gives anything else."""
    model, report = AutoModelForSequenceClassification.from_pretrained(
        folder,
        num_labels=2,
        dtype=torch.float32,  # the folder's weights are float16
        attn_implementation="eager",  # with dropout on a CPU never slower than "sdpa", the default, and faster at 64 tokens
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        classifier_dropout=0.1,
        local_files_only=True,
        output_loading_info=True,
    )
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert set(report["missing_keys"]) == HEAD and not report["unexpected_keys"], report
    assert not report["mismatched_keys"], report
    return model


def arguments(folder: str, grouped: bool, seed: int, max_steps: int) -> TrainingArguments:
    """`max_steps` -1: one epoch. Nothing is logged, saved or evaluated while training."""
    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        gradient_accumulation_steps=1,
        num_train_epochs=1.0,
        max_steps=max_steps,
        optim="adamw_torch_fused",
        learning_rate=6e-5,
        lr_scheduler_type="linear",
        warmup_steps=0,
        weight_decay=0.01,  # the Trainer leaves out biases and layer norms
        adam_beta1=0.9,
        adam_beta2=0.999,
        adam_epsilon=1e-8,
        max_grad_norm=1.0,
        label_smoothing_factor=0.0,
        use_cpu=True,
        fp16=False,
        bf16=False,
        torch_compile=False,
        activation_checkpointing=False,
        train_sampling_strategy="group_by_length" if grouped else "random",
        dataloader_num_workers=0,  # a worker would take turns with the two threads that compute
        dataloader_pin_memory=False,
        dataloader_drop_last=False,
        remove_unused_columns=True,
        logging_strategy="no",
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        data_seed=seed,
    )


class Blocks(TrainerCallback):
    """Runs as many steps as a line on stdin says, then answers with the seconds per step; end of file stops training.

    A step is what the Trainer does between `on_step_begin` and `on_step_end`: forward, backward, clip, optimizer, schedule.
    Collating the batch is not part of it.
    """

    def __init__(self, answers: TextIO) -> None:
        self.answers = answers
        self.left, self.steps, self.seconds, self.began = 0, 0, 0.0, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.left:
            line = sys.stdin.readline()
            self.left = self.steps = int(line or 1)
            self.seconds = 0.0
            control.should_training_stop = not line
        self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds += time.perf_counter() - self.began
        self.left -= 1
        if not self.left and not control.should_training_stop:
            answer(self.answers, {"seconds": self.seconds / self.steps})


def steps(chosen: argparse.Namespace, answers: TextIO, folder: str) -> None:
    """Trains on rows of one length, in blocks."""
    tokenizer = AutoTokenizer.from_pretrained(chosen.model, local_files_only=True, use_fast=True)
    trainer = Trainer(
        model=load(chosen.model),
        args=arguments(folder, grouped=False, seed=0, max_steps=1_000_000),
        train_dataset=encode(tokenizer, chosen.train, chosen.rows, chosen.length, padded=True),
        data_collator=DataCollatorWithPadding(
            tokenizer, padding="longest", pad_to_multiple_of=None, return_tensors="pt"
        ),
        processing_class=tokenizer,
        callbacks=[Blocks(answers)],
    )
    answer(answers, {"versions": versions()})
    trainer.train()


def job(chosen: argparse.Namespace, answers: TextIO, folder: str) -> None:
    """One epoch, then the accuracy on all of the development rows."""
    begun = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(chosen.model, local_files_only=True, use_fast=True)
    train = encode(tokenizer, chosen.train, chosen.rows, MAX_LENGTH, padded=False)
    dev = encode(tokenizer, chosen.dev, 0, MAX_LENGTH, padded=False)
    encoded = time.perf_counter()
    transformers.set_seed(chosen.seed)  # also draws the new head
    trainer = Trainer(
        model=load(chosen.model),
        args=arguments(folder, chosen.grouped, chosen.seed, max_steps=-1),
        train_dataset=train,
        eval_dataset=dev,
        data_collator=DataCollatorWithPadding(
            tokenizer, padding="longest", pad_to_multiple_of=None, return_tensors="pt"
        ),
        processing_class=tokenizer,
        compute_metrics=lambda scored: {"accuracy": float(np.mean(scored.predictions.argmax(-1) == scored.label_ids))},
    )
    loaded = time.perf_counter()
    trainer.train()
    trained = time.perf_counter()
    scores = trainer.evaluate()
    seconds = {
        "import": IMPORTED - STARTED,
        "data": encoded - begun,
        "model": loaded - encoded,
        "step": trained - loaded,
        "evaluation": time.perf_counter() - trained,
    }
    found = {
        "accuracy": scores["eval_accuracy"],
        "rows": len(train),
        "scored": len(dev),
        "steps": trainer.state.global_step,
    }
    answer(answers, {**found, "seconds": seconds, "versions": versions()})


def versions() -> str:
    names = f"torch {torch.__version__}, transformers {transformers.__version__}, accelerate {accelerate.__version__}"
    return f"{names}, {torch.get_num_threads()} threads"


def answer(answers: TextIO, values: dict[str, Any]) -> None:
    answers.write(json.dumps(values) + "\n")
    answers.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("steps", "job"))
    parser.add_argument("--model", required=True, help="folder of the encoder")
    parser.add_argument("--train", required=True, help="training rows, .tsv.gz")
    parser.add_argument("--rows", type=int, default=0, help="train on the first so many; 0: all")
    parser.add_argument("--length", type=int, default=64, help="tokens of every row (steps)")
    parser.add_argument("--dev", default="", help="rows to evaluate on, .tsv.gz (job)")
    parser.add_argument("--grouped", action="store_true", help="batches of rows of similar length (job)")
    parser.add_argument("--seed", type=int, default=0, help="of head, order and dropout (job)")
    chosen = parser.parse_args()
    torch.set_num_threads(THREADS)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory() as folder:
        {"steps": steps, "job": job}[chosen.part](chosen, answers, folder)


if __name__ == "__main__":
    main()
