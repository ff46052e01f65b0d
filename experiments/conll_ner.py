"""Named entities in CoNLL-2003: persons, organisations, locations and others, BIO tags on words.

Data      CoNLL-2003 English, official splits: 14,041 / 3,250 / 3,453 sentences (--data-dir, $LEPJAX_DATA/conll2003, the
          hub or TFDS). The best epoch is chosen on `dev`; `test` is scored once
Command   lepjax train experiments/conll_ner.py --model bert-base-cased
Hardware  2 CPU cores (MiniLM-L6)
Measured  all rows, n=1: test_entity_f1 0.860, dev_entity_f1 0.906 (epochs 0.865, 0.893, 0.906; last and best are the same);
          10 min 26 s, of which 78 s to compile. PyTorch with transformers' Trainer: 0.858 and 0.907
"""

from lepjax.cli.train import main
from lepjax.core.optimizers import AdamW
from lepjax.core.schedules import Linear
from lepjax.data.labelled import LabelledText
from lepjax.experiment import Epochs, Experiment
from lepjax.models.bert import Bert
from lepjax.models.bert_heads import TokenClassification
from lepjax.run.classified import TagReport
from lepjax.tasks.tagging import Tagging

TAGS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC")


def experiment(
    model: str = "google-bert/bert-base-cased", data_dir: str = "", max_train_examples: int = 0
) -> Experiment:
    return Experiment(
        model=Bert(pretrained=model, head=TokenClassification(num_labels=len(TAGS)), dropout=0.1),
        task=Tagging(tags=TAGS),
        data=LabelledText(
            dataset="conll2003",
            data_dir=data_dir,
            tokenizer=model,
            batch_size=32,
            max_length=192,
            test="test",
            max_train_examples=max_train_examples,
        ),
        optimizer=AdamW(learning_rate=3e-4, weight_decay=0.01, clip_norm=1.0, schedule=Linear(warmup=0.06)),
        length=Epochs(3),
        evaluate_every=Epochs(1),
        best="dev_entity_f1",
        best_mode="max",
        final=(TagReport("test"),),
    )


if __name__ == "__main__":
    main(experiment)
