"""The two halves of the KL: values, free nats, and who learns from which; and predictions further ahead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import bundle

from dreamer_jax.config.schema import RSSMConfig
from dreamer_jax.interfaces import Dynamics
from dreamer_jax.models import latents
from dreamer_jax.models.losses import kl_losses, overshooting_loss
from dreamer_jax.models.rssm import RSSMState

LOGITS = np.random.default_rng(0).normal(size=(2, 2, 3, 4, 5)).astype(np.float32)  # which, B, T, S, K
LEFT, RIGHT = {"logits": LOGITS[0]}, {"logits": LOGITS[1]}
KL = latents.categorical(RSSMConfig(stoch=4, classes=5, unimix=0.01)).divergence


def losses(left, right, free_nats):
    return kl_losses(KL, left, right, free_nats=free_nats)


def numpy_kl():
    p, q = (0.99 * np.exp(x) / np.exp(x).sum(-1, keepdims=True) + 0.01 / 5 for x in LOGITS)
    return (p * np.log(p / q)).sum((-1, -2))


@pytest.mark.parametrize("free_nats", (0.0, 3.0))
def test_values(free_nats):
    clipped, kl = jax.jit(losses, static_argnums=2)(LEFT, RIGHT, free_nats)
    np.testing.assert_allclose(kl, numpy_kl(), rtol=1e-5)
    for name in ("dyn", "rep"):
        np.testing.assert_allclose(clipped[name], np.maximum(numpy_kl(), free_nats), rtol=1e-5)
    assert 0 < (numpy_kl() < 3).sum() < 6  # some are clipped, some are not


@pytest.mark.parametrize(("name", "learns"), (("dyn", "prior"), ("rep", "posterior")))
def test_each_half_trains_one_side_and_only_above_the_free_nats(name, learns):
    total = lambda left, right: losses(left, right, 3.0)[0][name].sum()  # noqa: E731
    by_posterior, by_prior = jax.jit(jax.grad(total, (0, 1)))(LEFT, RIGHT)
    grads = {"posterior": by_posterior["logits"], "prior": by_prior["logits"]}
    assert not np.asarray(grads.pop("prior" if learns == "posterior" else "posterior")).any()
    moved = np.abs(grads[learns]).sum((-1, -2)) > 0
    np.testing.assert_array_equal(moved, numpy_kl() > 3)


def test_the_raw_value_has_no_gradient():
    grad = jax.jit(jax.grad(lambda left: losses(left, RIGHT, 0.0)[1].sum()))(LEFT)
    assert not np.asarray(grad["logits"]).any()


@pytest.mark.parametrize("free_nats", (1.0, 50.0))
def test_free_nats_of_the_mean_are_for_the_whole_batch(free_nats):
    def total(left, right):
        clipped = kl_losses(KL, left, right, free_nats=free_nats, free_average=True)[0]
        assert clipped["dyn"].shape == clipped["rep"].shape == (2, 3)
        return clipped["dyn"].mean() + clipped["rep"].mean()

    mean = numpy_kl().mean()
    assert 1 < mean < 50 and (numpy_kl() < mean).any()
    value, grads = jax.jit(jax.value_and_grad(total, (0, 1)))(LEFT, RIGHT)
    np.testing.assert_allclose(value, 2 * max(mean, free_nats), rtol=1e-5)
    free = jax.grad(lambda *x: sum(x.mean() for x in losses(*x, 0.0)[0].values()), (0, 1))(LEFT, RIGHT)
    for mine, plain in zip(jax.tree.leaves(grads), jax.tree.leaves(free), strict=True):
        np.testing.assert_allclose(mine, plain if mean > free_nats else 0, rtol=1e-5, atol=1e-8)


def test_free_nats_of_the_mean_are_for_all_devices():
    """Two halves, one above and one below the free nats, whose mean is above."""
    each = numpy_kl().mean(1)
    free_nats = float(each.mean()) - 0.05
    assert each.min() < free_nats

    def dyn(left, right):
        found, _ = kl_losses(KL, left, right, free_nats=free_nats, free_average=True, axis_name="devices")
        return found["dyn"]

    halves = jax.vmap(dyn, axis_name="devices")(LEFT, RIGHT)
    np.testing.assert_allclose(halves, numpy_kl(), rtol=1e-5)


# --- latent overshooting


B, T, S = 2, 6, 3
RNG = np.random.default_rng(1)
POSTERIOR = RSSMState(
    RNG.normal(size=(B, T, S)).astype(np.float32),
    RNG.normal(size=(B, T, S)).astype(np.float32),
)
STATS = {
    "mean": RNG.normal(size=(B, T, S)).astype(np.float32),
    "std": RNG.uniform(0.5, 2, (B, T, S)).astype(np.float32),
}
ACTION = RNG.normal(size=(B, T, S)).astype(np.float32)
FIRST = np.zeros((B, T), bool)
FIRST[1, 3] = True
FIRST[0, 0] = True


def prior_step(weight, noise, deter, stoch, action):
    """Any recurrence: the next deter, mean and stoch; deviation 1."""
    deter = weight * deter + 0.3 * stoch + action
    return deter, deter - 0.1, deter - 0.1 + noise


def prior(params, noise, state, action):
    deter, mean, stoch = prior_step(params, noise, state.deter, state.stoch, action)
    return RSSMState(deter, stoch), {"mean": mean, "std": jnp.ones_like(mean)}


MODEL = bundle(
    Dynamics,
    prior=prior,
    starts=lambda posterior: posterior,
    to_scan_carry=lambda state: state,
    latent=latents.gaussian(RSSMConfig(stoch=S)),
)


def overshoot(weight, noise, posterior, free_nats=0.0, stats=STATS, action=ACTION, first=FIRST, axis_name=None):
    window = dict(posterior=posterior, stats=stats, prev_action=action, is_first=first, axis_name=axis_name)
    return overshooting_loss(MODEL, weight, noise, **window, steps=noise.shape[2], free_nats=free_nats)


def by_loops(noise, distance, free_nats):
    found = np.zeros((B, T))
    count = 0
    for b in range(B):
        for start in range(T):
            deter, stoch = POSTERIOR.deter[b, start], POSTERIOR.stoch[b, start]
            for d in range(1, distance + 1):
                t = start + d
                if t >= T or FIRST[b, start + 1 : t + 1].any():
                    break
                deter, prior_mean, stoch = prior_step(0.7, noise[b, start, d - 1], deter, stoch, ACTION[b, t])
                mean, std = STATS["mean"][b, t], STATS["std"][b, t]
                kl = (((mean - prior_mean) ** 2 + std**2 - 1) / 2 - np.log(std)).sum()
                if d > 1:
                    count += 1
                    found[b, start] += max(kl, free_nats)
    return found, count


@pytest.mark.parametrize(("distance", "free_nats"), ((2, 0.0), (4, 0.0), (4, 3.0), (9, 0.0)))
def test_overshooting_by_loops(distance, free_nats):
    """Also further than the window is long."""
    noise = RNG.normal(size=(B, T, distance, S)).astype(np.float32)
    expected, count = by_loops(noise, distance, free_nats)
    found = jax.jit(overshoot, static_argnums=3)(0.7, noise, POSTERIOR, free_nats)
    assert found.shape == (B, T)
    np.testing.assert_allclose(found.mean(), expected.sum() / count, rtol=1e-5)
    np.testing.assert_allclose(found, expected * B * T / count, rtol=1e-4)


def test_overshooting_trains_the_prior_and_where_it_started_but_not_what_it_aims_at():
    noise = RNG.normal(size=(B, T, 3, S)).astype(np.float32)
    total = lambda weight, posterior, stats: overshoot(weight, noise, posterior, stats=stats).mean()  # noqa: E731
    by_weight, by_posterior, by_stats = jax.grad(total, (0, 1, 2))(0.7, POSTERIOR, STATS)
    assert by_weight != 0 and np.abs(by_posterior.stoch).sum() > 0
    assert not any(np.asarray(x).any() for x in by_stats.values())
    capped = jax.grad(lambda weight: overshoot(weight, noise, POSTERIOR, 1e6).mean())(0.7)
    assert capped == 0


def test_overshooting_counts_over_all_devices():
    noise = RNG.normal(size=(B, T, 3, S)).astype(np.float32)

    def one(*row):
        noise, posterior, stats, action, first = jax.tree.map(lambda x: x[None], row)
        return overshoot(0.7, noise, posterior, 0.0, stats, action, first, "devices")[0]

    found = jax.vmap(one, axis_name="devices")(noise, POSTERIOR, STATS, ACTION, FIRST)
    np.testing.assert_allclose(found, overshoot(0.7, noise, POSTERIOR), rtol=1e-5)
