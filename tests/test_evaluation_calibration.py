"""Ensembles whose calibration is known."""

import numpy as np
import pytest
from scipy.stats import norm

from dreamer_jax.evaluation.calibration import (
    calibrate,
    coverage,
    dress,
    fair_crps,
    missing_variance,
    rank_histogram,
    spread_skill,
)

N, D, SIGMA = 20_000, 2, np.array([1.0, 30.0])


def drawn(members, *, known=0.0, width=1.0, seed=0):
    """An ensemble and the truth, a ``known`` signal in noise; that of the ensemble is ``width`` times as wide."""
    rng = np.random.default_rng(seed)
    signal = known * rng.normal(size=(N, D)) * SIGMA
    ensemble = signal + width * rng.normal(size=(members, N, D)) * SIGMA
    return ensemble, signal + rng.normal(size=(N, D)) * SIGMA


@pytest.mark.parametrize("members", [2, 16])
def test_a_perfect_ensemble_of_any_size(members):
    """Its fair CRPS is sigma / sqrt(pi), its spread its error, and every rank alike."""
    ensemble, truth = drawn(members)
    found = calibrate(ensemble, truth, truth)
    np.testing.assert_allclose(found.crps, SIGMA / np.sqrt(np.pi), rtol=0.02)
    np.testing.assert_allclose(found.spread_skill, 1, atol=0.02)
    np.testing.assert_allclose(found.coverage, 0.8, atol=0.01)
    np.testing.assert_allclose(found.ranks, 1 / (members + 1), atol=0.008)
    np.testing.assert_allclose(found.ranks.sum(0), 1)
    np.testing.assert_allclose(found.crps_skill, 0, atol=0.02)  # it knows no more than the climatology


def test_fair_crps_by_its_definition():
    rng = np.random.default_rng(0)
    ensemble, truth = rng.normal(size=(5, 7)), rng.normal(size=7)
    pairs = np.abs(ensemble[:, None] - ensemble[None]).sum((0, 1)) / (2 * 5 * 4)
    np.testing.assert_allclose(fair_crps(ensemble, truth), np.abs(ensemble - truth).mean(0) - pairs)
    assert fair_crps(np.array([[0.0], [2.0]]), np.array([1.0]))[0] == 0  # 1 - 4 / 4


def test_crps_of_many_members_is_that_of_the_normal_distribution():
    """Gneiting and Raftery 2007, eq. 21: of N(0, 1) at y it is y (2 Phi(y) - 1) + 2 phi(y) - 1 / sqrt(pi)."""
    ensemble = np.random.default_rng(0).normal(size=(200_000, 1))
    for y in (0.0, 0.7, -2.0):
        expected = y * (2 * norm.cdf(y) - 1) + 2 * norm.pdf(y) - 1 / np.sqrt(np.pi)
        assert fair_crps(ensemble, np.array([y]))[0] == pytest.approx(expected, abs=0.005)


def test_skill_of_knowing_the_signal():
    """The climatology is as wide as signal and noise: 1 - 1 / sqrt(1 + 2^2)."""
    ensemble, truth = drawn(16, known=2.0)
    train = drawn(16, known=2.0, seed=1)[1]
    np.testing.assert_allclose(calibrate(ensemble, truth, train).crps_skill, 1 - 1 / 5**0.5, atol=0.02)


def test_an_ensemble_that_is_too_sure():
    """Half as wide, of 16 members: spread 1/4 (17/16) against error 1 + 1/64."""
    found = calibrate(*drawn(16, width=0.5), np.zeros((5, D)))
    np.testing.assert_allclose(found.spread_skill, np.sqrt(0.25 * 17 / 16 / (1 + 1 / 64)), rtol=0.02)
    assert (found.coverage < 0.55).all() and (found.ranks[[0, -1]] > 0.15).all()
    # Of very many members the central interval is that of N(0, 1/4) under N(0, 1).
    ensemble, truth = drawn(199, width=0.5)
    expected = 2 * norm.cdf(0.5 * norm.ppf(0.9)) - 1
    small = rank_histogram(ensemble[:, :4000], truth[:4000], np.random.default_rng(0))
    np.testing.assert_allclose(coverage(small), expected, atol=0.03)


def test_a_biased_ensemble_errs_by_its_bias_as_well():
    ensemble, truth = drawn(16)
    expected = np.sqrt(17 / 16 / (17 / 16 + 4))
    np.testing.assert_allclose(spread_skill(ensemble + 2 * SIGMA, truth), expected, rtol=0.02)
    assert (rank_histogram(ensemble + 2 * SIGMA, truth, np.random.default_rng(0))[0] > 0.5).all()


def test_coverage_of_ranks_by_hand():
    """Of four members ranks stand for fifths: the first and the last are inside by half."""
    np.testing.assert_allclose(coverage(np.eye(5)), [0.5, 1, 1, 1, 0.5])


def test_equal_numbers_give_any_rank():
    ensemble, truth = np.zeros((4, 50_000)), np.zeros(50_000)
    ranks = rank_histogram(ensemble, truth, np.random.default_rng(0))
    np.testing.assert_allclose(ranks, 0.2, atol=0.01)
    ensemble[0], ensemble[3] = -1, 1
    np.testing.assert_allclose(
        rank_histogram(ensemble, truth, np.random.default_rng(0)), [0, 1 / 3, 1 / 3, 1 / 3, 0], atol=0.01
    )


def test_dressing_adds_what_is_missing():
    """A decoder without noise: members differ by the latents alone."""
    validation, test = (drawn(16, width=0.3, seed=seed) for seed in (0, 1))
    variance = missing_variance(*validation)
    np.testing.assert_allclose(variance, (1 - 0.09) * SIGMA**2, rtol=0.03)  # 1 + .09 / 16 - 17/16 * .09
    dressed = dress(test[0], variance)
    np.testing.assert_allclose(spread_skill(dressed, test[1]), 1, atol=0.02)
    np.testing.assert_allclose(dressed.mean(), test[0].mean(), atol=0.05)
    np.testing.assert_array_equal(missing_variance(*drawn(16, width=2.0)), 0)  # nothing is taken away


def test_ensembles_may_have_more_axes():
    ensemble, truth = drawn(16)
    shape = N // 50, 50, D
    found = calibrate(ensemble.reshape(16, *shape), truth.reshape(shape), truth)
    assert found.crps.shape == found.crps_skill.shape == found.coverage.shape == (50, D)
    assert found.ranks.shape == (17, 50, D)
    np.testing.assert_allclose(found.crps.mean(0), calibrate(ensemble, truth, truth).crps)


def test_one_member_has_no_spread():
    for function in (fair_crps, spread_skill, missing_variance):
        with pytest.raises(ValueError, match="got 1 member"):
            function(np.zeros((1, 3)), np.zeros(3))


def test_same_seed_same_numbers():
    ensemble, truth = drawn(4)
    one, again, other = (calibrate(ensemble[:, :50], truth[:50], truth, seed=seed) for seed in (0, 0, 1))
    assert all(map(np.array_equal, one, again)) and not np.array_equal(one.crps_skill, other.crps_skill)
