"""Which keys each query sees: the structure of an attention mask, so that no array of queries x keys need exist."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from lepjax.ops.blockwise import Sizes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sight:
    """Everything, unless:

    causal    a query sees the keys up to its own place
    window    and of these the last so many, its own included; 0: all
    offset    place of the first query among the keys (with a cache); int or int32[]
    segments  (int32[rows, queries], int32[rows, keys]): only keys of its own segment
    keys      bool[rows, keys]: only these keys
    """

    causal: bool = dataclasses.field(default=False, metadata={"static": True})
    window: int = dataclasses.field(default=0, metadata={"static": True})
    offset: Any = 0
    segments: Any = None
    keys: Any = None

    def __post_init__(self) -> None:
        if self.window and not self.causal:
            raise ValueError("a window needs causal sight")

    def whole(self, queries: int, keys: int) -> jax.Array | None:
        """The mask of all of them, bool[rows or 1, 1, queries, keys]; None where everything is seen."""
        if not self.causal and self.segments is None and self.keys is None:
            return None
        return self._seen(jnp.arange(queries), jnp.arange(keys))

    def block(self, q_at: jax.Array, k_at: jax.Array) -> jax.Array:
        """The same for queries and keys at these places (int32[n]); beyond the end: anything."""

        def cut(x: jax.Array, at: jax.Array) -> jax.Array:
            return jnp.take(x, at, axis=1, mode="clip")

        segments = None if self.segments is None else (cut(self.segments[0], q_at), cut(self.segments[1], k_at))
        keys = None if self.keys is None else cut(self.keys, k_at)
        return dataclasses.replace(self, segments=segments, keys=keys)._seen(q_at, k_at)

    def _seen(self, q_at: jax.Array, k_at: jax.Array) -> jax.Array:
        seen = jnp.ones((1, 1, len(q_at), len(k_at)), bool)
        if self.causal:
            behind = self.offset + q_at[:, None] - k_at  # how far back each key stands
            seen = seen & (behind >= 0)
            if self.window:
                seen = seen & (behind < self.window)
        if self.segments is not None:
            mine, theirs = self.segments
            seen = seen & (mine[:, :, None] == theirs[:, None, :])[:, None]
        if self.keys is not None:
            seen = seen & self.keys[:, None, None, :]
        return seen

    def k_blocks(self, i: jax.Array, sizes: Sizes) -> tuple[Any, Any]:
        """First and last + 1 of the key blocks of which query block i sees something."""
        if not self.causal:
            return 0, sizes.k_blocks
        first = self.offset + i * sizes.q_block
        stop = jnp.clip((first + sizes.q_block - 1) // sizes.k_block + 1, 0, sizes.k_blocks)
        start = jnp.clip((first - self.window + 1) // sizes.k_block, 0, stop) if self.window else jnp.zeros_like(stop)
        return start, stop

    def q_blocks(self, j: jax.Array, sizes: Sizes) -> tuple[Any, Any]:
        """First and last + 1 of the query blocks that see something of key block j."""
        if not self.causal:
            return 0, sizes.q_blocks
        first = j * sizes.k_block - self.offset
        start = jnp.clip(first // sizes.q_block, 0, sizes.q_blocks)
        last = first + sizes.k_block + self.window - 2
        stop = jnp.clip(last // sizes.q_block + 1, start, sizes.q_blocks) if self.window else sizes.q_blocks
        return start, jnp.asarray(stop, start.dtype)


ALL = Sight()
