"""A checkpoint is what was saved, or it is refused: on any mesh, with any fault, strictly."""

import contextlib
import dataclasses
import errno
import json
import os
import resource
import shutil

import jax
import numpy as np
import pytest
from etils import epath
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lepjax.core.errors import UserError
from lepjax.experiment import build
from lepjax.run import checkpoint, disk, manifest
from lepjax.run.checkpoint import Checkpoints
from lepjax.run.manifest import Damaged
from lepjax.run.named import flatten, unflatten
from tests.damage import flip_a_bit
from tests.tiny import tiny

META = {"plan": "p", "memory": {}, "results": {}}
HALF = tiny(precision="float16", ema=0.5, mesh="fsdp=4,tensor=2")


def skipping(state, steps):
    """The state after so many steps that were all skipped."""
    return dataclasses.replace(state, step=state.step + steps, skipped=state.skipped + steps)


def quiet(path, **settings):
    return Checkpoints(path, say=lambda line: None, **settings)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(built, state, folder) with steps 0 and 5."""
    built = build(HALF)
    state = built.init()
    checkpoints = quiet(tmp_path_factory.mktemp("run") / "checkpoints")
    checkpoints.save(0, state, META)
    checkpoints.save(5, skipping(state, 5), META)
    checkpoints.close()
    return built, state, checkpoints.path


@pytest.fixture
def saved(written, tmp_path):
    """(built, state, checkpoints) of a copy that may be damaged."""
    built, state, path = written
    shutil.copytree(path, tmp_path / "checkpoints")
    checkpoints = quiet(tmp_path / "checkpoints")
    yield built, state, checkpoints
    checkpoints.close()


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype
        np.testing.assert_array_equal(np.asarray(ours[name]), np.asarray(theirs[name]), err_msg=name)


def test_every_field_survives_on_any_mesh(saved):
    built, state, checkpoints = saved
    other = build(dataclasses.replace(HALF, mesh="data=2,tensor=4"))
    for target in (built, other):
        restored, _ = checkpoints.restore(0, target.abstract)
        assert_equal(flatten(restored), flatten(state))
        assert restored.params["wte"]["embedding"].sharding == target.abstract.params["wte"]["embedding"].sharding
        assert jax.random.key_impl(restored.key) == jax.random.key_impl(state.key)


def test_leaves_are_restored_without_their_experiment(saved):
    _, state, checkpoints = saved
    assert_equal(checkpoints.restore_named(0), flatten(state))


# ---- damage ----


def test_a_flipped_bit_is_found_and_the_older_step_used(saved):
    built, _, checkpoints = saved
    flip_a_bit(checkpoints.path / "5")
    with pytest.raises(Damaged, match=r"checkpoint 5 of .*damaged \(params/.*: digest \w+\.\. expected \w+\.\.\)"):
        checkpoints.restore(5, built.abstract)
    said = []
    checkpoints.say = said.append
    assert checkpoints.newest_good() == 0
    assert "checkpoint 5" in said[0] and (checkpoints.path / "5.damaged").is_dir()


def test_sabotage_without_digests_orbax_restores_the_flipped_bit(saved, monkeypatch):
    """Where files are not checked the leaves are; where neither is, Orbax says nothing."""
    built, state, checkpoints = saved
    flip_a_bit(checkpoints.path / "5")
    monkeypatch.setattr(checkpoints, "damage", lambda step: None)
    with pytest.raises(Damaged, match=r"checkpoint 5 of .*leaf (params|ema)\..* differs \(digest \w+, expected \w+\)"):
        checkpoints.restore(5, built.abstract)
    monkeypatch.setattr(checkpoint, "check_digests", lambda expected, flat, where: None)
    restored, theirs = flatten(checkpoints.restore(5, built.abstract)[0]), flatten(state)
    changed = [name for name in theirs if not np.array_equal(np.asarray(restored[name]), np.asarray(theirs[name]))]
    assert set(changed) - {"step", "skipped"}


@pytest.mark.parametrize("gone", ["manifest.json", "meta.json", "rest"])
def test_an_uncommitted_or_cut_step_is_not_used(saved, gone):
    _, _, checkpoints = saved
    path = checkpoints.path / "5" / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert checkpoints.newest_good() == 0


def test_every_byte_of_a_manifest_is_guarded(written, tmp_path):
    """A bit that flips in it changes nothing that is read, or makes the step a damaged one; never an error of ours."""
    _, _, path = written
    (tmp_path / "5").mkdir()
    data = (path / "5" / manifest.NAME).read_bytes()
    expected = manifest.read(path / "5")
    for at in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[at] ^= 1 << (at % 8)
        (tmp_path / "5" / manifest.NAME).write_bytes(flipped)
        with contextlib.suppress(Damaged):
            assert manifest.read(tmp_path / "5") == expected


def test_a_later_format_is_refused_and_not_set_aside(saved):
    built, _, checkpoints = saved
    file = checkpoints.path / "5" / manifest.NAME
    told = json.loads(file.read_text())
    told.pop("sha256")
    told["format"] = manifest.FORMAT + 1
    file.write_text(json.dumps({**told, "sha256": manifest.own_digest(told)}))
    with pytest.raises(UserError, match="format 2, this lepjax reads 1") as caught:
        checkpoints.newest_good()
    assert not isinstance(caught.value, Damaged) and file.exists()


def test_debris_of_a_killed_save_is_replaced(saved):
    built, state, checkpoints = saved
    (checkpoints.path / "7").mkdir()
    (checkpoints.path / "7" / "half").write_text("debris")
    (checkpoints.path / "9.orbax-checkpoint-tmp-3").mkdir()
    assert checkpoints.steps() == [0, 5]
    checkpoints.save(7, skipping(state, 7), META)
    checkpoints.wait()
    assert checkpoints.restore(7, built.abstract)[1]["step"] == 7
    assert sorted(p.name for p in checkpoints.path.iterdir()) == ["5", "7"]


# ---- strictness ----


def edits(names):
    """Edits of a template: a leaf is left out, added, renamed, of another shape or another dtype."""
    kinds = ("missing", "extra", "renamed", "wider", "another rank", "another dtype")
    return st.tuples(st.sampled_from(names), st.sampled_from(kinds), st.integers(0, 2**16))


def edited(flat, name, kind, number):
    flat = dict(flat)
    leaf = flat[name]
    if kind in ("missing", "renamed"):
        del flat[name]
    if kind in ("extra", "renamed"):
        flat[f"{name}.{number}"] = leaf
    shape, dtype = leaf.shape, leaf.dtype
    if kind == "wider":
        axis = number % max(len(shape), 1)
        shape = (*shape[:axis], shape[axis] * 2 + 1, *shape[axis + 1 :]) if shape else (2,)
    if kind == "another rank":
        shape = (1, *shape)
    if kind == "another dtype":
        dtype = [d for d in (np.float16, np.float32, np.int32, np.uint32) if d != dtype][number % 3]
    if kind in ("wider", "another rank", "another dtype"):
        flat[name] = jax.ShapeDtypeStruct(shape, dtype)
    return flat


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_edit_of_the_template_is_refused_by_name(written, data):
    built, _, path = written
    abstract = flatten(built.abstract)
    name, kind, number = data.draw(edits(sorted(abstract)))
    checkpoints = quiet(path)
    try:
        with pytest.raises(UserError, match=rf"checkpoint 5 of .*leaf {name.split('.')[0]}") as caught:
            checkpoints._restore(5, edited(abstract, name, kind, number), ("params", "rest"))
        assert name in str(caught.value) and not isinstance(caught.value, Damaged)
    finally:
        checkpoints.close()


def test_sabotage_the_template_itself_is_not_refused(written):
    built, state, path = written
    checkpoints = quiet(path)
    flat = checkpoints._restore(5, flatten(built.abstract), ("params", "rest"))
    checkpoints.close()
    assert_equal(flatten(unflatten(built.abstract, flat)), flatten(skipping(state, 5)))


def test_an_optimizer_that_counted_other_steps_is_refused(saved):
    built, state, checkpoints = saved
    checkpoints.save(6, dataclasses.replace(state, step=state.step + 6), META)
    checkpoints.wait()
    with pytest.raises(Damaged, match=r"leaf opt_state\..*count is 0, but 6 updates were made"):
        checkpoints.restore(6, built.abstract)


# ---- what cannot or must not be written ----


def test_a_state_that_is_not_finite_is_not_saved(saved, monkeypatch):
    """And not restored, had it been saved."""
    built, state, checkpoints = saved
    bad = jax.tree.map(lambda x: x.at[0].set(np.inf), state.params["wte"])
    broken = dataclasses.replace(state, params={**state.params, "wte": bad})
    checkpoints.save(6, broken, META)
    with pytest.raises(UserError, match=r"not saved: leaf params\.wte\.embedding has 64 elements that are not finite"):
        checkpoints.wait()
    assert checkpoints.steps() == [0, 5] and not (checkpoints.path / "6").exists()
    monkeypatch.setattr(checkpoint, "check_finite", lambda taken, where: None)
    checkpoints.save(6, broken, META)
    checkpoints.wait()
    with pytest.raises(Damaged, match=r"leaf params\.wte\.embedding has 64 elements that are not finite"):
        checkpoints.restore(6, built.abstract)


@contextlib.contextmanager
def full_disk():
    """No file may grow beyond 64 KiB, as on a full disk. No fixture: pytest's own output may be a file."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_full_disk_is_one_line_and_costs_nothing_older(saved):
    built, state, checkpoints = saved
    cannot = pytest.raises(UserError, match=r"checkpoints: cannot be written \(.*needed, .* free\)")
    with full_disk(), cannot as caught:
        checkpoints.save(6, skipping(state, 6), META)
        checkpoints.wait()
    assert len(str(caught.value)) <= 300 and "\n" not in str(caught.value)
    assert sorted(p.name for p in checkpoints.path.iterdir()) == ["0", "5"]
    assert checkpoints.restore(5, built.abstract)[1]["step"] == 5


