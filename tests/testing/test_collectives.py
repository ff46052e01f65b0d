"""What is counted in a compiled program: by arithmetic on small real ones, and on lines as GPUs and TPUs write them."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lepjax.testing import Budget, Collective, assert_collective_budget, collectives

MESH = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:8])


def on(*spec):
    return NamedSharding(MESH, PartitionSpec(*spec))


def compiled(function, *arguments, out=None):
    return jax.jit(function, out_shardings=out).lower(*arguments).compile()


def array(shape, *spec):
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=on(*spec))


def test_a_contraction_over_a_cut_axis_is_one_reduction_of_the_result():
    program = compiled(jnp.matmul, array((8, 64), None, "tensor"), array((64, 16), "tensor"), out=on())
    assert collectives(program, MESH) == (Collective("all-reduce", ("tensor",), 1, 8 * 16 * 4),)


def test_gathering_leaves_the_whole_on_each_device():
    program = compiled(lambda x: x * 2, array((32, 6), "data"), out=on())
    assert collectives(program, MESH) == (Collective("all-gather", ("data",), 1, 32 * 6 * 4),)


@pytest.mark.parametrize("turns", [1, 5])
def test_a_loop_counts_each_turn(turns):
    def repeated(x, w):
        def body(x, _):
            y = jax.lax.with_sharding_constraint(x @ w, on())
            return jax.lax.with_sharding_constraint(jnp.tanh(y), on(None, "tensor")), None

        return jax.lax.scan(body, x, None, length=turns)[0]

    program = compiled(repeated, array((8, 64), None, "tensor"), array((64, 64), "tensor"), out=on())
    (reduced,) = (c for c in collectives(program, MESH) if c.kind == "all-reduce")
    assert reduced == Collective("all-reduce", ("tensor",), turns, turns * 8 * 64 * 4)


def test_nothing_is_told_on_one_device():
    program = compiled(lambda x: x @ x.T, jax.ShapeDtypeStruct((4, 4), jnp.float32))
    assert collectives(program, MESH) == ()


class Text:
    """A program as other backends write it."""

    def __init__(self, *lines):
        self.lines = lines

    def as_text(self):
        return "\n".join(["ENTRY %main (p: f32[8]) -> f32[8] {", *self.lines, "}"])


LINES = {
    "a started gather holds its operand first": (
        "%a = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) all-gather-start(%x), replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}",
        Collective("all-gather", ("data",), 1, 16 * 8 * 2),
    ),
    "a started reduction does not": (
        "%a = (f32[8]{0}, f32[2,3]{1,0}) all-reduce-start(%x, %y), replica_groups=[4,2]<=[8], to_apply=%add",
        Collective("all-reduce", ("tensor",), 1, (8 + 6) * 4),
    ),
    "a reduce-scatter takes what it is given": (
        "%a = f32[2,8]{1,0} reduce-scatter(%x), replica_groups={{0,2,4,6},{1,3,5,7}}, dimensions={0}, to_apply=%add",
        Collective("reduce-scatter", ("data",), 1, 4 * 16 * 4),
    ),
    "a permutation goes along the axes of any pair": (
        "%a = s8[16]{0} collective-permute(%x), source_target_pairs={{0,0},{1,2}}",
        Collective("collective-permute", ("data", "tensor"), 1, 16),
    ),
    "over all devices": (
        "%a = pred[] all-reduce(%x), replica_groups=[1,8]<=[8], to_apply=%or",
        Collective("all-reduce", ("data", "tensor"), 1, 1),
    ),
}


@pytest.mark.parametrize("case", LINES)
def test_lines_of_other_backends(case):
    line, expected = LINES[case]
    assert collectives(Text(line), MESH) == (expected,)


def test_what_is_done_is_not_counted_again():
    assert collectives(Text("%a = bf16[16,8]{1,0} all-gather-done(%x)"), MESH) == ()


def test_a_budget_names_what_is_over():
    found = (Collective("all-reduce", ("data",), 3, 3000), Collective("all-gather", ("tensor",), 1, 64))
    assert_collective_budget(found, {"all-reduce": Budget(3, 3000), "all-gather": Budget(1)})
    with pytest.raises(AssertionError, match="all-reduce: 3 of 3,000 bytes along data, allowed 3 of 2,999"):
        assert_collective_budget(found, {"all-reduce": Budget(3, 2999), "all-gather": Budget(1)})
    with pytest.raises(AssertionError, match="all-gather: 1 of 64 bytes along tensor, allowed 0"):
        assert_collective_budget(found, {"all-reduce": Budget(3)})
