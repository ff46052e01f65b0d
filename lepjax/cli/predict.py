"""Ask a fine-tuned model about texts.

usage: lepjax predict RUN_DIR_OR_EXPERIMENT [--text TEXT ...] [--file FILE] [--checkpoint last|best|STEP]

FILE holds one text per line. Prints a line per text: the label, its probability where there is one, the text.
"""

from __future__ import annotations

import pathlib

from lepjax.cli import _load, _open
from lepjax.core.errors import DONE, UserError
from lepjax.run.encoders import encoder_of
from lepjax.run.open import open_run
from lepjax.trainer import Trainer


def run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return DONE
    checkpoint, rest = _open.option(arguments, "--checkpoint", "")
    texts: list[str] = []
    while "--text" in rest or any(argument.startswith("--text=") for argument in rest):
        text, rest = _open.option(rest, "--text", "")
        texts.append(text)
    file, rest = _open.option(rest, "--file", "")
    texts += _lines(file) if file else []
    if not texts:
        raise UserError("no text", where="predict", fix="Pass --text TEXT or --file FILE.")
    directory, experiment = _load.run_of(rest[0], rest[1:])
    trained, _ = open_run(directory, experiment, checkpoint or ("best" if experiment.best else "last"))
    model = encoder_of(trained, rest[0])
    data = experiment.data
    trainer = Trainer(model, tokenizer=getattr(data, "tokenizer", ""), max_length=getattr(data, "max_length", 128))
    found = trainer.predict(texts)
    for index, (label, text) in enumerate(zip(found.labels, texts, strict=True)):
        if isinstance(label, list):
            print(" ".join(f"{word}/{tag}" for word, tag in zip(text.split(), label, strict=False)))
        elif isinstance(label, float):
            print(f"{label:.4f}\t{text}")
        else:
            print(f"{label}\t{found.scores[index].max():.4f}\t{text}")  # type: ignore[index]
    return DONE


def _lines(file: str) -> list[str]:
    path = pathlib.Path(file)
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read ({error})", where=file) from error
