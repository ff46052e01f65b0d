"""A search that begins at the recipe."""

from lepjax.tune import loguniform
from lepjax.tune.beginning import Beginning
from lepjax.tune.samplers.random import Random

SPACE = {"rate": loguniform(1e-5, 1e-2)}


def test_trial_0_is_the_recipe_and_the_others_are_the_samplers():
    sampler = Beginning((("rate", 1e-4),), Random())
    assert sampler.suggest(SPACE, (), 0, seed=3) == {"rate": 1e-4}
    assert sampler.suggest(SPACE, (), 1, seed=3) == Random().suggest(SPACE, (), 1, seed=3)
