"""Mutual information of numbers for which it is known."""

from functools import partial

import numpy as np
import pytest
from autoregressions import slow as slow_rows
from scipy.special import digamma
from scipy.stats import norm, rankdata

from dreamer_jax.evaluation.information import (
    correlation_bound,
    gaussian_pair,
    gaussianise,
    ksg,
    ksg_ceiling,
    projection_information,
)

EPISODES, LENGTH = 12, 60
EPISODE, STEP = np.divmod(np.arange(EPISODES * LENGTH), LENGTH)
slow = partial(slow_rows, EPISODES, LENGTH)
RHO_8 = -0.5 * np.log(1 - 0.8**2)  # 0.51 nats


@pytest.mark.parametrize("information", [0.0, RHO_8, 2.0])
def test_nearest_neighbours_find_what_is_known_of_gaussians(information):
    rng = np.random.default_rng(0)
    found = np.mean([ksg(*gaussian_pair(information, 2000, rng)) for _ in range(10)])
    assert found == pytest.approx(information, abs=0.02)


def test_nearest_neighbours_by_brute_force():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 40))
    k, inner = 3, []
    for i in range(40):
        dx, dy = np.delete(np.abs(x - x[i]), i), np.delete(np.abs(y - y[i]), i)
        reach = np.sort(np.maximum(dx, dy))[k - 1]
        inner.append(digamma((dx < reach).sum() + 1) + digamma((dy < reach).sum() + 1))
    assert ksg(x, y) == pytest.approx(digamma(k) + digamma(40) - np.mean(inner), abs=1e-12)


def test_no_estimate_is_above_the_ceiling():
    x = np.random.default_rng(0).normal(size=500)
    assert ksg(x, x) == pytest.approx(digamma(500) - digamma(3)) == pytest.approx(ksg_ceiling(500))
    assert ksg(x, -(x**3)) < ksg_ceiling(500) < np.log(500)


def test_ranks_become_normal_quantiles():
    x = np.exp(np.random.default_rng(0).normal(size=101))
    found = gaussianise(x, np.random.default_rng(1))
    np.testing.assert_allclose(found, norm.ppf((rankdata(x) - 0.5) / 101))


def test_equal_numbers_are_put_in_random_order():
    x, rng = np.repeat([3.0, 1.0], 500), np.random.default_rng(0)
    one, two = gaussianise(x, rng), gaussianise(x, rng)
    assert (one[:500] > 0).all() and (one[500:] < 0).all()
    assert np.corrcoef(one[:500], two[:500])[0, 1] < 0.1
    # The order says nothing: what is known of a coin by another that agrees always is ln 2.
    assert ksg(gaussianise(x, rng), gaussianise(-x, rng)) == pytest.approx(np.log(2), abs=0.06)


def test_correlation_bounds_information_from_below():
    x, y = gaussian_pair(RHO_8, 20_000, np.random.default_rng(0))
    assert np.corrcoef(x, y)[0, 1] == pytest.approx(0.8, abs=0.01)
    assert correlation_bound(x, y) == pytest.approx(RHO_8, abs=0.03)
    assert correlation_bound(x, np.abs(x)) < 0.001 < 1 < ksg(x[:2000], np.abs(x[:2000]))  # it sees lines only
    assert correlation_bound(x, x) < 20


def test_of_probes_that_know_all_something_and_nothing():
    truth = slow(3, 0)
    noise = np.random.default_rng(2).normal(size=(len(truth), 2))
    # Of variance 1 and noise of variance 1: -ln(1 - 1/2) / 2 nats.
    said = np.stack([np.exp(truth[:, 0]), truth[:, 1] + noise[:, 0], noise[:, 1]], 1)
    found = projection_information(said, truth, EPISODE, STEP)
    assert found.ceiling == ksg_ceiling(720)
    np.testing.assert_array_equal(found.saturated, [True, False, False])
    assert found.estimate[0] == pytest.approx(found.ceiling) == found.bound[0]
    assert found.value[1] == pytest.approx(np.log(2) / 2, abs=0.1)
    assert found.bound[1] == pytest.approx(np.log(2) / 2, abs=0.1)
    assert abs(found.z[2]) < 2 and found.z[1] > 5 < found.z[0]
    assert not found.recovered[0] and found.recovered[1:].all() and found.stable[1:].all()
    assert found.sum_of_marginals == pytest.approx(sum(found.estimate - found.null_mean))


def test_slow_numbers_seem_related_by_chance_and_the_null_knows():
    """Independent walks of whole episodes are like few draws: shuffled rows would make the chance estimate 0."""
    truth, said = slow(6, 0, keep=0.999), slow(6, 1, keep=0.999)
    found = projection_information(said, truth, EPISODE, STEP)
    shuffled = np.random.default_rng(0).permutation(len(truth))
    naive = [ksg(x, y[shuffled]) for x, y in zip(said.T, truth.T, strict=True)]
    assert np.mean(found.estimate) > 0.4 and abs(np.mean(naive)) < 0.02
    np.testing.assert_allclose(found.null_mean.mean(), found.estimate.mean(), rtol=0.15)
    assert abs(found.z.mean()) < 2


def test_what_the_estimator_can_not_find_is_not_accepted():
    """Six nats of 400 rows are found to be far less, below the ceiling; half of the rows find still less."""
    rng, (episode, step) = np.random.default_rng(0), np.divmod(np.arange(400), 50)
    pair = [x[:, None] for x in gaussian_pair(6.0, 400, rng)]
    found = projection_information(*pair, episode, step)
    assert found.estimate[0] < 5 < 6 and not found.recovered[0] and not found.stable[0]
    assert not found.saturated[0] or found.bound[0] == found.ceiling


def test_at_most_so_many_rows_are_compared():
    episode, step = np.divmod(np.arange(3000), 300)
    x = np.random.default_rng(0).normal(size=(3000, 1))
    assert projection_information(x, x, episode, step).ceiling == ksg_ceiling(2000)


def test_too_few_rows_or_episodes_are_refused():
    x = np.random.default_rng(0).normal(size=(40, 1))
    refused = "rows: got 40, of which {} in a pairing or a half; 4 or more"
    for episode, step, paired in ((0, np.arange(40), 0), (np.arange(40) // 39, np.arange(40) % 39, 2)):
        with pytest.raises(ValueError, match=refused.format(paired)):
            projection_information(x, x, np.broadcast_to(episode, 40), step)


def test_same_seed_same_information():
    truth = slow(1, 0)
    one, again, other = (projection_information(truth, truth, EPISODE, STEP, seed=seed) for seed in (1, 1, 2))
    for left, right in zip(one, again, strict=True):
        np.testing.assert_array_equal(left, right)
    assert one.null_mean != other.null_mean
