"""symlog, symexp and the two-hot encoding, against numbers of the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.ops.transforms import even_bins, symexp, symexp_bins, symlog, twohot_loss, twohot_mean

BINS = symexp_bins(255)


slope = jax.jit(jax.grad(lambda logits, target: twohot_loss(logits, target, BINS)))


def encoding(target):
    """Two-hot weights [255] of a number: the gradient of the loss is ``softmax(logits) - encoding``."""
    return 1 / 255 - np.asarray(slope(np.zeros(255, np.float32), np.float32(target)))


def test_symlog_and_symexp_are_inverse_and_odd():
    x = np.array([-300.0, -2.5, -1e-3, 0, 1e-3, 1, 4e3], np.float32)
    np.testing.assert_allclose(symlog(x), np.sign(x) * np.log1p(np.abs(x)), rtol=1e-6)
    np.testing.assert_allclose(symexp(symlog(x)), x, rtol=1e-5)
    np.testing.assert_array_equal(symlog(-x), -symlog(x))
    assert symlog(0.0) == 0 and symexp(0.0) == 0


def test_bins():
    assert BINS.shape == (255,) and BINS.dtype == np.float32
    assert BINS[127] == 0
    np.testing.assert_allclose(BINS[[128, 129]], [0.170558, 0.370205], rtol=3e-6)
    np.testing.assert_allclose(BINS[[0, -1]], [-4.852e8, 4.852e8], rtol=1e-4)
    np.testing.assert_array_equal(BINS, -BINS[::-1])
    assert (np.diff(BINS) > 0).all()


@pytest.mark.parametrize("count", (2, 254))
def test_an_even_number_of_bins_is_refused(count):
    with pytest.raises(ValueError, match=f"got {count}, must be odd"):
        symexp_bins(count)
    with pytest.raises(ValueError, match=f"got {count}, must be odd"):
        even_bins(count)


def test_even_bins():
    bins = even_bins(255)
    np.testing.assert_allclose(bins, np.linspace(-20, 20, 255), atol=2e-6)
    np.testing.assert_array_equal(bins, -bins[::-1])
    assert bins.dtype == np.float32


@pytest.mark.parametrize(
    ("target", "below", "weight"),
    ((0.1, 127, 0.413688), (1.0, 131, 0.617330), (-3.0, 118, 0.790318), (100.0, 156, 0.710530)),
)
def test_weights_are_linear_in_raw_space(target, below, weight):
    expected = np.zeros(255)
    expected[[below, below + 1]] = weight, 1 - weight
    np.testing.assert_allclose(encoding(target), expected, atol=2e-5)


def test_a_bin_itself_and_what_lies_beyond_the_ends():
    for target, place in ((0.0, 127), (float(BINS[40]), 40), (float(BINS[-1]), 254), (1e12, 254), (-1e12, 0)):
        np.testing.assert_allclose(encoding(target), np.eye(255)[place], atol=1e-6)


def test_loss_is_the_cross_entropy_to_the_encoding():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 255)).astype(np.float32) * 3
    target = rng.normal(size=(2, 3)).astype(np.float32) * 20
    weights = np.stack([encoding(y) for y in target.ravel()]).reshape(2, 3, 255)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(jax.jit(twohot_loss)(logits, target, BINS), -(weights * log_probs).sum(-1), rtol=1e-5)


def test_loss_of_uniform_logits():
    loss = jax.jit(twohot_loss)(np.zeros((4, 255), np.float32), np.array([0, 0.1, -3, 1e9], np.float32), BINS)
    np.testing.assert_allclose(loss, 5.541264, rtol=1e-6)


@pytest.mark.parametrize("shape", ((255,), (3, 255), (1024, 16, 255)))
def test_uniform_logits_mean_exactly_zero_under_jit(shape):
    assert not np.asarray(jax.jit(lambda x: twohot_mean(x, BINS))(jnp.zeros(shape))).any()


@pytest.mark.parametrize("target", (0.1, 1.0, -3.0, 100.0))
def test_mean_decodes_what_was_encoded(target):
    logits = np.log(np.maximum(encoding(target), 0) + 1e-30).astype(np.float32)
    np.testing.assert_allclose(jax.jit(lambda x: twohot_mean(x, BINS))(logits), target, rtol=1e-3)
    few = symexp_bins(5)
    probs = np.array([0.1, 0.2, 0.3, 0.15, 0.25])
    np.testing.assert_allclose(twohot_mean(jnp.log(probs), few), (probs * few.astype(np.float64)).sum(), rtol=1e-5)


def test_low_precision_logits_are_widened():
    logits = jax.ShapeDtypeStruct((255,), jnp.bfloat16)
    both = jax.eval_shape(lambda x: (twohot_mean(x, BINS), twohot_loss(x, jnp.float32(2.0), BINS)), logits)
    assert [x.dtype for x in both] == [jnp.float32] * 2


def test_a_last_digit_of_a_logit_is_no_reward():
    """The outermost bin is 4.85e8: a last digit of its probability of 1/255 would be 0.11."""
    rng = np.random.default_rng(0)
    half = 1e-3 * rng.normal(size=(1000, 127)).astype(np.float32)
    digits = np.spacing(half) * rng.integers(-2, 3, half.shape)
    logits = np.concatenate([half, np.zeros((1000, 1)), (half + digits)[:, ::-1]], 1).astype(np.float32)
    probs = np.exp(logits.astype(np.float64))
    exact = (probs / probs.sum(-1, keepdims=True) * BINS.astype(np.float64)).sum(-1)
    assert 0 < np.abs(exact).max() < 0.02
    np.testing.assert_allclose(twohot_mean(jnp.asarray(logits), BINS), exact, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda x: twohot_mean(x, BINS))(logits), exact, rtol=1e-3, atol=1e-6)
