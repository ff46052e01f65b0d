"""What a sweep looks for: one metric of one evaluation split."""

from __future__ import annotations

import dataclasses

from lepjax.core.errors import UserError
from lepjax.experiment import Experiment
from lepjax.run.evaluation import check_mode, check_monitor

LOWER = ("loss", "error", "perplexity", "mae", "mse", "rmse", "bits_per_byte")
HIGHER = ("accuracy", "f1", "precision", "recall", "matthews", "auc", "exact_match", "pearson", "spearman")


@dataclasses.dataclass(frozen=True)
class Objective:
    """`<split>_<metric>`, and whether lower (`min`) or higher (`max`) is better."""

    split: str
    metric: str
    mode: str
    best: bool = False
    """Whether a trial counts with the best of its evaluations, as a run with `best` does, or with the last."""

    @property
    def name(self) -> str:
        return f"{self.split}_{self.metric}"

    def cost(self, value: float) -> float:
        """The lower the better."""
        return value if self.mode == "min" else -value


def objective(experiment: Experiment, splits: tuple[str, ...], metric: str = "", mode: str = "") -> Objective:
    """What is asked for, or else what the experiment keeps its best checkpoint by, or else the first split's loss.

    Raises `UserError` for a metric that no evaluation gives, and where it is not known which direction is better.
    """
    if not splits:
        raise UserError("nothing to evaluate on", where="data", fix="A sweep needs a split that is not trained on.")
    metrics = experiment.task.metrics()
    name = metric or experiment.best or f"{splits[0]}_loss"
    check_monitor(name, [f"{split}_{one}" for split in splits for one in metrics], "metric")
    split = max((split for split in splits if name.startswith(f"{split}_")), key=len)
    kept = name == experiment.best
    mode = mode or (experiment.best_mode if kept else _mode(name))
    check_mode(mode, "mode")
    return Objective(split, name.removeprefix(f"{split}_"), mode, best=kept)


def _mode(name: str) -> str:
    for mode, endings in (("max", HIGHER), ("min", LOWER)):
        if name.endswith(endings):
            return mode
    raise UserError(f"whether {name} should be high or low is not known", where="metric", fix="Pass mode min or max.")
