"""State in the host's memory: it visits the device for the length of a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from lepjax.core.errors import UserError
from lepjax.core.state import State
from lepjax.core.step import Batch, Step

HOST = "pinned_host"


def check_host_memory(devices: Sequence[jax.Device], where: str) -> None:
    """Raises `UserError` where the backend has no host memory that its devices can address."""
    known = sorted({memory.kind for memory in devices[0].addressable_memories()})
    if HOST not in known:
        found = f"{devices[0].platform} devices address no {HOST} memory, only {', '.join(known)}"
        raise UserError(found, where=where, fix="Leave it out.")


def optimizer_on_host(shardings: State) -> State:
    """The same shardings with the optimizer's arrays in the host's memory."""
    return dataclasses.replace(
        shardings, opt_state=jax.tree.map(lambda s: s.with_memory_kind(HOST), shardings.opt_state)
    )


def visiting(step: Step) -> Step:
    """`step` for a state whose optimizer lies in the host's memory; the output's shardings send it back there."""

    def visit(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        def here(x: Any) -> jax.Array:
            return jax.device_put(x, jax.memory.Space.Device)

        return step(dataclasses.replace(state, opt_state=jax.tree.map(here, state.opt_state)), batch)

    return visit
