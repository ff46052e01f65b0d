"""An encoder that starts from parameters a program holds in its hands."""

from __future__ import annotations

import dataclasses
import hashlib
import weakref
from typing import Any

import jax
import numpy as np

from lepjax.core import parameters
from lepjax.core.errors import UserError
from lepjax.core.parameters import Leaves
from lepjax.models.bert import Bert


class Values(dict[str, np.ndarray]):
    """{leaf name: array}."""


# By digest: what a name here stands for can never change, so this is a cache of values and not a state.
_GIVEN: weakref.WeakValueDictionary[str, Values] = weakref.WeakValueDictionary()


@dataclasses.dataclass(frozen=True)
class GivenBert(Bert):
    """A `Bert` whose first parameters are those with this digest, as long as the program holds them."""

    given: str = ""
    """Digest of the parameters."""

    def weights(self, leaves: Leaves) -> dict[str, Any]:
        if self.given not in _GIVEN:
            raise UserError(
                "these parameters were given to a Trainer in Python and are gone",
                where=f"model {self.given[:12]}",
                fix="Make the Trainer again with the same model.",
            )
        return dict(_GIVEN[self.given])


def given(recipe: Bert, params: Any, leaves: Leaves) -> tuple[GivenBert, Values]:
    """The recipe that starts from a copy of `params`, and the copy, which must be kept as long as the recipe is used."""
    names = [leaf.name for leaf in parameters.flat(leaves)]
    values = Values(zip(names, map(np.array, jax.tree.leaves(params)), strict=True))
    hashed = hashlib.sha256()
    for name, array in values.items():
        hashed.update(f"{name} {array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
    digest = hashed.hexdigest()
    kept = _GIVEN.setdefault(digest, values)
    fields = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(Bert)}
    return GivenBert(**fields, given=digest), kept
