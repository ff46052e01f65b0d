"""A real small Llama (Karpathy's stories260K): the logits and the story of the golden file, from both layouts."""

import jax
import numpy as np
import pytest

from lepjax.core import parameters
from lepjax.models import weights
from lepjax.models.generation import Generator, Sampling
from lepjax.models.pretrained import Tensors
from tests.folders import loaded


@pytest.fixture(scope="module")
def stories(test_data):
    folder = test_data / "weights" / "stories260k"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


@pytest.fixture(scope="module")
def golden(stories):
    return np.load(stories / "golden.npz")


@pytest.fixture(scope="module", params=["meta", "hugging face"])
def folder(request, stories, tmp_path_factory):
    if request.param == "meta":
        return stories
    made = tmp_path_factory.mktemp("hf")
    for name in ("config.json", "model.safetensors"):
        (made / name).symlink_to(stories.resolve() / f"hf_{name}")
    return made


def error(model, params, golden):
    logits, _ = jax.jit(model.apply)(params, {}, golden["input_ids"])
    return np.abs(np.asarray(logits)[0] - golden["logits"]).max()


@pytest.mark.parametrize("options", [{}, {"scan": False}, {"remat": "full"}])
def test_logits(folder, golden, options):
    _, model, params = loaded(folder, **options)
    assert parameters.count(model.leaves) == 260_032
    assert error(model, params, golden) < 1e-4


def test_sabotage_pairs_side_by_side_are_not_halves(stories, golden, monkeypatch):
    monkeypatch.setattr("lepjax.models.llama_family.side_by_side", lambda size: weights.TURNED)
    _, model, params = loaded(stories)
    assert error(model, params, golden) > 0.1


def test_greedy_story(folder, golden):
    _, model, params = loaded(folder)
    story = golden["greedy"]
    told = Generator(model, 128)(params, story[:, :1], story.shape[1] - 1, Sampling(temperature=0.0))
    np.testing.assert_array_equal(told, story)


def test_what_is_written_is_what_was_read(folder):
    recipe, model, params = loaded(folder)
    written = weights.write(params, model.leaves, recipe.arch.naming)
    tensors = Tensors.of(folder)
    assert written.keys() == tensors.files.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(array, tensors.read(name), err_msg=name)
