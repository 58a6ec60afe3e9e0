"""The actor: bounded normals and choices, what environments get, unimix."""

import jax
import numpy as np
import pytest
from agents import KEY, MIXED, D, K, S, tiny, tiny_config

from dreamer_jax.behaviors.policy import Policy
from dreamer_jax.specs import ArraySpec

N = 4
PARAMS = {"params": tiny().state.params["actor"]}
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(N, D)).astype(np.float32), RNG.normal(size=(N, S * K)).astype(np.float32)
POLICY = Policy(tiny().config.policy, MIXED.action, (D, S * K))
STATS = jax.jit(lambda *feat: POLICY.apply(PARAMS, *feat))(*FEATURES)


def test_statistics():
    assert {name: set(leaf) for name, leaf in STATS.items()} == {"motors": {"mean", "std"}, "choice": {"logits"}}
    assert STATS["choice"]["logits"].shape == (N, 1, 6)
    motors = STATS["motors"]
    assert motors["mean"].shape == motors["std"].shape == (N, 2)
    assert (np.abs(motors["mean"]) < 1).all() and (motors["std"] > 0.1).all() and (motors["std"] < 1).all()


def test_statistics_of_a_new_policy():
    """Nearly the same everywhere: its output layer starts small."""

    @jax.jit
    def new(key):
        return POLICY.apply(POLICY.init(key, *FEATURES), *FEATURES)

    stats = new(KEY)
    np.testing.assert_allclose(stats["motors"]["std"], 0.9 / (1 + np.exp(-2)) + 0.1, atol=0.01)  # 0.893
    np.testing.assert_allclose(stats["motors"]["mean"], 0, atol=0.05)
    np.testing.assert_allclose(stats["choice"]["logits"], 0, atol=0.05)


def test_samples_of_a_normal_are_neither_squashed_nor_clipped():
    noise = {"motors": np.full((N, 2), 4, np.float32), "choice": np.full((N, 1), 0.5, np.float32)}
    events = POLICY.draw(STATS, noise)
    np.testing.assert_allclose(events["motors"], STATS["motors"]["mean"] + 4 * STATS["motors"]["std"], rtol=1e-5)
    assert (np.abs(POLICY.for_environment(events)["motors"]) > 1).any()


def test_modes_without_noise():
    events = POLICY.draw(STATS, None)
    np.testing.assert_array_equal(events["motors"], STATS["motors"]["mean"])
    np.testing.assert_array_equal(events["choice"], np.eye(6)[STATS["choice"]["logits"].argmax(-1)])


def test_forms_of_an_action():
    """Events for the losses, a vector for the RSSM in sorted order, indices for environments."""
    classes = np.array([1, 5, 0, 3])
    events = {
        "motors": RNG.normal(size=(N, 2)).astype(np.float32),
        "choice": np.eye(6, dtype=np.float32)[classes][:, None],
    }
    vector = np.concatenate([np.eye(6)[classes], events["motors"]], -1)
    np.testing.assert_allclose(POLICY.vector(events), vector)
    action = POLICY.for_environment(events)
    np.testing.assert_array_equal(action["choice"], classes)
    assert action["choice"].dtype == np.int32 and action["choice"].shape == (N,)
    np.testing.assert_allclose(tiny().model.action_vector(action), vector)


def test_several_choices_in_one_leaf():
    specs = {"keys": ArraySpec((2, 2), "int32", 3)}
    policy = Policy(tiny().config.policy, specs, (D, S * K))
    stats = {"keys": {"logits": RNG.normal(size=(N, 4, 3)).astype(np.float32)}}
    events = policy.draw(stats, None)
    assert policy.for_environment(events)["keys"].shape == (N, 2, 2)
    assert policy.vector(events).shape == (N, 12)
    entropy = policy.distributions(stats)["keys"].entropy()
    log_probs = stats["keys"]["logits"] - np.log(np.exp(stats["keys"]["logits"]).sum(-1, keepdims=True))
    np.testing.assert_allclose(entropy, -(np.exp(log_probs) * log_probs).sum((-1, -2)), rtol=1e-5)


@pytest.mark.parametrize("unimix", (0.0, 0.01))
def test_unimix_of_choices_is_a_setting(unimix):
    policy = Policy(tiny_config(policy__unimix=unimix).policy, MIXED.action, (D, S * K))
    event = np.eye(6, dtype=np.float32)[[[2]] * N]
    log_prob = policy.distributions(STATS)["choice"].log_prob(event)
    logits = np.asarray(STATS["choice"]["logits"])[:, 0]
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(log_prob, np.log((1 - unimix) * probs[:, 2] + unimix / 6), rtol=1e-5)


def test_noise_of_leaves_is_independent():
    noise = jax.jit(lambda key: POLICY.noise(key, np.arange(N), (3,)))(KEY)
    assert {name: x.shape for name, x in noise.items()} == {"motors": (N, 3, 2), "choice": (N, 3, 1)}
    assert (noise["choice"] >= 0).all() and (noise["choice"] < 1).all()
    assert (noise["motors"] < 0).any()
