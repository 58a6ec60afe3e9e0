"""The two halves of the KL: values, free nats, and who learns from which."""

import jax
import numpy as np
import pytest

from dreamer_jax.distributions import categorical
from dreamer_jax.models.losses import kl_losses

LOGITS = np.random.default_rng(0).normal(size=(2, 2, 3, 4, 5)).astype(np.float32)  # which, B, T, S, K
LEFT, RIGHT = {"logits": LOGITS[0]}, {"logits": LOGITS[1]}


def losses(left, right, free_nats):
    return kl_losses(lambda stats: categorical(stats["logits"], 0.01), left, right, free_nats)


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
