"""The actor: bounded normals and choices, what environments get, unimix."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from agents import KEY, MIXED, D, K, S, tiny, tiny_config

from dreamer_jax.behaviors.actor_critic import make_actor_critic
from dreamer_jax.behaviors.policy import Policy
from dreamer_jax.models.rssm import RSSMState
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


def bounded(**settings):
    return Policy(replace(tiny_config().policy, **settings), MIXED.action, (D, S * K))


def softplus(x):
    return np.log1p(np.exp(x))


@pytest.mark.parametrize(
    ("settings", "mean", "std"),
    (
        (
            {"dist": "tanh_normal", "mean_scale": 2.0, "init_std": 5.0, "min_std": 0.25},
            lambda m: 2 * np.tanh(m / 2),
            lambda s: softplus(s + np.log(np.exp(5) - 1)) + 0.25,
        ),
        (
            {"dist": "trunc_normal", "init_std": 0.5, "min_std": 0.25},
            np.tanh,
            lambda s: 2 / (1 + np.exp(-(s + 0.5) / 2)) + 0.25,
        ),
    ),
)
def test_statistics_of_bounded_actions(settings, mean, std):
    policy = bounded(**settings)
    plain = bounded(min_std=0.0)
    found, raw = (x.apply(PARAMS, *FEATURES)["motors"] for x in (policy, plain))
    raw_mean, share = np.arctanh(np.asarray(raw["mean"], np.float64)), np.asarray(raw["std"], np.float64)
    np.testing.assert_allclose(found["mean"], mean(raw_mean), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["std"], std(np.log(share / (1 - share)) - 2), rtol=1e-4)


def test_the_first_deviation_of_a_squashed_policy_is_a_setting():
    policy = bounded(dist="tanh_normal", init_std=5.0, init_scale=0.0)
    stats = policy.apply(policy.init(KEY, *FEATURES), *FEATURES)
    np.testing.assert_allclose(stats["motors"]["std"], 5.1, rtol=1e-5)


@pytest.mark.parametrize("dist", ("tanh_normal", "trunc_normal"))
def test_bounded_actions_are_drawn_and_scored_by_their_distribution(dist):
    policy = bounded(dist=dist, init_std=1.0)
    stats = policy.apply(PARAMS, *FEATURES)
    noise = policy.noise(KEY, np.arange(N), ())
    motors = np.asarray(policy.draw(stats, noise)["motors"])
    assert (np.abs(motors) < 1).all() and np.isfinite(policy.distributions(stats)["motors"].log_prob(motors)).all()
    assert ((noise["motors"] >= 0) & (noise["motors"] < 1)).all() == (dist == "trunc_normal")


def test_the_mode_of_a_squashed_policy_is_the_likeliest_of_many_draws():
    """Also when it acts."""
    config = tiny_config(policy__dist="tanh_normal", policy__init_std=1.0, behavior__entropy=0.0)
    policy = Policy(config.policy, MIXED.action, (D, S * K))
    stats, rows = policy.apply(PARAMS, *FEATURES), np.arange(N)
    noise = policy.noise(KEY, rows, (), best=True)
    assert noise["motors"].shape == (N, 100, 2)
    events = policy.draw(stats, noise, best=True)
    mean, std = stats["motors"]["mean"][:, None], stats["motors"]["std"][:, None]
    draws = np.tanh(mean + std * noise["motors"])
    dist = policy.distributions({"motors": {"mean": mean, "std": std}})["motors"]
    best = np.asarray(dist.log_prob(draws)).argmax(-1)
    np.testing.assert_allclose(events["motors"], np.asarray(draws)[np.arange(N), best], rtol=1e-6)
    np.testing.assert_array_equal(events["choice"], np.eye(6)[stats["choice"]["logits"].argmax(-1)])
    behavior = make_actor_critic(config, MIXED, tiny().model)
    state = RSSMState(FEATURES[0], FEATURES[1].reshape(N, S, K))
    _, action = behavior.act({"actor": PARAMS["params"]}, KEY, rows, state, (), "mode")
    np.testing.assert_allclose(action["motors"], events["motors"], rtol=1e-5)