def test_a_run_may_go_on_without_a_checkpoint_and_saves_when_there_is_space(saved):
    built, state, checkpoints = saved
    said, checkpoints.must = [], False
    checkpoints.say = said.append
    with full_disk():
        checkpoints.save(6, skipping(state, 6), META)
        checkpoints.wait()
    assert len(said) == 1 and "Going on without this checkpoint" in said[0]
    checkpoints.save(7, skipping(state, 7), META)
    checkpoints.wait()
    assert checkpoints.steps() == [5, 7]


@pytest.fixture
def full_for_metadata(monkeypatch):
    """Orbax writes its small files with this, in a thread of its own."""

    def refused(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(type(epath.Path("/")), "write_text", refused)
        yield patched


def test_a_save_that_fails_twice_is_told_once(saved, full_for_metadata):
    """Orbax keeps the second error for whoever waits next, which was the end of the run: a traceback for the one line."""
    _, state, checkpoints = saved
    with full_disk(), pytest.raises(UserError, match=r"checkpoints: cannot be written \(.*needed, .* free\)"):
        checkpoints.save(6, skipping(state, 6), META)
        checkpoints.close()


def test_a_second_error_is_not_taken_for_that_of_the_next_save(saved, full_for_metadata):
    _, state, checkpoints = saved
    said, checkpoints.must = [], False
    checkpoints.say = said.append
    checkpoints.save(6, skipping(state, 6), META)
    checkpoints.wait()
    full_for_metadata.undo()
    checkpoints.save(7, skipping(state, 7), META)
    checkpoints.wait()
    assert len(said) == 1 and "the disk is full" in said[0]
    assert checkpoints.steps() == [5, 7]


def test_no_room_is_told_before_the_first_step(saved, monkeypatch):
    built, _, checkpoints = saved
    monkeypatch.setattr(disk, "free_bytes", lambda path: 10**6)
    with pytest.raises(UserError, match=r"checkpoints need .* MB, 1\.0 MB are free"):
        checkpoints.prepare(built.abstract, best=True)
    monkeypatch.undo()
    checkpoints.prepare(built.abstract, best=True)
