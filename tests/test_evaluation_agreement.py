"""What was promised beside what came."""

import numpy as np
import pytest
from scipy import stats

from dreamer_jax.evaluation.agreement import agreement, counterfactual_r2, spearman

STATES, H, D = 100, 5, 2


def test_by_hand():
    found = agreement([2.0, 4, 6, 8], [1.0, 2, 3, 10])
    assert found.bias == 1.0  # errors 1, 2, 3, -2
    assert found.rmse == pytest.approx(np.sqrt(18 / 4))
    assert found.explained_variance == pytest.approx(1 - (18 / 4 - 1) / 12.5)
    assert found.spearman == pytest.approx(1) and found.correlation < 1


def test_a_constant_bias_is_seen_by_no_other_number():
    realised = np.random.default_rng(0).normal(size=50)
    found = agreement(realised + 3, realised)
    assert found == pytest.approx((3, 3, 1, 1, 1))


def test_order_is_scipys():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, (2, 30)) + 0.5  # with equal ones
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert spearman(np.exp(x), -x) == pytest.approx(-1)
    assert agreement(x, y).correlation == pytest.approx(stats.pearsonr(x, y).statistic)


@pytest.mark.filterwarnings("error")
def test_what_never_differs_has_no_order():
    found = agreement([1.0, 2, 3], [5.0, 5, 5])
    assert np.isnan(found[2:]).all() and found.bias == -3
    assert np.isnan(agreement([5.0, 5, 5], [1.0, 2, 3]).spearman)
    assert agreement([5.0, 5, 5], [1.0, 2, 3]).explained_variance == 0


def test_effects_of_actions():
    """A model with the true effects has 1, one that ignores actions 0, twice too much 0 again, the opposite -3."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, STATES, H, D)) * [1, 50]
    common, wrong = rng.normal(size=(STATES, H, D)) * [1, 50], 1000.0
    for factor, expected in ((1, 1), (0, 0), (2, 0), (-1, -3)):
        # What both have in common, right or wrong, doesn't matter.
        model = common + factor * one + wrong, common + factor * other + wrong
        found = counterfactual_r2(model, (one, other), [1, 2500])
        np.testing.assert_allclose(found.value, expected, atol=1e-9)
        np.testing.assert_allclose(found.low, expected, atol=1e-9)


def test_effects_in_any_unit_count_alike():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, STATES, H, D)) * [1, 50]
    blind = one * [1, 0], other * [1, 0]  # of the larger one nothing is known
    found = counterfactual_r2(blind, (one, other), [1, 2500])
    np.testing.assert_allclose(found.value, 0.5, atol=0.1)
    assert (found.low < found.value).all() and (found.value < found.high).all()
    clustered = counterfactual_r2(blind, (one, other), [1, 2500], start=np.zeros(STATES))
    assert np.isnan(clustered.low).all()  # one episode says nothing of others
