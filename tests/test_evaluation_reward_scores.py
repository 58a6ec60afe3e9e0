"""Scores of predicted rewards."""

import numpy as np
import pytest

from dreamer_jax.evaluation.reward_scores import score_rewards

TRUTH = np.random.default_rng(0).normal(size=(500, 20)) + 1


def test_rewards_with_noise_and_bias():
    """Errors of variance 1/4 and mean 0.5: MSE 1/2; the correlation is 1 / sqrt(1 + 1/4); sums add up."""
    predicted = TRUTH + 0.5 + 0.5 * np.random.default_rng(1).normal(size=TRUTH.shape)
    found = score_rewards(predicted, TRUTH, variance=2.0)
    np.testing.assert_allclose(found.mse, 0.5, atol=0.12)
    np.testing.assert_allclose(found.nmse, found.mse / 2)
    np.testing.assert_allclose(found.correlation, 0.8**0.5, atol=0.05)
    assert list(found.sums) == [15]  # fifty steps are more than there are
    assert found.sums[15].bias == pytest.approx(7.5, abs=0.3)
    assert found.sums[15].rmse == pytest.approx(np.sqrt(7.5**2 + 15 / 4), rel=0.05)


def test_sums_by_hand():
    found = score_rewards([[1.0, 2, 3], [0, 0, 1]], [[1.0, 1, 1], [0, 2, 5]], 1.0, spans=(2, 3))
    assert (found.sums[2].bias, found.sums[2].rmse) == (-0.5, pytest.approx(np.sqrt((1 + 4) / 2)))
    assert (found.sums[3].bias, found.sums[3].rmse) == (-1.5, pytest.approx(np.sqrt((9 + 36) / 2)))


def test_nothing_is_earned_beyond_the_end():
    valid = np.ones((2, 3), bool)
    valid[1, 1:] = False
    found = score_rewards([[1.0, 2, 3], [5, 9, 9]], [[1.0, 1, 1], [0, np.nan, np.nan]], 1.0, valid=valid, spans=(3,))
    np.testing.assert_allclose(found.mse, [(0 + 25) / 2, 1, 4])
    assert found.sums[3].bias == pytest.approx((3 + 5) / 2)


def test_rewards_that_never_change_have_no_correlation():
    found = score_rewards(TRUTH, np.ones_like(TRUTH), variance=0.0)
    assert np.isnan(found.correlation).all() and np.isnan(found.nmse).all() and np.isfinite(found.mse).all()
