"""What processes of tests train: tiny experiments that can be told apart, tampered with and stopped anywhere."""

import dataclasses
import json
import pathlib

import jax
import numpy as np

from lepjax.core.errors import UserError
from lepjax.experiment import Steps
from tests.mesh.families import llama
from tests.tiny import TinyText, tiny

RECORDS = 48  # in batches of 8: an epoch is 6 steps
STEPS = 14
BAD_RECORD = 20  # not finite: a step of every epoch is skipped
SIZE = -(-(32 * (RECORDS + 1) + 1) * 10 // 9)
MAKERS = {"gpt": tiny, "llama": llama}


def experiment(run: pathlib.Path, mesh: str = "auto", steps: int = STEPS):
    """Every kind of state that must survive: an average, a best step, skipped steps, evaluations."""
    data = TinyText(size=SIZE, bad_record=BAD_RECORD)
    return tiny(
        data=data, run_dir=str(run), mesh=mesh, ema=0.9, evaluate_every=Steps(5), best="dev_loss", length=Steps(steps)
    )


@dataclasses.dataclass(frozen=True)
class Watched(TinyText):
    """Writes down which training records each process asks for. Rank `corrupted` gets other tokens, rank `broken` none."""

    folder: str = ""
    corrupted: int = -1
    broken: int = -1

    def load(self):
        if jax.process_index() == self.broken:
            raise UserError("no such file", where="data.path")
        splits = super().load()
        return dataclasses.replace(splits, train=_Watched(splits.train, self.folder, self.corrupted))


class _Watched:
    def __init__(self, source, folder, corrupted):
        self.source, self.folder, self.corrupted = source, pathlib.Path(folder), corrupted
        self.digest = source.digest

    rowwise = True

    def __len__(self):
        return len(self.source)

    def rows(self, ids, epochs):
        with open(self.folder / f"asked-{jax.process_count()}-{jax.process_index()}.jsonl", "a") as file:
            file.write(json.dumps(ids.tolist()) + "\n")
        rows = self.source.rows(ids, epochs)
        if jax.process_index() == self.corrupted:
            rows = {**rows, "tokens": np.roll(rows["tokens"], 1, axis=1)}
        return rows


def watched(
    folder: pathlib.Path,
    name: str,
    family: str = "gpt",
    corrupted: int = -1,
    broken: int = -1,
    steps: int = 8,
    **changes,
):
    """`family` on four devices, over data and fsdp."""
    data = Watched(size=SIZE, folder=str(folder), corrupted=corrupted, broken=broken)
    mesh = changes.pop("mesh", "data=2,fsdp=2")
    return MAKERS[family](data=data, run_dir=str(folder / name), mesh=mesh, length=Steps(steps), **changes)
