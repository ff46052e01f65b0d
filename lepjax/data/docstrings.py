"""The docstrings of Python's standard library: some 2 MB of English prose about code, on every machine."""

from __future__ import annotations

import ast
import dataclasses
import pathlib
import sysconfig
import warnings
from collections.abc import Iterator, Sequence

from lepjax.data.masked import MaskedDocuments
from lepjax.data.quarantine import Sieve
from lepjax.data.stdlib import read_library, sides

TESTS = "test"  # CPython's own tests: half of the source, and their docstrings are notes for its developers
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclasses.dataclass(frozen=True)
class Docstrings(MaskedDocuments):
    """The docstrings of the running Python's standard library, split by package as `data.stdlib` does it.

    A docstring that also occurs in a training package is not held out.
    """

    heldout: float = 0.08
    """Share of the packages that is held out (by a hash of their names)."""
    folder: str = ""
    """Where the library lies; empty: the running interpreter's own."""

    def documents(self, sieve: Sieve) -> tuple[Sequence[str], dict[str, Sequence[str]], str]:
        folder = pathlib.Path(self.folder or sysconfig.get_paths()["stdlib"])
        packages = read_library(folder)
        train, heldout = (
            [text for name in names if name != TESTS for file in packages[name] for text in docstrings(file)]
            for names in sides(packages, self.heldout)
        )
        known = set(train)
        return train, {"heldout": [text for text in heldout if text not in known]}, str(folder)


def docstrings(source: bytes) -> Iterator[str]:
    """The docstrings of a module, its classes and functions, without their indentation; none where it does not parse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that will be errors some day
        try:
            tree = ast.parse(source)
        except (
            SyntaxError,
            ValueError,
            RecursionError,
            MemoryError,
        ):  # a library also holds templates and bad examples
            return
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
            yield text
