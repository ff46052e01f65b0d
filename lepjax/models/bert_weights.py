"""Between our parameters and the tensors of a Hugging Face folder."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from lepjax.core import parameters
from lepjax.core.errors import UserError
from lepjax.core.parameters import Leaf, Leaves
from lepjax.models.bert_family import Architecture
from lepjax.models.pretrained import Tensors

NEW = ("head.", "pooler.")  # what a checkpoint may lack: it was saved with another head


@dataclasses.dataclass(frozen=True)
class Loaded:
    """`values`: {leaf name: float32 array}; `new`: our parameters that start at random; `unused`: tensors left alone."""

    values: dict[str, np.ndarray]
    new: tuple[str, ...]
    unused: tuple[str, ...]


def read(folder: pathlib.Path, leaves: Leaves, arch: Architecture, head: str) -> Loaded:
    """Reads what `leaves` need. Raises `UserError` naming the tensor that is missing or of another shape."""
    tensors = Tensors.of(folder)
    values, new, used = {}, [], set()
    for leaf in parameters.flat(leaves):
        found = [_find(tensors, arch.their_name(name, head), arch.base) for name in leaf.names]
        if None in found:
            if not leaf.name.startswith(NEW):
                missing = arch.their_name(leaf.names[found.index(None)], head)
                raise UserError(f"has no tensor {missing}", where=str(folder), fix="Is it another architecture?")
            new.append(leaf.name)
            continue
        names = [name for name in found if name is not None]
        arrays = [_fitted(tensors, name, leaf) for name in names]
        values[leaf.name] = np.stack(arrays) if leaf.stacked else arrays[0]
        used.update(names)
    unused = sorted(name for name in set(tensors.files) - used if not name.endswith("position_ids"))
    return Loaded(values, tuple(new), tuple(unused))


def _find(tensors: Tensors, name: str, base: str) -> str | None:
    """The tensor under this name, under the name without the family's prefix, or with the layer norms' old names."""
    old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    return next((n for n in (name, name.removeprefix(base), old, old.removeprefix(base)) if n in tensors.files), None)


def _fitted(tensors: Tensors, name: str, leaf: Leaf) -> np.ndarray:
    array = tensors.read(name)
    turned = leaf.name.endswith(".kernel")  # torch keeps [out, in]
    shape = leaf.shape[1:] if leaf.stacked else leaf.shape
    expected = shape[::-1] if turned else shape
    if array.shape != expected:
        fix = "Give the head as many labels as the folder's." if leaf.name.startswith("head.") else ""
        found = f"shape {array.shape}, expected {expected}"
        raise UserError(found, where=f"{tensors.files[name]} {name}", fix=fix)
    return (array.T if turned else array).astype(leaf.dtype)


def write(params: Any, leaves: Leaves, arch: Architecture, head: str) -> dict[str, np.ndarray]:
    """{Hugging Face name: float32 array} of all parameters, as the class with this head saves them."""
    tensors = {}
    values = jax.tree.leaves(params)
    for leaf, value in zip(parameters.flat(leaves), values, strict=True):
        host = np.asarray(value)
        for index, name in enumerate(leaf.names):
            array = host[index] if leaf.stacked else host
            tensors[arch.their_name(name, head)] = array.T if name.endswith(".kernel") else array
    if head in ("Head", "Unpooled"):  # a bare encoder is saved without the prefix
        return {name.removeprefix(arch.base): array for name, array in tensors.items()}
    return tensors
