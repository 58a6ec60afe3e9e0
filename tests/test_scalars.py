"""What heads for rewards and values put out: two-hot in both spaces, or a mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.models.scalars import make_scalar
from dreamer_jax.ops.transforms import symexp_bins, twohot_loss, twohot_mean

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(2, 3, 255)).astype(np.float32)
TARGET = np.array([[0.0, 0.1, -3], [100, 1e4, -1e12]], np.float32)


def test_in_raw_space_it_is_the_two_hot_of_symexp_bins():
    scalar, bins = make_scalar("symexp_twohot", 255), symexp_bins(255)
    assert scalar.outputs == 255
    np.testing.assert_array_equal(scalar.mean(LOGITS), twohot_mean(LOGITS, bins))
    np.testing.assert_array_equal(scalar.loss(LOGITS, TARGET), twohot_loss(LOGITS, TARGET, bins))


def test_in_symlog_space_neighbours_share_by_the_symlog():
    scalar, bins = make_scalar("symlog_twohot", 255), np.linspace(-20, 20, 255)
    log_probs = LOGITS - np.log(np.exp(LOGITS.astype(np.float64)).sum(-1, keepdims=True))
    place = np.clip(np.sign(TARGET) * np.log1p(np.abs(TARGET.astype(np.float64))), -20, 20)
    # Interpolation of the log-probabilities between bins is the cross entropy to the two-hot encoding.
    expected = [-np.interp(y, bins, row) for y, row in zip(place.ravel(), log_probs.reshape(-1, 255), strict=True)]
    np.testing.assert_allclose(scalar.loss(LOGITS, TARGET).ravel(), expected, rtol=1e-4)
    mean = (np.exp(log_probs) * bins).sum(-1)
    np.testing.assert_allclose(scalar.mean(LOGITS), np.sign(mean) * np.expm1(np.abs(mean)), rtol=1e-3, atol=1e-5)
    assert scalar.outputs == 255


@pytest.mark.parametrize("dist", ("symexp_twohot", "symlog_twohot", "normal"))
def test_a_new_head_means_exactly_zero_also_when_compiled(dist):
    scalar = make_scalar(dist, 255)
    assert not np.asarray(jax.jit(scalar.mean)(jnp.zeros((4, scalar.outputs)))).any()


def test_normal_is_half_the_squared_error_and_a_constant():
    scalar = make_scalar("normal", 255)
    raw = np.array([[1.0], [-2.0]], np.float32)
    assert scalar.outputs == 1
    np.testing.assert_array_equal(scalar.mean(raw), [1, -2])
    np.testing.assert_allclose(
        scalar.loss(raw, np.array([4.0, -2], np.float32)), [4.5 + 0.9189385, 0.9189385], rtol=1e-6
    )
    grad = jax.grad(lambda raw: scalar.loss(raw, jnp.array([4.0, -2])).sum())(raw)
    np.testing.assert_allclose(grad, [[-3], [0]])
