"""Small data sets that tests write, and errors that they expect of loading them."""

import pytest

from lepjax.core.errors import UserError
from lepjax.data.datasets import load


def quiet(line):
    """Says nothing."""


def fails(message, *args, **options):
    with pytest.raises(UserError) as error:
        load(*args, say=quiet, **options)
    assert message in str(error.value) and "\n" not in str(error.value)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
