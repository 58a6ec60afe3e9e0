"""Scores of forecasts in cases that can be worked out."""

import numpy as np
import pytest

from dreamer_jax.evaluation.baselines import forecast_mean, forecast_persistence
from dreamer_jax.evaluation.forecast_scores import Forecast, furthest_skilled, score_forecast, skill
from dreamer_jax.evaluation.intervals import Intervals

N, H, D, S = 1200, 6, 3, 8
EPISODE = np.arange(N) // 40
SCALE = np.array([1.0, 100.0, 0.01])


def walk(keep, seed=0):
    """Stationary autoregressions from N starts, of deviation ``SCALE``: the last seen [N, D], what comes [N, H, D]."""
    rng = np.random.default_rng(seed)
    x = [rng.normal(size=(N, D))]
    for _ in range(H):
        x.append(keep * x[-1] + np.sqrt(1 - keep**2) * rng.normal(size=(N, D)))
    x = np.stack(x, 1) * SCALE
    return x[:, 0], x[:, 1:]


def forecast(samples, truth, last, **more):
    trivial = {"mean": forecast_mean(np.zeros((1, D)), N, H), "persistence": forecast_persistence(last, H)}
    return Forecast(samples, truth, trivial | more.pop("baselines", {}), EPISODE, **more)


def test_limits_of_the_baselines():
    """Of white noise: 1 for the mean, 2 for what was seen last. In between it is 2 (1 - keep^h)."""
    for keep in (0.0, 0.8):
        last, truth = walk(keep)
        found = score_forecast(forecast(truth[None], truth, last), SCALE**2).baseline_nmse
        np.testing.assert_allclose(found["mean"], 1, atol=0.06)
        np.testing.assert_allclose(found["persistence"], 2 * (1 - keep ** np.arange(1, H + 1)), atol=0.12)


def test_the_truth_has_full_skill():
    last, truth = walk(0.8)
    found = score_forecast(forecast(truth[None], truth, last), SCALE**2)
    assert not found.nmse.any() and not found.mse.any() and found.area == 0
    np.testing.assert_array_equal(found.skill, np.ones((3, H)))
    assert found.furthest == H


def test_skill_is_against_the_better_baseline_at_each_horizon():
    """Best possible forecasts of an autoregression err by 1 - keep^2h; the baselines cross where keep^h is a half."""
    keep, h = 0.8, np.arange(1, H + 1)
    last, truth = walk(keep)
    best = last[:, None] * keep ** h[:, None]
    found = score_forecast(forecast(best[None], truth, last), SCALE**2)
    error, better = 1 - keep ** (2 * h), np.minimum(1, 2 * (1 - keep**h))
    assert better[2] < 1 == better[3]
    np.testing.assert_allclose(found.nmse, error, atol=0.06)
    np.testing.assert_allclose(found.skill.value, 1 - error / better, atol=0.05)
    np.testing.assert_allclose(found.skill_against["mean"].value, 1 - error, atol=0.06)
    np.testing.assert_allclose(found.skill_against["persistence"].value, 1 - error / (2 * (1 - keep**h)), atol=0.05)
    assert found.area == pytest.approx(found.nmse.mean())
    assert (found.skill.low < found.skill.value).all() and (found.skill.value < found.skill.high).all()


def test_the_minimum_is_of_the_means_and_not_of_single_errors():
    error, one, other = np.ones((4, 1)), np.array([[1.0], [3], [1], [3]]), np.array([[4.0], [2], [4], [2]])
    assert skill(error, one, other, episode=np.arange(4)).value == pytest.approx(1 - 1 / 2)


def test_single_samples_err_by_their_spread_in_addition():
    """Independent samples of white noise: 1 + 1/S for their mean, 2 for one."""
    last, truth = walk(0.0)
    samples = np.random.default_rng(5).normal(size=(S, N, H, D)) * SCALE
    found = score_forecast(forecast(samples, truth, last), SCALE**2)
    np.testing.assert_allclose(found.nmse, 1 + 1 / S, atol=0.07)
    np.testing.assert_allclose(found.sample_nmse, 2, atol=0.1)
    np.testing.assert_allclose(found.mse / SCALE**2, 1 + 1 / S, atol=0.12)
    assert found.furthest == 0 and (found.skill.value < 0).all()


def test_other_baselines_are_compared_by_themselves():
    last, truth = walk(0.8)
    found = score_forecast(forecast(truth[None] / 2, truth, last, baselines={"linear": truth / 4}), SCALE**2)
    np.testing.assert_allclose(found.skill_against["linear"].value, 1 - 0.5**2 / 0.75**2)
    np.testing.assert_allclose(found.skill.value[-1], 1 - 0.5**2)  # where the mean is the better of the trivial ones


def test_dimensions_that_never_vary_in_training_are_left_out():
    last, truth = walk(0.5)
    truth[..., 1] = 7
    found = score_forecast(forecast(truth[None] + [0.0, 1.0, 0.0], truth, last), [1.0, 1e-7, 1e-4])
    assert not found.nmse.any()
    np.testing.assert_array_equal(found.mse, np.broadcast_to([0.0, 1.0, 0.0], (H, D)))
    with pytest.raises(ValueError, match="no dimension varies"):
        score_forecast(forecast(truth[None], truth, last), [0, 0, 1e-9])


def test_what_lies_beyond_the_end_of_an_episode_does_not_count():
    last, truth = walk(0.5)
    valid = np.ones((N, H), bool)
    valid[::2, 4:], valid[:, 5] = False, False
    samples = 0.9 * truth[None]
    clean = score_forecast(forecast(samples, truth, last, valid=valid), SCALE**2)
    samples[:, ~valid], truth[~valid] = 1e6, np.nan
    found = score_forecast(forecast(samples, truth, last, valid=valid), SCALE**2)
    np.testing.assert_array_equal(found.nmse, clean.nmse)
    np.testing.assert_array_equal(found.skill, clean.skill)
    assert np.isnan(found.nmse[5]) and np.isnan(found.skill.value[5]) and not np.isnan(found.nmse[:5]).any()
    at = valid[:, 4]
    assert found.nmse[4] == pytest.approx(np.square(0.1 * truth[at, 4] / SCALE).mean())


def test_a_forecast_that_diverges_is_not_hidden():
    last, truth = walk(0.5)
    samples = truth[None].copy()
    samples[0, 3, 2:, 0] = np.nan
    found = score_forecast(forecast(samples, truth, last), SCALE**2)
    np.testing.assert_array_equal(np.isnan(found.nmse), [False, False, True, True, True, True])
    assert found.furthest == 2


def test_the_furthest_horizon_with_skill():
    low = np.array([0.5, 0.1, -0.1, 0.2, 0.0])
    assert furthest_skilled(Intervals(low + 1, low, low + 2)) == 4
    assert furthest_skilled(Intervals(low + 1, low - 1, low + 2)) == 0


def test_starts_of_one_episode_are_no_independent_draws():
    rng = np.random.default_rng(0)
    error = np.repeat(rng.uniform(0, 1, (30, 1)), 40, 0)
    whole, apart = (skill(error, np.ones((N, 1)), episode=each) for each in (EPISODE, np.arange(N)))
    assert whole.value == apart.value
    ratio = (whole.high - whole.low) / (apart.high - apart.low)
    assert ratio == pytest.approx(40**0.5, rel=0.15)
