"""What the backward pass recomputes instead of keeping: policies by name (Chen et al., 2016; `jax.checkpoint`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from lepjax.core.errors import UserError, nearest

KEPT = jax.checkpoint_policies
POLICIES: dict[str, Any] = {
    "none": None,  # keep every activation
    "full": KEPT.nothing_saveable,  # keep each layer's input alone
    "dots": KEPT.dots_with_no_batch_dims_saveable,  # keep the products with weights, not those of attention
    "all_dots": KEPT.dots_saveable,  # keep every product
    "offload": KEPT.offload_dot_with_no_batch_dims("device", "pinned_host"),  # as `dots`, kept in the host's memory
}


def rematerialised(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """`function`, of which the backward pass keeps what the policy of this name keeps."""
    return function if name == "none" else jax.checkpoint(function, policy=POLICIES[name])


def check_remat(name: str) -> None:
    """Raises `UserError` for an unknown policy."""
    if name not in POLICIES:
        raise UserError(f"no policy {name!r}", where="model.remat", fix=nearest(str(name), POLICIES))
