"""Write text with a trained language model.

usage: lepjax generate RUN_DIR_OR_EXPERIMENT [--prompt TEXT] [--tokens N] [--temperature X] [--top-k K] [--top-p P]
                       [--seed N] [--checkpoint last|best|STEP] [--field value ...]
"""

from __future__ import annotations

from typing import Any

from lepjax.cli import _load, _open
from lepjax.core.errors import DONE, UserError
from lepjax.models.generation import Sampling
from lepjax.run.open import open_run
from lepjax.run.text import generate


def run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return DONE
    checkpoint, rest = _open.option(arguments, "--checkpoint", "last")
    prompt, rest = _open.option(rest, "--prompt", "\n")
    numbers: dict[str, Any] = {}
    for name, kind, default in (
        ("--tokens", int, 200),
        ("--temperature", float, 0.8),
        ("--top-k", int, 0),
        ("--top-p", float, 0.95),
        ("--seed", int, 0),
    ):
        text, rest = _open.option(rest, name, str(default))
        try:
            numbers[name] = kind(text)
        except ValueError as error:
            raise UserError(f"{text!r} is not a number", where=name) from error
    if numbers["--tokens"] < 1:
        raise UserError(f"{numbers['--tokens']} tokens", where="--tokens", fix="Ask for at least one.")
    sampling = Sampling(numbers["--temperature"], numbers["--top-k"], numbers["--top-p"])
    directory, experiment = _load.run_of(rest[0], rest[1:])
    trained, _ = open_run(directory, experiment, checkpoint)
    print(generate(trained, prompt, numbers["--tokens"], sampling, numbers["--seed"]))
    return DONE
