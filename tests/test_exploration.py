"""Noise and random choices in training, and in training only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import KEY, MIXED, assert_trees_equal, quick_jit, random_timestep, tiny, tiny_config

from dreamer_jax.agent import make_agent
from dreamer_jax.behaviors.exploration import counts_records, epsilon, explore
from dreamer_jax.config.schema import ExploreConfig
from dreamer_jax.specs import ArraySpec, EnvSpec

SPEC = EnvSpec({}, {**MIXED.action, "arms": ArraySpec((2, 2), "float32"), "keys": ArraySpec((3, 2), "int32", 4)})
N, E = 20_000, 4
ROWS = np.arange(N)
MANY = {name: np.full((N, *leaf.shape), 3 if leaf.discrete else 0.5, leaf.dtype) for name, leaf in SPEC.action.items()}


def explored(action=MANY, rows=ROWS, records=None, **settings):
    function = jax.jit(lambda action, rows: explore(ExploreConfig(**settings), SPEC, KEY, rows, action, records))
    return {name: np.asarray(x) for name, x in function(action, rows).items()}


# --- noise


def test_noise_is_normal_and_clipped():
    found = explored(noise=0.3)
    for name in ("motors", "arms"):
        x = found[name].reshape(N, -1)
        assert x.dtype == np.float32 and found[name].shape == MANY[name].shape
        assert np.abs(x).max() == 1
        # P(0.5 + 0.3 n > 1) = 0.0478
        np.testing.assert_allclose((x == 1).mean(0), 0.0478, atol=0.006)
        np.testing.assert_allclose(np.median(x, 0), 0.5, atol=0.015)
        np.testing.assert_allclose(np.percentile(x, 15.87, axis=0), 0.2, atol=0.015)
    together = np.concatenate([found["motors"], found["arms"].reshape(N, 4)], 1)
    np.testing.assert_allclose(np.corrcoef(together, rowvar=False), np.eye(6), atol=0.03)
    for name in ("choice", "keys"):
        np.testing.assert_array_equal(found[name], MANY[name])


def test_without_noise_actions_are_not_clipped():
    """Samples of a normal policy lie outside of the bounds, and its losses want them so."""
    wide = {**MANY, "motors": np.full((N, 2), 1.7, np.float32)}
    assert_trees_equal(explored(wide), wide)
    assert (explored(wide, noise=0.01)["motors"] <= 1).all()


# --- random choices


def test_choices_are_replaced_by_uniform_ones():
    """Here and there, a whole leaf at a time; the class that was chosen may come again."""
    found = explored(epsilon=0.4)
    choice = np.bincount(found["choice"], minlength=6) / N
    np.testing.assert_allclose(choice, np.where(np.arange(6) == 3, 0.6 + 0.4 / 6, 0.4 / 6), atol=0.015)
    keys = found["keys"].reshape(N, 6)
    assert keys.dtype == np.int32 and found["keys"].shape == MANY["keys"].shape
    for column in keys.T:
        np.testing.assert_allclose(np.bincount(column, minlength=4) / N, [0.1, 0.1, 0.1, 0.7], atol=0.015)
    kept = (keys == 3).all(1)
    np.testing.assert_allclose(kept.mean(), 0.6 + 0.4 / 4**6, atol=0.015)
    both = kept & (found["choice"] == 3)
    np.testing.assert_allclose(both.mean(), kept.mean() * (found["choice"] == 3).mean(), atol=0.015)
    for name in ("motors", "arms"):
        np.testing.assert_array_equal(found[name], MANY[name])


@pytest.mark.parametrize(("chance", "share"), ((0.0, 0), (1.0, 1)))
def test_no_choice_or_every_choice(chance, share):
    found = explored(epsilon=chance)["keys"]
    assert (found != 3).any((1, 2)).mean() == pytest.approx(share, abs=0.001)


def test_the_chance_goes_linearly_over_agent_steps():
    falls = ExploreConfig(epsilon=0.4, epsilon_final=0.1, epsilon_steps=200_000)
    for records, expected in ((0, 0.4), (50_000, 0.325), (100_000, 0.25), (200_000, 0.1), (10**9, 0.1)):
        np.testing.assert_allclose(epsilon(falls, jnp.int32(records)), expected, rtol=1e-6)
    assert epsilon(ExploreConfig(epsilon=0.4, epsilon_final=0.1), None) == 0.4
    settings = dict(epsilon=1.0, epsilon_final=0.2, epsilon_steps=1000)
    assert (explored(records=np.int32(0), **settings)["keys"] != 3).any((1, 2)).mean() > 0.999
    replaced = (explored(records=np.int32(5000), **settings)["keys"] != 3).any((1, 2)).mean()
    np.testing.assert_allclose(replaced, 0.2, atol=0.015)


@pytest.mark.parametrize(
    ("settings", "expected"),
    (
        ({}, False),
        ({"epsilon": 0.4}, False),
        ({"epsilon_steps": 10}, False),
        ({"epsilon": 0.4, "epsilon_final": 0.1}, False),
        ({"epsilon": 0.4, "epsilon_final": 0.4, "epsilon_steps": 10}, False),
        ({"epsilon": 0.4, "epsilon_final": 0.1, "epsilon_steps": 10}, True),
    ),
)
def test_steps_are_counted_only_where_the_chance_changes(settings, expected):
    assert counts_records(ExploreConfig(**settings)) == expected


def test_draws_belong_to_the_environment():
    settings = dict(noise=0.3, epsilon=0.5)
    found = explored(**settings)
    some = np.array([7, 3, 19])
    alone = explored({name: x[some] for name, x in MANY.items()}, some, **settings)
    for name, x in alone.items():
        np.testing.assert_array_equal(x, found[name][some])


# --- in an agent

WITH = dict(explore__noise=0.3, explore__epsilon=1.0, explore__epsilon_final=0.0, explore__epsilon_steps=10 * E)
PLAIN, EXPLORER = tiny().agent, make_agent(tiny_config(**WITH), MIXED)
PARAMS = tiny().state.params
TIMESTEP = random_timestep(MIXED, size=E)


def decide(agent, mode, carry=None, key=KEY):
    carry = agent.reset(PARAMS, E) if carry is None else carry
    return quick_jit(lambda carry: agent.policy(PARAMS, key, carry, TIMESTEP, mode))(carry)


def test_nothing_is_counted_without_a_schedule():
    """The carry of other runs, which checkpoints hold, stays as it is."""
    assert PLAIN.reset(PARAMS, E).records is None
    assert len(jax.tree.leaves(EXPLORER.reset(PARAMS, E))) == len(jax.tree.leaves(PLAIN.reset(PARAMS, E))) + 1
    assert_trees_equal(decide(PLAIN, "train"), decide(PLAIN, "sample"))


@pytest.mark.parametrize("mode", ("sample", "mode"))
def test_other_modes_do_not_explore(mode):
    carry, *rest = decide(EXPLORER, mode)
    expected, *others = decide(PLAIN, mode)
    assert_trees_equal(rest, others)
    assert_trees_equal((carry.latent, carry.prev_action), (expected.latent, expected.prev_action))
    assert carry.records == 0


def test_training_explores_around_the_sample():
    carry, action, _ = decide(EXPLORER, "train")
    base = decide(PLAIN, "sample")[1]
    noise = action["motors"] - np.clip(base["motors"], -1, 1)
    assert (noise != 0).any() and (np.abs(noise) < 1.5).all() and (np.abs(action["motors"]) <= 1).all()
    drawn, within = base["motors"] - decide(PLAIN, "mode")[1]["motors"], np.abs(action["motors"]) < 1
    assert within.sum() > E and (noise * drawn < 0)[within].any()  # not the sample's noise once more
    assert (action["choice"] != base["choice"]).any()
    assert_trees_equal(carry.prev_action, action)  # what was done, not what was meant


def test_agent_steps_of_all_environments_are_counted():
    carry = None
    for number in range(1, 4):
        carry, _, _ = decide(EXPLORER, "train", carry)
        assert carry.records == number * E and carry.records.dtype == jnp.int32
    late = carry.replace(records=jnp.int32(10 * E))
    _, action, _ = decide(EXPLORER, "train", late)
    assert_trees_equal(action["choice"], decide(PLAIN, "sample", late.replace(records=None))[1]["choice"])
