import json

import numpy as np
import pytest

from dreamer_jax.analysis.statistics import STATISTICS, bootstrap, describe, iqm, summary
from dreamer_jax.terminal import render


def test_iqm_by_hand():
    assert iqm([1, 2, 3, 4]) == 2.5
    assert iqm([100, 0, 5, 7, -50, 6, 8, 9]) == pytest.approx((5 + 6 + 7 + 8) / 4)
    assert iqm([1, 2, 9]) == 4  # a quarter of three is no whole score, so nothing is cut
    assert iqm([3]) == 3
    np.testing.assert_allclose(iqm([[1, 2, 3, 40], [5, 5, 5, 5]]), [2.5, 5])


def test_iqm_is_scipys_trimmed_mean():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for size in range(1, 40):
        scores = rng.normal(size=size)
        assert iqm(scores) == pytest.approx(stats.trim_mean(scores, 0.25))


def test_interval_of_two_scores_by_hand():
    # The mean of a resample is 0, 5, 5 or 10, a quarter each: the quantiles are the extremes.
    assert bootstrap([0.0, 10.0], np.mean) == (5.0, 0.0, 10.0)
    assert bootstrap([7.0, 7.0, 7.0], np.median) == (7.0, 7.0, 7.0)


@pytest.mark.parametrize("name", STATISTICS)
def test_interval_holds_the_truth_as_often_as_it_says(name):
    rng = np.random.default_rng(1)
    held = 0
    for trial in range(200):
        _, low, high = bootstrap(rng.normal(size=50), STATISTICS[name], resamples=500, seed=trial)
        held += low <= 0 <= high
    assert 0.88 <= held / 200 <= 0.99


def test_interval_of_the_mean_has_the_normal_width():
    scores = np.random.default_rng(2).normal(size=400)
    _, low, high = bootstrap(scores, np.mean, resamples=4000)
    assert high - low == pytest.approx(2 * 1.96 * scores.std() / 20, rel=0.06)


def test_groups_are_resampled_each_in_itself():
    # All the spread is between the groups: drawn apart they can't vary, drawn together they do.
    groups = [[0.0, 0.0, 0.0], [10.0, 10.0, 10.0]]
    assert bootstrap(groups, np.mean) == (5.0, 5.0, 5.0)
    pooled = bootstrap([0.0, 0.0, 0.0, 10.0, 10.0, 10.0], np.mean)
    assert pooled.low < 5 < pooled.high
    uneven = bootstrap([[0.0, 0.0], [10.0]], np.mean)
    assert uneven.value == pytest.approx(10 / 3)


def test_same_seed_same_interval():
    scores = np.random.default_rng(3).normal(size=30)
    assert bootstrap(scores) == bootstrap(scores)
    assert bootstrap(scores) != bootstrap(scores, seed=1)


def test_summary_is_json_and_prints():
    result = summary([[1.0, 2.0, 3.0], [4.0, 5.0, 9.0]])
    assert json.loads(json.dumps(result)) == result
    assert (result["n"], result["groups"], result["min"], result["max"]) == (6, 2, 1.0, 9.0)
    assert (result["mean"], result["median"], result["iqm"]) == (4.0, 3.5, 3.5)
    assert result["std"] == pytest.approx(np.sqrt((9 + 4 + 1 + 0 + 1 + 25) / 5))
    assert result["mean_ci95"][0] < 4 < result["mean_ci95"][1]
    low, high = result["iqm_ci95"]
    lines = render(describe(result)).splitlines()
    assert lines[0] == "scores: 6 in 2 groups, from 1.0 to 9.0"
    assert lines[1:3] == ["statistic  score  95 % interval", f"IQM          3.5  {f'{low:.1f} to {high:.1f}':>13}"]


def test_one_score_has_no_interval():
    result = summary([12.0])
    assert (result["mean"], result["mean_ci95"], result["std"]) == (12.0, None, None)
    assert render(describe(result)).splitlines()[3] == "mean        12.0  none of one score"


@pytest.mark.parametrize("scores", [[], [[]], [[1.0], []], [1.0, float("nan")]])
def test_unusable_scores_are_refused(scores):
    with pytest.raises(ValueError, match="statistics"):
        summary(scores)
