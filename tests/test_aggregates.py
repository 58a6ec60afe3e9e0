"""Aggregates over tasks and seeds: by hand, and as rliable has them where that is installed."""

import numpy as np
import pytest

from dreamer_jax.analysis.aggregates import aggregate, optimality_gap, performance_profile, probability_of_improvement

TASKS = [np.array([0.0, 0.4]), np.array([0.5, 1.5]), np.array([1.0, 1.2])]


def test_by_hand():
    found = aggregate(TASKS)
    assert found["mean"].value == pytest.approx((0.2 + 1.0 + 1.1) / 3)
    assert found["median"].value == pytest.approx(1.0)
    assert found["iqm"].value == pytest.approx((0.4 + 0.5 + 1.0 + 1.2) / 4)  # one of six at each end is left out
    assert found["optimality_gap"].value == pytest.approx((1.0 + 0.6 + 0.5) / 6)
    assert all(low <= value <= high for value, low, high in found.values())


def test_seeds_are_drawn_within_their_task():
    # Whatever is drawn, each task has its own two equal scores: nothing can vary.
    assert aggregate([np.array([0.0, 0.0]), np.array([1.0, 1.0])])["mean"] == (0.5, 0.5, 0.5)
    # Of two scores a mean is 0, 1/2, 1/2 or 1: of both tasks together it has its extremes once in sixteen.
    assert aggregate([np.array([0.0, 1.0])] * 2)["mean"] == (0.5, 0.0, 1.0)


def test_one_seed_of_each_task_has_no_interval():
    value, low, high = aggregate([np.array([0.3]), np.array([0.5])])["mean"]
    assert value == pytest.approx(0.4) and np.isnan([low, high]).all()
    profile = performance_profile([np.array([0.3])], np.array([0.2, 0.4]))
    assert profile.share.tolist() == [1, 0] and np.isnan(profile.low).all()


def test_tasks_weigh_the_same_however_many_seeds_they_have():
    assert aggregate([np.array([1.0]), np.zeros(9)])["mean"].value == 0.5


def test_what_is_above_1_does_not_close_the_gap():
    assert optimality_gap(np.array([3.0, 0.5])) == 0.25


def test_profile_by_hand():
    profile = performance_profile(TASKS, np.array([-1.0, 0.0, 0.45, 1.0, 2.0]))
    np.testing.assert_allclose(profile.share, [1, 5 / 6, 4 / 6, 2 / 6, 0])  # above, not at
    assert (profile.low <= profile.share).all() and (profile.share <= profile.high).all()


def test_probability_of_improvement_by_hand():
    better = probability_of_improvement([np.array([1.0, 3.0])], [np.array([2.0, 3.0])])
    assert better.value == (0 + 0 + 1 + 0.5) / 4
    assert probability_of_improvement(TASKS, TASKS).value == 0.5
    assert probability_of_improvement([np.array([1.0])], [np.array([0.0])])[0] == 1


def test_nothing_to_aggregate():
    with pytest.raises(ValueError, match="at least one score"):
        aggregate([np.array([1.0]), np.array([])])


def test_as_rliable_has_them():
    metrics = pytest.importorskip("rliable.metrics")
    library = pytest.importorskip("rliable.library")
    scores = np.random.default_rng(0).uniform(0, 2, (5, 26))  # runs, tasks
    other = np.random.default_rng(1).uniform(0, 2, (7, 26))
    ours, theirs = list(scores.T), list(other.T)
    found = aggregate(ours, resamples=20_000)
    assert found["iqm"].value == pytest.approx(metrics.aggregate_iqm(scores))
    assert found["mean"].value == pytest.approx(metrics.aggregate_mean(scores))
    assert found["median"].value == pytest.approx(metrics.aggregate_median(scores))
    assert found["optimality_gap"].value == pytest.approx(metrics.aggregate_optimality_gap(scores))
    better = probability_of_improvement(ours, theirs).value
    assert better == pytest.approx(metrics.probability_of_improvement(scores, other))
    thresholds = np.linspace(0, 2, 11)
    profiles, _ = library.create_performance_profile({"us": scores}, thresholds, reps=10)
    np.testing.assert_allclose(performance_profile(ours, thresholds).share, profiles["us"])
    _, intervals = library.get_interval_estimates(
        {"us": scores},
        lambda x: np.array([metrics.aggregate_iqm(x)]),
        reps=5_000,
        random_state=np.random.RandomState(0),
    )
    np.testing.assert_allclose(found["iqm"][1:], intervals["us"][:, 0], atol=0.01)
