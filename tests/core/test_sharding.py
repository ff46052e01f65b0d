"""Placement: meshes from text, specs that raise instead of replicating, and bytes that are the real ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from lepjax.core import sharding
from lepjax.core.errors import UserError
from lepjax.core.optimizers import Adafactor, AdamW, Muon
from lepjax.core.parameters import Leaf
from lepjax.core.sharding import (
    AXES,
    Placement,
    Rules,
    constrain,
    explain,
    like_parameters,
    make_mesh,
    parse_mesh,
    spec,
)

CUBE = parse_mesh("data=2,fsdp=2,tensor=2", 8)


def leaf(name, shape, *axes):
    return Leaf(name, shape, np.dtype("float32"), axes)


LEAVES = {
    "wte": {"embedding": leaf("wte.embedding", (10, 8), "vocab", "embed")},
    "h": {
        "kernel": leaf("h.*.kernel", (3, 8, 16), "layers", "embed", "mlp"),
        "bias": leaf("h.*.bias", (3, 16), "layers", "mlp"),
    },
    "ln_f": {"scale": leaf("ln_f.scale", (8,), "embed")},
    "wpe": {"embedding": leaf("wpe.embedding", (7, 3), "position", None)},
}
SPECS = {
    "wte": {"embedding": P("tensor", "fsdp")},
    "h": {"kernel": P(None, "fsdp", "tensor"), "bias": P(None, "tensor")},
    "ln_f": {"scale": P("fsdp")},
    "wpe": {"embedding": P()},
}


def zeros():
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), LEAVES, is_leaf=lambda x: isinstance(x, Leaf))


@pytest.fixture(scope="module")
def placement():
    return Placement(make_mesh(CUBE))


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("auto", {"data": 8}),
        ("data=2,fsdp=-1,tensor=2", {"data": 2, "fsdp": 2, "tensor": 2}),
        (" tensor = 8 ", {"tensor": 8}),
        ("fsdp=-1", {"fsdp": 8}),
        ("sequence=2,expert=2,stage=2", {"sequence": 2, "expert": 2, "stage": 2}),
    ],
)
def test_a_mesh_has_all_six_axes(text, sizes):
    assert parse_mesh(text, 8) == {**dict.fromkeys(AXES, 1), **sizes}


def test_a_mesh_may_use_fewer_devices_than_there_are():
    mesh = make_mesh(parse_mesh("data=2,tensor=2", 8))
    assert list(mesh.devices.flat) == jax.devices()[:4]
    assert dict(mesh.shape) == {**dict.fromkeys(AXES, 1), "data": 2, "tensor": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tensr=2", "no mesh axis 'tensr'. Did you mean tensor?"),
        ("data=3", "3 does not divide 8 devices. Use 1, 2, 4, 8"),
        ("data=16", "16 does not divide 8 devices"),
        ("data=-1,tensor=3", "3 does not divide 8 devices"),
        ("data=-1,fsdp=-1", "data and fsdp are both -1"),
        ("data=0", "'0' of axis data is not a positive number"),
        ("data=-2", "'-2' of axis data is not a positive number"),
        ("data=two", "'two' of axis data is not a positive number"),
        ("data", "'' of axis data is not a positive number"),
        ("data=2,data=4", "axis data is given twice"),
    ],
)
def test_a_bad_mesh_is_a_user_error_that_names_it(text, message):
    with pytest.raises(UserError) as caught:
        parse_mesh(text, 8)
    assert str(caught.value).startswith(f"mesh {text}: ") and message in str(caught.value)


@pytest.mark.parametrize("text", ["data=--2", "data=²"])
def test_a_size_that_int_cannot_read_is_a_user_error(text):
    with pytest.raises(UserError):
        parse_mesh(text, 8)


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        (("embed", "mlp"), (8, 16), P("fsdp", "tensor")),
        (("batch", "length", None), (8, 5, 3), P(("data", "fsdp"))),
        ((None, "mlp"), (3, 16), P(None, "tensor")),
        (("position",), (7,), P()),
    ],
)
def test_spec_maps_logical_axes_and_ignores_mesh_axes_of_size_one(axes, shape, expected):
    assert spec(axes, shape, CUBE, Rules(), "x") == expected


def test_two_dimensions_on_one_mesh_axis_raise():
    with pytest.raises(UserError, match="h.kernel: dimensions mlp and heads both claim the mesh axis tensor"):
        spec(("mlp", "heads"), (16, 16), CUBE, Rules(), "h.kernel")


def test_an_indivisible_dimension_raises_unless_it_may_be_replicated():
    with pytest.raises(UserError, match="h.kernel: dimension mlp of size 15 .* tensor=2.*--allow-replication mlp"):
        spec(("embed", "mlp"), (8, 15), CUBE, Rules(), "h.kernel")
    with pytest.raises(UserError, match="dimension mlp of size 15"):
        spec(("embed", "mlp"), (8, 15), CUBE, Rules(), "h.kernel", ("embed",))
    assert spec(("embed", "mlp"), (8, 15), CUBE, Rules(), "h.kernel", ("mlp",)) == P("fsdp")
    assert spec(("embed", "mlp"), (8, 16), CUBE, Rules(), "h.kernel", ("mlp",)) == P("fsdp", "tensor")


def test_an_unknown_logical_axis_raises_with_the_nearest_name():
    with pytest.raises(UserError, match="no sharding rule for the logical axis 'hheads'. Did you mean heads?"):
        spec(("hheads",), (8,), CUBE, Rules(), "x")


def test_axes_that_do_not_fit_the_rank_raise():
    with pytest.raises(UserError, match=r"h.kernel: 1 logical axes \('embed',\) for shape \(8, 16\)"):
        spec(("embed",), (8, 16), CUBE, Rules(), "h.kernel")


def sizes_on_devices(arrays):
    return [(x.nbytes, {shard.data.nbytes for shard in x.addressable_shards}) for x in jax.tree.leaves(arrays)]


def test_explained_bytes_are_those_on_the_devices(placement):
    arrays = jax.device_put(zeros(), placement.parameters(LEAVES))
    rows = explain(LEAVES, CUBE)
    assert [(row.bytes, {row.bytes_per_device}) for row in rows] == sizes_on_devices(arrays)
    assert [row.spec for row in rows] == [x.sharding.spec for x in jax.tree.leaves(arrays)]
    elsewhere = explain(LEAVES, parse_mesh("auto", 8))
    assert [(row.bytes, {row.bytes_per_device}) for row in elsewhere] != sizes_on_devices(arrays)


def test_explained_bytes_count_what_was_allowed_to_replicate():
    leaves = {"kernel": leaf("kernel", (8, 15), "embed", "mlp")}
    placement = Placement(make_mesh(CUBE), allow_replication=("mlp",))
    arrays = jax.device_put({"kernel": np.zeros((8, 15), np.float32)}, placement.parameters(leaves))
    rows = explain(leaves, CUBE, allow_replication=("mlp",))
    assert [(row.bytes, {row.bytes_per_device}) for row in rows] == sizes_on_devices(arrays) == [(480, {240})]


def test_constrain_without_a_scope_is_nothing(placement):
    x = jnp.zeros((8, 4))
    assert constrain(x, "batch", "no such axis") is x
    with pytest.raises(ZeroDivisionError), placement.scope():
        raise ZeroDivisionError
    assert constrain(x, "batch", "no such axis") is x


def test_constrain_pins_inside_a_scope(placement):
    @jax.jit
    def pinned(x):
        return constrain(x * 2.0, "batch", "mlp")

    with placement.scope():
        assert pinned(jnp.zeros((8, 4))).sharding.spec == P(("data", "fsdp"), "tensor")
        assert sharding.is_sharded("mlp") and not sharding.is_sharded("position")
        with pytest.raises(UserError, match="activation .*dimension batch of size 6"):
            constrain(jnp.zeros((6, 4)), "batch", "mlp")
    assert not sharding.is_sharded("mlp")


def placed_state(recipe, placement):
    init = recipe.build(LEAVES)(recipe.hparams(10)).init
    state = jax.eval_shape(init, zeros())
    shardings = like_parameters(state, LEAVES, placement)
    return jax.jit(init, out_shardings=shardings)(zeros())


def specs(statistics):
    """Specs of a statistic shaped like (part of) the parameters, by path."""
    found = {}
    for _, tree in statistics:
        for path, x in jax.tree_util.tree_leaves_with_path(tree):
            found[tuple(key.key for key in path)] = (x.shape, x.sharding.spec)
    return found


def of_parameters(*paths):
    return {path: (LEAVES[path[0]][path[1]].shape, SPECS[path[0]][path[1]]) for path in paths}


ALL = [("wte", "embedding"), ("h", "kernel"), ("h", "bias"), ("ln_f", "scale"), ("wpe", "embedding")]


def test_adam_moments_follow_their_parameters(placement):
    state = placed_state(AdamW(), placement)
    for moment in ("mu", "nu"):
        assert specs(optax.tree.get_all_with_path(state, moment)) == of_parameters(*ALL)
    assert all(count.sharding.spec == P() for _, count in optax.tree.get_all_with_path(state, "count"))


def test_muon_momentum_follows_its_matrices(placement):
    state = placed_state(Muon(), placement)
    momenta = specs(optax.tree.get_all_with_path(state, "mu"))
    assert momenta == of_parameters(*ALL)
    second = specs(optax.tree.get_all_with_path(state, "nu"))
    assert second == of_parameters(*(path for path in ALL if path != ("h", "kernel")))


def test_adafactor_rows_and_columns_follow_without_the_reduced_axis(placement):
    state = placed_state(Adafactor(factor_from=4), placement)
    rows, columns, full = (specs(optax.tree.get_all_with_path(state, name)) for name in ("v_row", "v_col", "v"))
    assert rows["h", "kernel"] == ((3, 8), P(None, "fsdp"))
    assert columns["h", "kernel"] == ((3, 16), P(None, "tensor"))
    assert {rows["wte", "embedding"], columns["wte", "embedding"]} == {((8,), P("fsdp")), ((10,), P("tensor"))}
    assert full["h", "bias"] == ((3, 16), P(None, "tensor"))
    assert full["h", "kernel"] == ((3, 1), P()), "a placeholder of a factored statistic is replicated"


def test_statistics_that_belong_to_no_parameter_are_replicated(placement):
    state = {
        "elsewhere": {"kernel": jax.ShapeDtypeStruct((3, 8, 16), np.float32)},
        "count": jax.ShapeDtypeStruct((), np.int32),
    }
    assert {x.spec for x in jax.tree.leaves(like_parameters(state, LEAVES, placement))} == {P()}
    state = {"mu": {"h": state["elsewhere"]}}
    assert jax.tree.leaves(like_parameters(state, LEAVES, placement))[0].spec == P(None, "fsdp", "tensor")


@pytest.mark.parametrize("axes", ["fsdp", ("modle",)])
def test_rules_refuse_what_is_no_tuple_of_mesh_axes(axes):
    with pytest.raises(UserError, match=r"Rules\.embed: .* is no tuple of mesh axes"):
        Rules(embed=axes)
