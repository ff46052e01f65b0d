"""Loss spikes against a plain reference: which steps are skipped, and when a run goes back."""

import dataclasses
import functools
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

from lepjax.core import loss_scale
from lepjax.core.errors import UserError
from lepjax.core.spikes import Memory, NoGuard, Recent, RewindSpikes, SkipSpikes
from lepjax.core.state import as_leaves
from tests.core.test_step import ADAMW, compiled, loss, poisoned, poisons, random_batch, same_bits, start

LENGTH, WINDOW, WARMUP = 40, 8, 4
RULE = SkipSpikes(sigma=3.0, window=WINDOW, warmup=WARMUP)
usual = st.floats(1.0, 3.0, width=32)
value = st.one_of(usual, usual, usual, usual, st.floats(5.0, 1e6, width=32), st.sampled_from([math.nan, math.inf]))
script = st.lists(st.tuples(value, value), min_size=LENGTH, max_size=LENGTH)


def reference(steps, sigma, window, warmup):
    """`taken` and `spike` per (loss, gradient norm), in float64; None where rounding could decide."""
    losses, norms, verdicts = [], [], []
    for pair in steps:
        finite, spike = all(map(math.isfinite, pair)), False
        if finite and len(losses) >= warmup:
            for x, recent in zip(pair, (losses[-window:], norms[-window:]), strict=True):
                band = np.mean(recent) + sigma * np.std(recent, ddof=1)
                if abs(x - band) <= 1e-4 * band:
                    return None
                spike = spike or x > band
        verdicts.append((finite and not spike, spike))
        if finite and not spike:
            losses.append(pair[0])
            norms.append(pair[1])
    return verdicts


@functools.partial(jax.jit, static_argnums=0)
def scripted(judge, guard, steps, hparams):
    def one(guard, pair):
        taken, after, seen = judge(guard, jnp.isfinite(pair).all(), pair[0], pair[1], hparams)
        return after, (taken, after.spikes > guard.spikes, seen["spikes"])

    return jax.lax.scan(one, guard, steps)


def verdicts(steps, rule=RULE, judge=Recent.judge):
    guard, (taken, spike, count) = scripted(judge, rule.guard(), np.array(steps, np.float32), as_leaves(rule.hparams()))
    assert guard.spikes == count[-1] == spike.sum()
    return list(zip(taken.tolist(), spike.tolist(), strict=True))


@hypothesis.given(script)
def test_a_step_is_skipped_if_and_only_if_it_is_above_the_band_after_warmup(steps):
    expected = reference(steps, RULE.sigma, WINDOW, WARMUP)
    hypothesis.assume(expected is not None)
    assert verdicts(steps) == expected


def poison_of_olmo(guard, finite, loss, grad_norm, hparams):
    """All values go into the statistics, as OLMo-core's and MaxText's do: a NaN stays there for a whole window."""
    taken, after, seen = Recent.judge(guard, finite, loss, grad_norm, hparams)
    losses = guard.losses.at[guard.accepted % WINDOW].set(loss)
    return taken, dataclasses.replace(after, losses=losses, accepted=guard.accepted + 1), seen


def no_warmup(guard, finite, loss, grad_norm, hparams):
    return Recent.judge(guard, finite, loss, grad_norm, {**hparams, "spike_warmup": 0.0})


def loss_alone(guard, finite, loss, grad_norm, hparams):
    return Recent.judge(guard, finite, loss, jnp.float32(0.0), hparams)


NOISE = [(float(x), float(y)) for x, y in np.random.default_rng(0).uniform(1, 3, (LENGTH, 2)).astype(np.float32)]
CASES = {
    poison_of_olmo: [*NOISE[:10], (math.nan, 1.0), *NOISE[10:14], (1e3, 1.0), *NOISE[14:38]],
    no_warmup: NOISE,
    loss_alone: [*NOISE[:20], (2.0, 1e4), *NOISE[20:39]],
}


@pytest.mark.parametrize("broken", CASES)
def test_sabotage_a_guard_that_judges_otherwise_is_noticed(broken):
    expected = reference(CASES[broken], RULE.sigma, WINDOW, WARMUP)
    assert verdicts(CASES[broken]) == expected
    assert verdicts(CASES[broken], judge=broken) != expected


# ---- inside the step ----


def spiky():
    """Ordinary steps until the guard is warm, then one whose loss is a thousand times the usual."""
    batches = [random_batch(seed) for seed in range(6)]
    batches.append({**random_batch(6), "y": random_batch(6)["y"] * 30})
    return [{**batch, "poison": np.zeros(len(batch["weight"]), np.float32)} for batch in batches]


def run(rule, batches, scale=None):
    state = start(ADAMW, scale, ema=True, model_state={"mean": jnp.float32(0.25)}, **rule.hparams())
    state = dataclasses.replace(state, guard=rule.guard())
    states, step = [state], compiled(poisoned, ADAMW)
    for batch in batches:
        state, metrics = step(state, batch)
        states.append(state)
    return states, metrics


KEPT = ("params", "opt_state", "model_state", "ema", "hparams", "key")


def bits(state, name):
    return jax.random.key_data(state.key) if name == "key" else getattr(state, name)


