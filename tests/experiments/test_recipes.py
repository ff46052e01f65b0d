"""Recipes for many devices: their whole steps are lowered for their own meshes here, and small siblings train."""

import dataclasses
import importlib
import json
import math
import subprocess
import sys

import jax
import pytest

from lepjax.cli import main as command
from lepjax.cli.explain import absent_mesh
from lepjax.core import parameters, sharding
from lepjax.core.errors import UserError
from lepjax.experiment import build
from lepjax.plan import lowered
from lepjax.run.compiled import batch_shapes
from tests.tiny import tiny

# devices, parameters, bytes of parameters and optimizer on each device
RECIPES = {
    "gpt2_124m": (8, 124_439_808, 187_337_140),
    "llama_8b": (32, 8_030_261_248, 3_011_348_100),
    "llama_70b": (256, 70_553_706_496, 3_307_638_084),
}
SCALARS = 1000  # bytes: the optimizer's counts


def recipe(name):
    return importlib.import_module(f"experiments.{name}").experiment()


def step_of(experiment, mesh):
    batch = lowered.token_batch(experiment.data.batch_size, experiment.data.length)
    return lowered.abstract_step(experiment, mesh, batch)


# ---- the real thing, lowered ----


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_is_lowered_for_its_mesh(name):
    devices, count, local = RECIPES[name]
    experiment = recipe(name)
    sizes = sharding.parse_mesh(experiment.mesh, devices)
    assert math.prod(sizes.values()) == devices
    step = step_of(experiment, lowered.absent(sizes))
    assert parameters.count(step.model.leaves) == count
    held = (step.state.params, step.state.opt_state)
    assert 0 <= lowered.total_bytes(held) - 3 * 4 * count < SCALARS, "float32, and two moments"
    assert lowered.bytes_per_device(held) == local
    assert lowered.sharded_share(step.state.params) >= 0.9
    assert lowered.sharded_share(step.state.opt_state) >= 0.9
    text = step.lower(("tpu",)).as_text()
    assert f"mhlo.num_partitions = {devices} " in text
    for axis, size in sizes.items():
        assert f'"{axis}"={size}' in text
        if size > 1:
            assert f'{{"{axis}"}}' in text, "some array is cut over this axis"


@pytest.mark.parametrize("mesh", ["data=2,fsdp=16", "data=4,fsdp=8", "fsdp=8,tensor=4", "data=2,fsdp=4,tensor=4"])
def test_other_meshes_for_llama_8b(mesh):
    """Everything but what the mesh repeats is cut: by shapes alone, nothing is lowered."""
    sizes = absent_mesh(mesh)
    step = step_of(recipe("llama_8b"), lowered.absent(sizes))
    held = (step.state.params, step.state.opt_state)
    cut = sizes["fsdp"] * sizes["tensor"]
    assert lowered.total_bytes(held) / cut <= lowered.bytes_per_device(held) < 1.01 * lowered.total_bytes(held) / cut


def test_sabotage_a_mesh_that_repeats_everything_is_noticed():
    step = step_of(recipe("llama_8b"), lowered.absent(absent_mesh("data=32")))
    assert lowered.sharded_share(step.state.params) == 0.0
    assert lowered.bytes_per_device(step.state.params) == 4 * 8_030_261_248


def test_a_mesh_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="does not divide over"):
        step_of(recipe("llama_8b"), lowered.absent(absent_mesh("fsdp=2,tensor=3")))
    with pytest.raises(UserError, match="batch size 512 does not divide over 1024 devices"):
        step_of(recipe("llama_8b"), lowered.absent(absent_mesh("fsdp=1024")))


def test_it_is_the_step_that_trains():
    """The abstract step has the arguments of `build`'s, and on the same devices its very program."""
    experiment = tiny(mesh="data=2,fsdp=2,tensor=2", ema=0.9, accumulate=2)
    built = build(experiment)
    shapes = batch_shapes(built.batches(1)[0], built.placement)
    ours = lowered.abstract_step(experiment, built.placement.mesh, shapes)
    assert ours.state == built.abstract
    assert ours.batch == shapes
    with built.placement.scope():
        out = (jax.tree.map(lambda x: x.sharding, built.abstract), built.placement.replicated)
        theirs = jax.jit(built.step, donate_argnums=0, out_shardings=out).lower(built.abstract, shapes)
    assert ours.lower().as_text() == theirs.as_text()
    other = dataclasses.replace(experiment, accumulate=1)
    assert lowered.abstract_step(other, built.placement.mesh, shapes).lower().as_text() != theirs.as_text()


