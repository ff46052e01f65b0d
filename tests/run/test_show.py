"""What a person sees before training."""

import dataclasses
import io

import pytest
from rich.console import Console

from lepjax.core import sharding
from lepjax.core.precision import FLOAT32
from lepjax.models.gpt2 import Gpt2
from lepjax.run.show import layers_folded, parameter_table

SIZES = {"data": 1, "fsdp": 2, "tensor": 2, "sequence": 1, "expert": 1, "stage": 1}


def rows(scan):
    model = Gpt2(vocab_size=64, context=8, layers=3, heads=2, width=8, scan=scan).build(FLOAT32)
    return sharding.explain(model.leaves, SIZES)


def table(lines):
    out = io.StringIO()
    parameter_table(Console(file=out, width=200), lines)
    return out.getvalue()


def test_unrolled_layers_are_told_as_if_they_were_stacked():
    assert len(rows(scan=False)) > len(rows(scan=True))
    assert table(layers_folded(rows(scan=False))) == table(rows(scan=True))
    assert layers_folded(rows(scan=True)) == rows(scan=True)


@pytest.mark.parametrize("change", [{"shape": (9, 8)}, {"dtype": "bfloat16"}])
def test_a_layer_that_differs_stands_alone(change):
    lines = rows(scan=False)
    place = next(i for i, row in enumerate(lines) if row.name == "h.1.mlp.c_proj.kernel")
    lines[place] = dataclasses.replace(lines[place], **change)
    assert any(row.name == "h.1.mlp.c_proj.kernel" for row in layers_folded(lines))
    assert len(layers_folded(lines)) == len(rows(scan=True)) + 1
