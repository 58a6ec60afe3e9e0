"""Numbers about a world model and its dreams, against plain numpy."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from agents import KEY, MIXED, B, K, S, T, quick_jit, random_batch, random_leaf, tiny, tiny_config

from dreamer_jax.agent import make_agent
from dreamer_jax.config.schema import RSSMConfig
from dreamer_jax.models import latents as kinds
from dreamer_jax.report import dream

TINY = tiny()
LONG = 34
BATCH = random_batch(MIXED, TINY.config, seed=3, length=LONG)
CONTEXT = LONG // 2
BATCH.is_first[2, CONTEXT + 8] = True
VALID = np.cumsum(BATCH.is_first[:, CONTEXT:], 1) == 0
symlog = lambda x: np.sign(x) * np.log1p(np.abs(x))  # noqa: E731


@pytest.fixture(scope="module")
def reported():
    metrics, dreamt = quick_jit(TINY.agent.report)(TINY.state, KEY, BATCH)
    return {name: float(value) for name, value in metrics.items()}, dreamt


@pytest.fixture(scope="module")
def latents():
    """Posterior and probabilities of posterior and prior, [B, T, S, K]."""
    params = TINY.state.params["model"]
    _, aux = quick_jit(TINY.model.loss)(params, KEY, np.arange(B), BATCH)

    def probs(stats):
        raw = np.asarray(stats["logits"], np.float64)
        share = np.exp(raw - raw.max(-1, keepdims=True))
        return (1 - TINY.config.rssm.unimix) * share / share.sum(-1, keepdims=True) + TINY.config.rssm.unimix / K

    return jax.tree.map(np.asarray, aux.posterior), probs(aux.posterior_stats), probs(aux.prior_stats)


def test_latents_in_numbers(reported, latents):
    metrics, (_, q, p) = reported[0], latents
    kl = (q * np.log(q / p)).sum(-1)
    assert metrics["kl"] == pytest.approx(kl.sum(-1).mean(), rel=1e-4)
    assert metrics["kl_below_free_nats"] == pytest.approx((kl.sum(-1) < TINY.config.kl.free_nats).mean())
    for i in range(S):
        assert metrics[f"kl_latent/{i:02d}"] == pytest.approx(kl[..., i].mean(), rel=1e-4)
    entropy = lambda x: -(x * np.log(x)).sum(-1)  # noqa: E731
    information = entropy(q.mean((0, 1))) - entropy(q).mean((0, 1))
    assert metrics["active_latents"] == (information > 0.05).sum()


def test_only_informative_latents_are_active():
    logits = np.zeros((4, 6, 3, 5), np.float32)
    logits[:, :3, 1, 0] = logits[:, 3:, 1, 4] = 9  # says which half of the window it is
    logits[:, :, 2, 0] = 9  # certain, but always the same
    categorical = kinds.categorical(RSSMConfig(stoch=3, classes=5, unimix=0.01))
    np.testing.assert_array_equal(categorical.active({"logits": logits}), [False, True, False])
    mean = np.array([[0.0, 1.0], [0.0, 0.0], [0.05, 2.0]], np.float32)
    gaussian = kinds.gaussian(RSSMConfig(stoch=2))
    np.testing.assert_array_equal(gaussian.active({"mean": mean, "std": np.ones_like(mean)}), [False, True])


def test_elbo_is_of_a_record(reported, latents):
    losses, aux = TINY.model.loss(TINY.state.params["model"], KEY, np.arange(B), BATCH)
    # A squared error is the negative log-likelihood of a normal with variance 1/2, but for a constant.
    numbers = sum(np.asarray(losses[name]) for name in ("speed", "place")) + (2 + 8) / 2 * np.log(np.pi)
    whole = numbers + np.asarray(losses["cells"]) + np.asarray(losses["rew"]) + np.asarray(losses["con"])
    assert reported[0]["elbo"] == pytest.approx(-(whole + np.asarray(aux.divergence)).mean(), rel=1e-4)


def test_errors_of_one_step(reported, latents):
    metrics, posterior = reported[0], latents[0]
    target = symlog(BATCH.observation["speed"])
    others = replace(posterior, stoch=posterior.stoch[np.roll(np.arange(B), 1)])
    for label, state in {"posterior": posterior, "permuted": others}.items():
        output = TINY.model.decode(TINY.state.params["model"], TINY.model.dynamics.features(state))
        assert metrics[f"{label}_error/speed"] == pytest.approx(
            float(((output["speed"] - target) ** 2).mean()), rel=1e-4
        )
        chosen = np.take_along_axis(np.asarray(output["cells"]), BATCH.observation["cells"][..., None], -1)[..., 0]
        entropy = np.log(np.exp(np.asarray(output["cells"])).sum(-1)) - chosen
        assert metrics[f"{label}_error/cells"] == pytest.approx(entropy.mean(), rel=1e-4)
    errors = [metrics[f"{label}_error/place"] for label in ("posterior", "prior", "permuted")]
    assert len(set(errors)) == 3


def test_baselines_and_horizons(reported):
    metrics, dreamt = reported
    assert not VALID.all() and VALID[:, 14].any()
    place = symlog(BATCH.observation["place"])
    guesses = {
        "repeat": place[:, CONTEXT - 1 : CONTEXT],
        "mean": place[:, :CONTEXT].mean((0, 1), keepdims=True),
        "openloop": np.asarray(dreamt.observation["place"])[:, CONTEXT:],
    }
    for label, guess in guesses.items():
        square = ((place[:, CONTEXT:] - guess) ** 2).mean((-1, -2))
        for h in (1, 5, 15):
            expected = square[:, h - 1][VALID[:, h - 1]].mean()
            assert metrics[f"{label}_error/place/{h}"] == pytest.approx(expected, rel=1e-4)
    assert not any("cells/" in name for name in metrics)


def test_returns(reported):
    metrics, dreamt = reported
    imagined, realised = (
        (np.asarray(x)[:, CONTEXT:][:, :15] * VALID[:, :15]).sum(1) for x in (dreamt.reward, BATCH.reward)
    )
    assert metrics["return_imagined"] == pytest.approx(imagined.mean(), rel=1e-4)
    assert metrics["return_realised"] == pytest.approx(realised.mean(), rel=1e-4)
    assert metrics["return_error"] == pytest.approx(((imagined - realised) ** 2).mean(), rel=1e-4)


def test_short_windows_leave_long_horizons_out():
    names = jax.eval_shape(TINY.agent.report, TINY.state, KEY, TINY.batch)[0]
    assert {name[-2:] for name in names if name.startswith("openloop_error")} == {"/1"} and T - T // 2 < 5


# --- dreams


def windows(batch, start, stop):
    return replace(jax.tree.map(lambda x: x[:, start:stop], replace(batch, context=None)), context=batch.context)


def test_a_dream_of_recorded_actions_is_the_reported_one(reported):
    ahead = {name: x[:, CONTEXT:] for name, x in BATCH.prev_action.items()}
    dreamt = TINY.agent.dream(TINY.state.params, KEY, windows(BATCH, 0, CONTEXT), ahead, LONG - CONTEXT)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), dreamt, reported[1])
    assert dreamt.observation["cells"].shape == (B, LONG, 4, 3) and dreamt.reward.shape == (B, LONG)


def test_actions_change_what_follows_and_nothing_before():
    seen, length = windows(BATCH, 0, 6), 4
    rng = np.random.default_rng(0)
    one, two = ({name: random_leaf(rng, leaf, B, length) for name, leaf in MIXED.action.items()} for _ in range(2))
    for name in one:
        two[name][:, :2] = one[name][:, :2]
    first, second, own, greedy = (
        np.asarray(TINY.agent.dream(TINY.state.params, KEY, seen, actions, length, mode).reward)
        for actions, mode in ((one, "sample"), (two, "sample"), (None, "sample"), (None, "mode"))
    )
    np.testing.assert_array_equal(first[:, :8], second[:, :8])
    assert (first[:, 8:] != second[:, 8:]).all(1).all()
    for other in (own, greedy):
        np.testing.assert_array_equal(first[:, :6], other[:, :6])
        assert (first[:, 6:] != other[:, 6:]).any(1).all()
    assert (own[:, 6:] != greedy[:, 6:]).any()


def test_the_policy_dreams_what_it_would_do():
    """A policy that always chooses the same dreams what those given actions give."""
    config = tiny_config(policy__init_scale=0.0)
    agent = make_agent(config, MIXED)
    state = agent.init(KEY)
    seen = windows(BATCH, 0, 6)
    own = agent.dream(state.params, KEY, seen, None, 3, "mode")
    still = {"motors": np.zeros((B, 3, 2), np.float32), "choice": np.zeros((B, 3), np.int32)}
    given = agent.dream(state.params, KEY, seen, still, 3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), own, given)


def test_the_policy_draws_anew_at_every_step():
    """Step t acts with a key of its own, folded from the dream's."""

    def act(params, key, rows, state, carry, mode):
        draw = jax.random.randint(key, (B,), 0, 6)
        return carry, {"motors": np.zeros((B, 2), np.float32), "choice": draw}

    seen, acting_key = windows(BATCH, 0, 6), jax.random.fold_in(KEY, 2)
    drawn = np.stack([jax.random.randint(jax.random.fold_in(acting_key, t), (B,), 0, 6) for t in range(4)], 1)
    assert (drawn != drawn[:, :1]).any()
    given = {"motors": np.zeros((B, 4, 2), np.float32), "choice": drawn}
    own, same = (
        dream(TINY.model, TINY.behavior._replace(act=act), TINY.state.params, KEY, seen=seen, actions=actions, length=4)
        for actions in (None, given)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), own, same)
