"""BERT on SST-2: sentiment of sentences and phrases, two classes.

Data      GLUE SST-2, 67,349 training and 872 validation rows (--data-dir, $LEPJAX_DATA/sst2, the hub or TFDS). 3 % of
          the training rows are set aside (`tune`) to choose the best checkpoint by; validation is scored once
Command   lepjax train experiments/sst2_bert.py --model bert-base-uncased
Hardware  2 CPU cores (MiniLM-L6)
Measured  dev_accuracy 0.894 +- 0.007 (n=3: 0.9025, 0.8911, 0.8888), last_dev_accuracy 0.892; 22 min a run, beside other
          work. TF-IDF and logistic regression on all rows: 0.821
"""

from lepjax.cli.train import main
from lepjax.core.optimizers import AdamW
from lepjax.core.schedules import Linear
from lepjax.data.batching import Packed
from lepjax.data.labelled import LabelledText
from lepjax.experiment import Epochs, Experiment
from lepjax.models.bert import Bert
from lepjax.models.bert_heads import SequenceClassification
from lepjax.run.classified import ClassReport
from lepjax.tasks.classification import Classification


def experiment(
    model: str = "google-bert/bert-base-uncased", data_dir: str = "", max_train_examples: int = 0
) -> Experiment:
    return Experiment(
        model=Bert(pretrained=model, head=SequenceClassification(num_labels=2), dropout=0.1),
        task=Classification(labels=("negative", "positive")),
        data=LabelledText(
            dataset="sst2",
            data_dir=data_dir,
            tokenizer=model,
            batch_size=8,  # rows of some five sentences or phrases each
            batching=Packed(length=72, slots=16),
            max_length=72,  # the longest sentence has 66
            choose_on=0.03,
            max_train_examples=max_train_examples,
        ),
        optimizer=AdamW(learning_rate=1e-4, weight_decay=0.01, clip_norm=1.0, schedule=Linear(warmup=0.06)),
        length=Epochs(3),
        evaluate_every=Epochs(1),
        best="tune_accuracy",
        best_mode="max",
        final=(ClassReport("dev"),),
    )


if __name__ == "__main__":
    main(experiment)
