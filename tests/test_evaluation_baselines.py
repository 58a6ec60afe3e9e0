"""Forecasts without a world model."""

import numpy as np

from dreamer_jax.evaluation.baselines import (
    fit_autoregression,
    forecast_autoregression,
    forecast_mean,
    forecast_persistence,
)

A, B, C = np.array([[0.9, 0.2], [-0.1, 0.8]]), np.array([[0.5], [-1.0]]), np.array([0.3, 2.0])


def play(seed, length=30, noise=0.0):
    rng = np.random.default_rng(seed)
    x, actions = [rng.normal(size=2)], rng.uniform(-1, 1, (length, 1))
    for action in actions[:-1]:
        x.append(A @ x[-1] + B @ action + C + noise * rng.normal(size=2))
    return np.stack(x), actions


def test_constants():
    train = np.arange(24.0).reshape(4, 2, 3)
    found = forecast_mean(train, 5, 7)
    assert found.shape == (5, 7, 2, 3)
    np.testing.assert_array_equal(found[4, 6], train.mean(0))
    last = forecast_persistence(train, 7)
    assert last.shape == (4, 7, 2, 3)
    np.testing.assert_array_equal(last[:, 6], train)


def test_a_linear_world_is_found_and_rolled_out():
    model = fit_autoregression([play(seed) for seed in range(10)], [play(seed) for seed in range(10, 13)])
    np.testing.assert_allclose(model.weights, np.concatenate([A.T, B.T]), atol=1e-4)
    np.testing.assert_allclose(model.bias, C, atol=1e-3)
    x, actions = (np.stack(each) for each in zip(*(play(seed) for seed in range(20, 24)), strict=True))
    # Action t leads from x_t to x_{t+1}; nothing but the start is seen.
    ahead = forecast_autoregression(model, x[:, 3], actions[:, 3:23])
    np.testing.assert_allclose(ahead, x[:, 4:24], atol=1e-2)


def test_nothing_is_learnt_across_the_end_of_an_episode():
    """Every episode stays where it begins; from one to the next it jumps."""
    still = [(np.full((2, 1), place), np.zeros((1, 1))) for place in np.random.default_rng(0).normal(size=40)]
    model = fit_autoregression(still, still)
    np.testing.assert_allclose(model.weights[0], 1, atol=1e-3)
    ahead = forecast_autoregression(model, still[3][0][:1], np.zeros((1, 9, 1)))
    np.testing.assert_allclose(ahead[0], np.broadcast_to(still[3][0][0], (9, 1)), atol=1e-2)


def test_actions_may_have_one_more_row_or_not():
    episodes = [play(seed, noise=0.1) for seed in range(6)]
    shorter = [(x, actions[:-1]) for x, actions in episodes]
    one, other = (fit_autoregression(each[:4], each[4:]) for each in (episodes, shorter))
    np.testing.assert_array_equal(one.weights, other.weights)
