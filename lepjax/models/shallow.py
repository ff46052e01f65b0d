"""A pretrained encoder without its upper layers: the head stands on a lower one (Sajjad et al., 2020)."""

from __future__ import annotations

import dataclasses

from lepjax.core.errors import UserError
from lepjax.models.bert import Bert
from lepjax.models.bert_family import Architecture


@dataclasses.dataclass(frozen=True)
class ShallowBert(Bert):
    """A `Bert` of its lowest `keep` layers. What it saves is a folder of so many layers, which needs no mention of this."""

    keep: int = 0
    """Layers; 0: all."""

    @property
    def arch(self) -> Architecture:
        whole = super().arch
        if not 0 <= self.keep <= whole.layers:
            raise UserError(f"{self.keep} of {whole.layers} layers", where="model.keep", fix="Keep fewer; 0: all.")
        return dataclasses.replace(whole, layers=self.keep or whole.layers)
