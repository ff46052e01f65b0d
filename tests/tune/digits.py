"""An experiment of half a second, for sweeps."""

import dataclasses

from lepjax import tune
from lepjax.core.optimizers import AdamW
from lepjax.core.schedules import Cosine
from lepjax.data.digits import LABELS, Digits
from lepjax.experiment import Experiment, Steps
from lepjax.models.mlp import Mlp
from lepjax.tasks.features import FeatureClassification

SPACE = {
    "learning_rate": tune.loguniform(1e-4, 3e-2),
    "weight_decay": tune.loguniform(1e-3, 1.0),
    "beta1": tune.uniform(0.8, 0.95),
    "beta2": tune.uniform(0.95, 0.999),
    "clip_norm": tune.loguniform(0.1, 10.0),
    "warmup_steps": tune.integer(0, 20),
    "decay_steps": tune.integer(20, 200),
    "dropout": tune.uniform(0.0, 0.5),
    "label_smoothing": tune.uniform(0.0, 0.2),
    "seed": tune.integer(0, 100),
}


def experiment(steps: int = 40, **changes) -> Experiment:
    return dataclasses.replace(
        Experiment(
            model=Mlp(hidden=(16,), dropout=0.1),
            task=FeatureClassification(labels=LABELS),
            data=Digits(batch_size=32),
            optimizer=AdamW(learning_rate=3e-3, schedule=Cosine(warmup=2)),
            length=Steps(steps),
            mesh="data=1",
        ),
        **changes,
    )
