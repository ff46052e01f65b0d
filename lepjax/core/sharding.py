"""Where arrays live. Sharding is a placement, never part of the maths.

Models name logical axes (`embed`, `heads`); `Rules` map each to mesh axes; a `Placement` is a mesh with its rules.
Every mesh has all six axes, those not in use with size one, so that one set of rules serves every machine.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from lepjax.core.errors import UserError, nearest
from lepjax.core.parameters import Leaf, is_leaf

AXES = ("data", "fsdp", "tensor", "sequence", "expert", "stage")
MeshAxes = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Rules:
    """Logical axis -> mesh axes. A dataclass, so that a misspelt axis fails instead of replicating."""

    batch: MeshAxes = ("data", "fsdp")
    length: MeshAxes = ("sequence",)
    embed: MeshAxes = ("fsdp",)
    heads: MeshAxes = ("tensor",)
    mlp: MeshAxes = ("tensor",)
    vocab: MeshAxes = ("tensor",)
    position: MeshAxes = ()
    layers: MeshAxes = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str) or (unknown := [name for name in value if name not in AXES]):
                found = value if isinstance(value, str) else unknown[0]
                fix = f"Give a tuple. {nearest(found, AXES)}"
                raise UserError(f"{found!r} is no tuple of mesh axes", where=f"Rules.{field.name}", fix=fix)

    def of(self, logical: str | None) -> MeshAxes:
        if logical is None:
            return ()
        known = {field.name for field in dataclasses.fields(self)}
        if logical not in known:
            raise UserError(
                f"no sharding rule for the logical axis {logical!r}", where="Rules", fix=nearest(logical, known)
            )
        return getattr(self, logical)


def parse_mesh(text: str, devices: int) -> dict[str, int]:
    """Sizes of all six axes from `auto` (all devices on `data`) or `data=2,fsdp=-1,tensor=2` (one -1 fills up).

    Raises `UserError` for an unknown axis or sizes that do not divide the devices.
    """
    where = f"mesh {text}"
    sizes = dict.fromkeys(AXES, 1)
    if text == "auto":
        return {**sizes, "data": devices}
    named: set[str] = set()
    for part in filter(None, text.replace(" ", "").split(",")):
        name, _, size = part.partition("=")
        if name not in AXES:
            raise UserError(f"no mesh axis {name!r}", where=where, fix=nearest(name, AXES))
        if not re.fullmatch("-1|[1-9][0-9]*", size):
            raise UserError(f"size {size!r} of axis {name} is not a positive number or -1", where=where)
        if name in named:
            raise UserError(f"axis {name} is given twice", where=where)
        named.add(name)
        sizes[name] = int(size)
    open_axes = [name for name, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(open_axes) > 1:
        raise UserError(f"{' and '.join(open_axes)} are both -1", where=where, fix="Leave one axis open at most.")
    if devices % fixed:
        divisors = ", ".join(str(n) for n in range(1, devices + 1) if devices % n == 0)
        raise UserError(
            f"{fixed} does not divide {devices} devices", where=where, fix=f"Use {divisors}, or --mesh auto."
        )
    if open_axes:
        sizes[open_axes[0]] = devices // fixed
    return sizes


def make_mesh(sizes: dict[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over the first `prod(sizes)` devices."""
    count = math.prod(sizes.values())
    chosen = list(jax.devices() if devices is None else devices)[:count]
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes), devices=chosen)


def spec(
    axes: Sequence[str | None],
    shape: Sequence[int],
    sizes: dict[str, int],
    rules: Rules,
    where: str,
    allow_replication: Sequence[str] = (),
) -> PartitionSpec:
    """The partition of one array. Raises `UserError` where two dimensions claim one mesh axis, or where a dimension
    does not divide and `allow_replication` does not name its logical axis.
    """
    if len(axes) != len(shape):
        raise UserError(f"{len(axes)} logical axes {tuple(axes)} for shape {tuple(shape)}", where=where)
    entries: list[MeshAxes | None] = []
    used: dict[str, str] = {}
    for logical, size in zip(axes, shape, strict=True):
        mesh_axes = tuple(name for name in rules.of(logical) if sizes[name] > 1)
        ways = math.prod(sizes[name] for name in mesh_axes)
        if size % ways:
            if logical not in allow_replication:
                raise UserError(
                    f"dimension {logical} of size {size} does not divide over {_show(mesh_axes, sizes)}",
                    where=where,
                    fix=f"Change the mesh or the size, or pass --allow-replication {logical}.",
                )
            mesh_axes = ()
        for name in mesh_axes:
            if name in used:
                raise UserError(f"dimensions {used[name]} and {logical} both claim the mesh axis {name}", where=where)
            used[name] = str(logical)
        entries.append(mesh_axes or None)
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*(e[0] if e and len(e) == 1 else e for e in entries))


def _show(mesh_axes: MeshAxes, sizes: dict[str, int]) -> str:
    return " x ".join(f"{name}={sizes[name]}" for name in mesh_axes)


@dataclasses.dataclass(frozen=True)
class Part:
    """The rows at `places` (int64[n], ascending) of a batch of `count`. Processes may share rows, where they hold other
    parts of the model.
    """

    places: np.ndarray
    count: int

    @property
    def shares(self) -> int:
        """How many such parts make the batch: a mesh cuts rows evenly."""
        return self.count // len(self.places)


