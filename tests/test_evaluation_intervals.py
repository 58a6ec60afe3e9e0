"""Intervals of ratios over episodes."""

import numpy as np

from dreamer_jax.evaluation.intervals import bootstrap_episodes, divide, episode_sums


def mean(total, count):
    return divide(total, count)


def test_sums_of_episodes_in_any_order():
    values = np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0], [8.0, np.inf]])
    np.testing.assert_array_equal(episode_sums(values, np.array([7, 3, 7, 9])), [[2, 20], [5, 50], [8, np.inf]])


def test_two_episodes_by_hand():
    # Means of resamples are 0, 4/3 of the ratio of sums, or 2: the quantiles are the extremes.
    found = bootstrap_episodes(mean, np.array([0.0, 4.0]), np.array([1.0, 2.0]))
    assert found == (4 / 3, 0, 2)


def test_more_rows_of_the_same_episodes_tell_no_more():
    rng = np.random.default_rng(0)
    values = rng.normal(size=20)
    ten = np.repeat(values, 10), np.repeat(np.arange(20), 10)
    one = bootstrap_episodes(mean, values, np.ones(20))
    many = bootstrap_episodes(mean, episode_sums(*ten), episode_sums(np.ones(200), ten[1]))
    np.testing.assert_allclose(one, many)
    # The normal approximation, and what independent rows would seem to tell.
    assert 0.8 < (many.high - many.low) / (2 * 1.96 * values.std() / 20**0.5) < 1.2


def test_an_interval_holds_the_truth_as_often_as_it_says():
    rng, held = np.random.default_rng(1), 0
    for trial in range(200):
        length = rng.integers(5, 15, 40).astype(float)
        total = length * rng.normal(1.0, 1.0, 40)
        found = bootstrap_episodes(mean, total, length, resamples=400, seed=trial)
        held += found.low <= 1 <= found.high
    assert 0.88 <= held / 200 <= 0.99


def test_shapes_are_kept_and_columns_are_their_own():
    sums = np.arange(12.0).reshape(4, 3)
    found = bootstrap_episodes(mean, sums, np.ones((4, 1)), seed=2)
    assert found.value.shape == found.low.shape == (3,)
    alone = bootstrap_episodes(mean, sums[:, 1], np.ones(4), seed=2)
    np.testing.assert_allclose([x[1] for x in found], list(alone))


def test_what_can_not_be_said_is_nan():
    one = bootstrap_episodes(mean, np.array([3.0]), np.array([2.0]))
    assert one.value == 1.5 and np.isnan([one.low, one.high]).all()
    none = bootstrap_episodes(mean, np.zeros(3), np.zeros(3))
    assert np.isnan(none).all()
    # A third of the resamples has nothing to divide by; the others all say 2.
    some = bootstrap_episodes(mean, np.array([2.0, 0.0, 0.0]), np.array([1.0, 0.0, 0.0]))
    assert some == (2, 2, 2)


def test_same_seed_same_interval():
    sums = np.random.default_rng(0).normal(size=30), np.ones(30)
    assert bootstrap_episodes(mean, *sums) == bootstrap_episodes(mean, *sums)
    assert bootstrap_episodes(mean, *sums) != bootstrap_episodes(mean, *sums, seed=1)
