"""Write a trained model as a Hugging Face folder.

usage: lepjax export RUN_DIR_OR_EXPERIMENT FOLDER [--checkpoint last|best|STEP]

FOLDER gets config.json, model.safetensors and the tokenizer's files; transformers and lepjax load it.
"""

from __future__ import annotations

import pathlib

from lepjax.cli import _load, _open
from lepjax.core.errors import DONE, UserError
from lepjax.run.encoders import save
from lepjax.run.open import open_run


def run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return DONE
    checkpoint, rest = _open.option(arguments, "--checkpoint", "")
    if len(rest) < 2 or rest[1].startswith("--"):
        raise UserError("no folder to write to", where="export", fix="lepjax export RUN FOLDER")
    folder = pathlib.Path(rest[1])
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError("exists and is not an empty folder", where=str(folder), fix="Name another.")
    directory, experiment = _load.run_of(rest[0], rest[2:])
    trained, step = open_run(directory, experiment, checkpoint or ("best" if experiment.best else "last"))
    save(trained, folder, rest[0])
    print(f"{folder}: {directory.path} at step {step}")
    return DONE