@dataclasses.dataclass(frozen=True)
class Placement:
    """A mesh and the rules that map logical axes onto it."""

    mesh: Mesh | AbstractMesh
    rules: Rules = Rules()
    allow_replication: tuple[str, ...] = ()

    def sharding(self, axes: Sequence[str | None], shape: Sequence[int], where: str) -> NamedSharding:
        sizes = dict(self.mesh.shape)
        return NamedSharding(self.mesh, spec(axes, shape, sizes, self.rules, where, self.allow_replication))

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batch_ways(self) -> int:
        """Into how many parts the rows of a batch are cut."""
        return math.prod(self.mesh.shape[name] for name in self.rules.batch)

    def batch(self, array: Any, name: str) -> NamedSharding:
        """Rows over `batch`, the second axis of token arrays over `length`."""
        axes = ("batch", "length")[: array.ndim] + (None,) * (array.ndim - 2)
        return self.sharding(axes, array.shape, f"batch[{name!r}]")

    def part(self, count: int) -> Part | None:
        """The rows of a batch of `count` that this process's devices hold; None where it holds all devices."""
        rows = self.sharding(("batch",), (count,), "batch")
        if rows.is_fully_addressable:
            return None
        held = [np.arange(count)[index] for index in rows.addressable_devices_indices_map((count,)).values()]
        return Part(np.unique(np.concatenate(held)), count)

    def parameters(self, leaves: Any) -> Any:
        return jax.tree.map(lambda leaf: self.sharding(leaf.axes, leaf.shape, leaf.name), leaves, is_leaf=is_leaf)

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """While tracing inside, `constrain` knows where arrays should live."""
        token = _PLACEMENT.set(self)
        try:
            yield
        finally:
            _PLACEMENT.reset(token)


_PLACEMENT: contextvars.ContextVar[Placement | None] = contextvars.ContextVar("placement", default=None)


def constrain(x: jax.Array, *logical: str | None) -> jax.Array:
    """Pins an activation to its logical axes. Without a placement in scope (a notebook, a test) it does nothing."""
    placement = _PLACEMENT.get()
    if placement is None:
        return x
    return jax.lax.with_sharding_constraint(x, placement.sharding(logical, x.shape, f"activation {logical}"))


def is_sharded(logical: str) -> bool:
    """Whether the placement in scope cuts this logical axis at all."""
    placement = _PLACEMENT.get()
    return placement is not None and any(placement.mesh.shape[name] > 1 for name in placement.rules.of(logical))


def gathered(tree: Any, placement: Placement) -> Any:
    """The same arrays, whole on a device of this process. With one process they are whole already."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(lambda x: x.addressable_data(0), _whole(placement.replicated)(tree))


@functools.lru_cache
def _whole(sharding: NamedSharding) -> Any:
    return jax.jit(lambda x: x, out_shardings=sharding)


def like_parameters(tree: Any, leaves: Any, placement: Placement) -> Any:
    """Shardings of a tree that follows the parameters: optimizer statistics, averages.

    A leaf belongs to the parameter whose path ends its own. Equal shapes get the parameter's sharding; a statistic with
    one axis less (Adafactor's rows and columns) gets it without that axis; anything else (counts) is replicated.
    """
    table = {_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(leaves, is_leaf=is_leaf)}

    def of(path: Any, x: Any) -> NamedSharding:
        keys = _path(path)
        leaf = next((table[keys[i:]] for i in range(len(keys)) if keys[i:] in table), None)
        axes = None if leaf is None else _axes_like(leaf, x.shape)
        return placement.replicated if axes is None else placement.sharding(axes, x.shape, ".".join(keys))

    return jax.tree_util.tree_map_with_path(of, tree)


def _axes_like(leaf: Leaf, shape: tuple[int, ...]) -> tuple[str | None, ...] | None:
    if shape == leaf.shape:
        return leaf.axes
    for gone in reversed(range(len(leaf.shape))):  # of a square matrix either axis will do: both are a placement
        if shape == leaf.shape[:gone] + leaf.shape[gone + 1 :]:
            return leaf.axes[:gone] + leaf.axes[gone + 1 :]
    return None


def _path(path: Any) -> tuple[str, ...]:
    return tuple(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def state_shardings(state: Any, leaves: Any, placement: Placement) -> Any:
    """Shardings of a whole `core.state.State` (or of its shapes)."""
    everything = jax.tree.map(lambda _: placement.replicated, state)
    return dataclasses.replace(
        everything,
        params=placement.parameters(leaves),
        opt_state=like_parameters(state.opt_state, leaves, placement),
        ema=None if state.ema is None else placement.parameters(leaves),
    )


@dataclasses.dataclass(frozen=True)
class Explained:
    """One line of `explain`: how one parameter is placed."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    axes: tuple[str | None, ...]
    spec: PartitionSpec
    bytes: int
    bytes_per_device: int


def explain(
    leaves: Any, sizes: dict[str, int], rules: Rules = Rules(), allow_replication: Sequence[str] = ()
) -> list[Explained]:
    """How every parameter is placed on a mesh of these sizes. Arithmetic only: no device is needed."""
    rows = []
    for leaf in jax.tree.leaves(leaves, is_leaf=is_leaf):
        partition = spec(leaf.axes, leaf.shape, sizes, rules, leaf.name, allow_replication)
        ways = math.prod(
            sizes[a] for entry in partition if entry for a in ((entry,) if isinstance(entry, str) else entry)
        )
        dtype = np.dtype(leaf.dtype).name
        rows.append(Explained(leaf.name, leaf.shape, dtype, leaf.axes, partition, leaf.bytes, leaf.bytes // ways))
    return rows
