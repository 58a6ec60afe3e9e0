"""Kinds of latents, and one from outside: it learns, acts, is stored, and reports its own numbers."""

import inspect
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import KEY, MIXED, B, K, S, T, quick_jit, random_batch, random_timestep, tiny_config

from dreamer_jax.agent import make_agent
from dreamer_jax.analysis.predictions import collapse, describe
from dreamer_jax.interfaces import Latent
from dreamer_jax.models.latents import make_latent
from dreamer_jax.models.rssm import make_rssm


def simnorm(config):
    """Each variable a point of a simplex (TD-MPC2, sec. 3.1): nothing is drawn."""
    shape = config.stoch, config.classes

    def kl(left, right):
        p, q = left["simplex"], right["simplex"]
        return (p * (jnp.log(p) - jnp.log(q))).sum(-1)

    return Latent(
        shape=shape,
        outputs=math.prod(shape),
        stats=lambda raw: {"simplex": jax.nn.softmax(raw.reshape(*raw.shape[:-1], *shape))},
        noise=lambda key, rows, length: None,
        sample=lambda stats, noise: stats["simplex"],
        mode=lambda stats: stats["simplex"],
        entropy=lambda stats: -(stats["simplex"] * jnp.log(stats["simplex"])).sum((-1, -2)),
        divergence=kl,
        active=lambda stats: stats["simplex"].std((0, 1)).max(-1) > 0.01,
        **{"divergence_name": "consistency", "bounds_likelihood": False},
    )


CONFIG = tiny_config(kl__overshooting=2, optimizer__warmup=0)
AGENT = make_agent(CONFIG, MIXED, dynamics=partial(make_rssm, latent=simnorm))
BATCH = random_batch(MIXED, CONFIG).replace(context=None)


@pytest.fixture(scope="module")
def state():
    return AGENT.init(KEY)


def test_a_kind_from_outside_is_twenty_lines():
    assert len([line for line in inspect.getsource(simnorm).splitlines() if line.strip()]) <= 20


def test_a_kind_from_outside_learns_and_is_stored(state):
    after, metrics, latents = quick_jit(AGENT.update)(state, KEY, BATCH)
    assert np.isfinite(metrics["loss/total"]) and metrics["consistency"] > 0 and "kl" not in metrics
    still = jax.tree.map(
        lambda a, b: bool((a == b).all()), state.params["model"]["rssm"], after.params["model"]["rssm"]
    )
    assert not any(jax.tree.leaves(still))
    assert latents["stoch"].shape == (B, T, S, K) and AGENT.latent_spec["stoch"].dtype == "bfloat16"
    np.testing.assert_allclose(np.asarray(latents["stoch"], np.float32).sum(-1), 1, atol=0.01)
    stored = BATCH.replace(context={name: x[:, -1] for name, x in latents.items()})
    other = quick_jit(AGENT.update)(state, KEY, stored)[2]
    assert (np.asarray(other["deter"]) != latents["deter"])[:, 0].any()


def test_a_kind_from_outside_acts(state):
    step = quick_jit(AGENT.policy)
    _, action, latents = step(state.params, KEY, AGENT.reset(state.params, 4), random_timestep(MIXED))
    assert action["motors"].shape == (4, 2) and latents.keys() == AGENT.latent_spec.keys()


def test_a_kind_from_outside_reports_its_own_numbers(state):
    metrics, _ = quick_jit(AGENT.report)(state, KEY, BATCH)
    metrics = {name: float(x) for name, x in metrics.items()}
    each = [metrics[f"consistency_latent/{i:02d}"] for i in range(S)]
    assert sum(each) == pytest.approx(metrics["consistency"], rel=1e-4)
    assert not {"kl", "elbo"} & metrics.keys()
    # Nothing is drawn: the prior's latent differs from the posterior's by what was observed alone.
    assert metrics["prior_error/place"] != metrics["posterior_error/place"]
    first, *_ = describe(metrics)
    assert first.startswith(f"consistency {metrics['consistency']:.2f}, below free nats in ")
    assert first.endswith(f"{metrics['active_latents']:.0f} of {S} latents active")
    assert collapse(metrics | {"active_latents": 0.0, "prior_error/place": 9.0}) == ""


@pytest.mark.parametrize("latent", ["categorical", "gaussian"])
def test_a_stored_latent_comes_back(latent):
    config = tiny_config(rssm__latent=latent).rssm
    kind = make_latent(config)
    raw = np.random.default_rng(0).normal(size=(B, kind.outputs)).astype(np.float32)
    stats = kind.stats(raw)
    sample = kind.sample(stats, kind.noise(KEY, np.arange(B), ()))
    assert sample.shape == (B, *kind.shape)
    again = kind.expand(kind.compress(sample))
    assert again.dtype == jnp.float32
    np.testing.assert_allclose(again, sample, rtol=0.01)
    assert kind.entropy(stats).shape == (B,) and kind.divergence(stats, stats).shape == (B, S)
    np.testing.assert_allclose(kind.divergence(stats, stats), 0, atol=1e-6)