def assert_kept(before, after):
    for name in KEPT:
        assert same_bits(bits(before, name), bits(after, name)), name
    assert after.step == before.step + 1 and after.cursor == before.cursor + 1 and after.skipped == before.skipped + 1


SMALL = SkipSpikes(sigma=4.0, window=6, warmup=4)


def test_a_spike_changes_nothing_but_the_counts():
    states, metrics = run(SMALL, spiky(), loss_scale.dynamic(8.0))
    before, after = states[-2:]
    assert np.isfinite(metrics["loss"]) and metrics["spikes"] == 1
    assert_kept(before, after)
    assert same_bits(before.loss_scale.scale, after.loss_scale.scale)
    assert (
        after.loss_scale.good_steps == before.loss_scale.good_steps + 1
    )  # it was finite: no reason to lower the scale
    assert same_bits(before.guard.losses, after.guard.losses) and after.guard.accepted == 6
    assert not same_bits(states[-3].params, before.params)


def test_sabotage_a_guard_that_is_asked_and_not_obeyed_is_noticed(monkeypatch):
    def deaf(self, finite, *rest):
        _, guard, seen = judge(self, finite, *rest)
        return finite, guard, seen

    judge = Recent.judge
    monkeypatch.setattr(Recent, "judge", deaf)
    monkeypatch.setattr("tests.core.test_spikes.compiled", compiled.__wrapped__)  # traced anew
    states, _ = run(SMALL, spiky())
    with pytest.raises(AssertionError, match="params"):
        assert_kept(*states[-2:])


def test_what_is_not_finite_is_no_spike_and_lowers_the_scale():
    states, metrics = run(SMALL, [*spiky()[:6], poisons()["loss"], spiky()[-1]], loss_scale.dynamic(8.0))
    assert (states[-2].skipped, states[-1].skipped, metrics["spikes"]) == (1, 2, 1)
    assert states[-2].loss_scale.scale == states[-1].loss_scale.scale == 4.0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(states[-1].guard))


def test_the_threshold_is_a_leaf():
    """Another sigma gives another verdict from the same program."""
    assert run(SMALL, spiky())[0][-1].skipped == 1
    programs = compiled(poisoned, ADAMW)._cache_size()
    assert run(dataclasses.replace(SMALL, sigma=1e6), spiky())[0][-1].skipped == 0
    assert compiled(poisoned, ADAMW)._cache_size() == programs


def test_without_a_guard_the_state_has_no_more_leaves_and_the_metrics_no_more_names():
    state = start(ADAMW)
    assert isinstance(state.guard, NoGuard) and not jax.tree.leaves(state.guard)
    finite = jnp.bool_(True)
    assert NoGuard().judge(finite, None, None, {}) == (finite, NoGuard(), {})
    assert "spikes" not in compiled(loss, ADAMW)(state, random_batch())[1]


def test_the_optimizer_counts_what_was_taken():
    states, _ = run(SMALL, [*spiky(), *spiky()[:2]])
    (_, count), *_ = optax.tree.get_all_with_path(states[-1].opt_state, "count")
    assert count + states[-1].skipped == states[-1].step == 9 and states[-1].skipped == 1


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"warmup": 1}, "warmup 1 of a window"),
        ({"warmup": 9, "window": 8}, "warmup 9 of a window of 8"),
        ({"sigma": math.nan}, "spikes.sigma"),
        ({"sigma": math.inf}, "spikes.sigma"),
    ],
)
@pytest.mark.parametrize("kind", [SkipSpikes, RewindSpikes])
def test_statistics_that_cannot_be_had_are_refused(kind, change, found):
    with pytest.raises(UserError, match=found):
        kind(**change)


# ---- the rule for going back ----

BACK = RewindSpikes(sigma=3.0, window=WINDOW, warmup=WARMUP, patience=3)


def remembered(losses, rule=BACK):
    memory = Memory()
    for step, x in enumerate(losses, 1):
        memory = rule.update(memory, step, x)
    return memory


@hypothesis.given(st.lists(value, min_size=1, max_size=LENGTH))
def test_the_row_is_the_number_of_logged_steps_above_the_band(losses):
    accepted, row, good = [], 0, 0
    for step, x in enumerate(losses, 1):
        recent = accepted[-WINDOW:]
        if len(accepted) < WARMUP:
            high = not math.isfinite(x)
        else:
            band = np.mean(recent) + BACK.sigma * np.std(recent, ddof=1)
            hypothesis.assume(not abs(x - band) <= 1e-9 * band)
            high = not x <= band
            row += high
        if not high:
            accepted, row, good = [*accepted, x], 0, step
    memory = remembered(losses)
    assert (memory.row, memory.good, memory.losses) == (row, good, tuple(accepted[-WINDOW:]))


def test_a_short_rise_is_borne_and_a_long_one_is_due():
    calm = [x for x, _ in NOISE[:10]]
    assert not BACK.due(remembered([*calm, 50.0, math.nan, 2.0]))
    assert BACK.due(remembered([*calm, 50.0, math.nan, 60.0]))
    assert remembered([*calm, 50.0, math.nan, 60.0]).good == 10
