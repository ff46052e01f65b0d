"""Between our parameters and the tensors of a Hugging Face folder."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lepjax.core import parameters
from lepjax.core.errors import UserError
from lepjax.core.parameters import Leaf, Leaves
from lepjax.models.pretrained import Tensors

Renames = tuple[
    tuple[str, str], ...
]  # (our prefix, their prefix); `*` stands for a layer; the first that matches counts
Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one of their arrays becomes ours, and back."""

    read: Callable[[Array], Array]
    write: Callable[[Array], Array]


SAME = Layout(lambda x: x, lambda x: x)
TURNED = Layout(lambda x: x.T, lambda x: x.T)  # torch keeps the kernel of a dense layer as [out, in]


@dataclasses.dataclass(frozen=True)
class Naming:
    """What a class of transformers calls our parameters, and how it keeps them."""

    tables: tuple[tuple[Renames, str], ...]
    """Renames, and the prefix of the names they give."""
    base: str = ""
    """Prefix of the encoder or decoder, which folders of bare models leave out."""
    may_lack: tuple[str, ...] = ()
    """Beginnings of our names that a checkpoint may lack: it was saved with another head."""
    bare: bool = False
    """Written without the prefix."""
    layouts: tuple[tuple[str, Layout], ...] = ((r"\.kernel$", TURNED),)
    """(pattern on our names, layout): the first that matches counts; others are kept as they are."""
    ignored: tuple[str, ...] = ("position_ids",)
    """Endings of their tensors that hold nothing learned."""
    copies: tuple[tuple[str, str], ...] = ()
    """(tensor, the one that it repeats), as they call them: a folder has one of the two, or both."""

    def theirs(self, name: str) -> str:
        for table, prefix in self.tables:
            for ours, renamed in table:
                pattern = re.escape(ours).replace(r"\*", r"(\d+)")
                if found := re.match(pattern, name):
                    start = renamed.replace("*", found.group(1)) if found.groups() else renamed
                    return prefix + start + _array(name[found.end() :])
        return self.base + _array(name)

    def layout(self, name: str) -> Layout:
        return next((layout for pattern, layout in self.layouts if re.search(pattern, name)), SAME)


def _array(name: str) -> str:
    """Our names of arrays -> torch's."""
    return re.sub(r"(^|\.)(kernel|scale|embedding)$", r"\1weight", name)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """`values`: {leaf name: float32 array}; `new`: our parameters that start at random; `unused`: tensors left alone."""

    values: dict[str, Array]
    new: tuple[str, ...]
    unused: tuple[str, ...]


def read(folder: pathlib.Path, leaves: Leaves, naming: Naming) -> Loaded:
    """Reads what `leaves` need. Raises `UserError` naming the tensor that is missing or of another shape."""
    tensors = Tensors.of(folder)
    values, new, used = {}, [], set()
    for leaf in parameters.flat(leaves):
        found = [_find(tensors, naming.theirs(name), naming) for name in leaf.names]
        if None in found:
            if not leaf.name.startswith(naming.may_lack):
                missing = naming.theirs(leaf.names[found.index(None)])
                raise UserError(f"has no tensor {missing}", where=str(folder), fix="Is it another architecture?")
            new.append(leaf.name)
            continue
        names = [name for name in found if name is not None]
        arrays = [_fitted(tensors, name, leaf, naming.layout(leaf.name)) for name in names]
        values[leaf.name] = np.stack(arrays) if leaf.stacked else arrays[0]
        used.update(names)
    used.update(_checked_copies(tensors, naming))
    unused = sorted(name for name in set(tensors.files) - used if not name.endswith(naming.ignored))
    return Loaded(values, tuple(new), tuple(unused))


def _find(tensors: Tensors, name: str, naming: Naming) -> str | None:
    """The tensor under this name, without the family's prefix, with the layer norms' old names, or as its copy."""
    old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    copies = [copy for copy, original in naming.copies if original == name]
    names = (name, name.removeprefix(naming.base), old, old.removeprefix(naming.base), *copies)
    return next((n for n in names if n in tensors.files), None)


def _checked_copies(tensors: Tensors, naming: Naming) -> list[str]:
    """The copies that the folder has. Raises `UserError` for one that is another array: it would be lost."""
    found = [(copy, _find(tensors, original, naming)) for copy, original in naming.copies if copy in tensors.files]
    for copy, original in found:
        if original is not None and not np.array_equal(tensors.read(copy), tensors.read(original), equal_nan=True):
            where = f"{tensors.files[copy]} {copy}"
            raise UserError(f"differs from {original}", where=where, fix="Both have to be the same array.")
    return [copy for copy, _ in found]


def _fitted(tensors: Tensors, name: str, leaf: Leaf, layout: Layout) -> Array:
    array = tensors.read(name)
    shape = leaf.shape[1:] if leaf.stacked else leaf.shape
    expected = layout.write(np.broadcast_to(np.float32(0), shape)).shape
    if array.shape != expected:
        fix = "Give the head as many labels as the folder's." if leaf.name.startswith("head.") else ""
        found = f"shape {array.shape}, expected {expected}"
        raise UserError(found, where=f"{tensors.files[name]} {name}", fix=fix)
    return layout.read(array).astype(leaf.dtype)


def write(params: Any, leaves: Leaves, naming: Naming) -> dict[str, Array]:
    """{Hugging Face name: float32 array} of all parameters."""
    tensors = {}
    for leaf, value in zip(parameters.flat(leaves), jax.tree.leaves(params), strict=True):
        host, layout = np.asarray(value), naming.layout(leaf.name)
        for index, name in enumerate(leaf.names):
            tensors[naming.theirs(name)] = layout.write(host[index] if leaf.stacked else host)
    if naming.bare:
        return {name.removeprefix(naming.base): array for name, array in tensors.items()}
    return tensors