COMPILE = """
import importlib, json, sys
import jax
name, devices = sys.argv[1], int(sys.argv[2])
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", devices)
from lepjax.core import sharding
from lepjax.plan import lowered
experiment = importlib.import_module(f"experiments.{name}").experiment()
mesh = sharding.make_mesh(sharding.parse_mesh(experiment.mesh, devices))
step = lowered.abstract_step(experiment, mesh, lowered.token_batch(experiment.data.batch_size, experiment.data.length))
compiled = step.lower().compile()
memory, text = compiled.memory_analysis(), compiled.as_text()
sizes = {key: getattr(memory, f"{key}_size_in_bytes") for key in ("argument", "alias", "temp")}
print(json.dumps({**sizes, **{kind: text.count(f" {kind}(") for kind in ("all-gather", "all-reduce")}}))
"""


@pytest.mark.full
@pytest.mark.parametrize("name", RECIPES)
def test_the_step_compiles_for_its_mesh(name):
    """On as many simulated devices. What stays in memory is what the arithmetic says, updated in place."""
    devices, _, local = RECIPES[name]
    done = subprocess.run([sys.executable, "-c", COMPILE, name, str(devices)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(name, found)
    assert local <= found["alias"] <= found["argument"] < 1.01 * local + 2**22
    assert found["all-gather"] and found["all-reduce"]  # weights come together, gradients are summed


# ---- small siblings, trained ----


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("library")
    for i in range(80):
        (folder / f"package{i}.py").write_text("".join(f"def function_{i}_{j}(x): return x + {j}\n" for j in range(6)))
    return folder


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["train_loss"] for line in lines if "train_loss" in line]


@pytest.fixture
def quick():
    """Programs that compile in half the time, and run more slowly."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def trained(folder, target, *arguments):
    short = ["--steps", "3", "--log-every", "1", "--checkpoint-every", "0", "--run-dir", str(folder)]
    assert command.run(["train", f"experiments/{target}", *map(str, arguments), *short]) == 0
    found = losses(folder)
    assert len(found) == 3 and all(map(math.isfinite, found))
    return found


MESHES = {"gpt2_124m": "data=1", "llama_8b": "data=1", "llama_70b": "fsdp=2,tensor=2"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_tiny_sibling_trains(name, library, tmp_path, quick):
    arguments = ["--data.folder", library, "--data.heldout", 0.3, "--mesh", MESHES[name]]
    found = trained(tmp_path, f"{name}.py:tiny", *arguments)
    assert abs(found[0] - math.log(256)) < 0.3 and found[-1] < found[0] - 0.1


@pytest.mark.parametrize("name", RECIPES)
def test_a_tiny_sibling_differs_in_sizes_only(name):
    module = importlib.import_module(f"experiments.{name}")
    real, small = module.experiment(), module.tiny()
    assert (small.precision, small.accumulate) == (real.precision, real.accumulate)
    assert type(small.model) is type(real.model) and small.model.remat == real.model.remat
    assert type(small.optimizer.schedule) is type(real.optimizer.schedule)


def test_a_llama_of_stories(tmp_path, monkeypatch, capsys, quick):
    """The tokenizer is trained, tokens are kept, the model is trained and writes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "stories").mkdir()
    for split, count in (("train", 400), ("valid", 40)):
        stories = (f"Once upon a time {i} foxes met {i % 7} dogs.\n<|endoftext|>\n" for i in range(count))
        (tmp_path / "stories" / f"Tiny-{split}.txt").write_text("".join(stories))
    sizes = {"layers": 1, "width": 32, "mlp-width": 32, "heads": 4, "kv-heads": 2, "context": 32}
    small = [word for name, size in sizes.items() for word in (f"--model.architecture.{name}", size)]
    small += ["--data.length", 32, "--data.batch-size", 8, "--mesh", "data=1", "--optimizer.schedule.warmup", 0]
    target = "llama_stories.py:tinystories"
    found = trained(tmp_path / "run", target, "--data-dir", tmp_path / "stories", *small)
    assert abs(found[0] - math.log(512)) < 0.3 and found[-1] < found[0]
    assert "Once upon a time" in capsys.readouterr().out
    assert command.run(["generate", str(tmp_path / "run"), "--prompt", "Once upon", "--tokens", "8"]) == 0
    assert capsys.readouterr().out.startswith("Once upon")
