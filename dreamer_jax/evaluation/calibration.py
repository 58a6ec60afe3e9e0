"""Are forecasts by samples as unsure as they should be? Ensembles are [M, N, ...]: M draws of N futures."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dreamer_jax.evaluation.intervals import divide
from dreamer_jax.types import Array

LOW, HIGH = 0.1, 0.9
"""Ends of the central interval whose coverage is measured."""


class Calibration(NamedTuple):
    """Means over the N futures, for each number [...] of one."""

    crps: np.ndarray
    crps_skill: np.ndarray  # 1 - CRPS / CRPS of the climatology
    spread_skill: np.ndarray  # 1 if calibrated, below if too sure
    coverage: np.ndarray  # of the central 80 %: 0.8 if calibrated
    ranks: np.ndarray  # [M + 1, ...] shares: how often so many members were below the truth; flat if calibrated


def calibrate(ensemble: Array, truth: Array, train: Array, *, seed: int = 0) -> Calibration:
    """Of an ensemble [M, N, ..., D] beside what came, [N, ..., D].

    The climatology is an ensemble as large, of rows of ``train`` [K, D] at random.
    """
    rng = np.random.default_rng(seed)
    ensemble, truth, train = (np.asarray(x, np.float64) for x in (ensemble, truth, train))
    climatology = train[rng.integers(len(train), size=ensemble.shape[:-1])]
    ranks = rank_histogram(ensemble, truth, rng)
    own, other = (fair_crps(members, truth).mean(0) for members in (ensemble, climatology))
    return Calibration(
        crps=own,
        crps_skill=1 - divide(own, other),
        spread_skill=spread_skill(ensemble, truth),
        coverage=coverage(ranks),
        ranks=ranks,
    )


def fair_crps(ensemble: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """``mean |x_i - y| - sum |x_i - x_j| / (2 M (M - 1))``, of each number.

    Its mean doesn't depend on M (Ferro 2014, "Fair scores for ensemble forecasts"). The double sum is
    ``2 sum (2 i - M - 1) x_(i)`` of the sorted members.
    """
    members = _members(ensemble)
    weights = 2 * np.arange(1, members + 1) - members - 1
    pairs = np.tensordot(weights, np.sort(ensemble, 0), 1) / (members * (members - 1))
    return np.asarray(np.abs(ensemble - truth).mean(0) - pairs)


def spread_skill(ensemble: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """``sqrt((M + 1) / M * mean variance) / RMSE of the mean``, over the futures.

    Fortin et al. 2014, "Why Should Ensemble Spread Match the RMSE of the Ensemble Mean?".
    """
    error = np.square(ensemble.mean(0) - truth).mean(0)
    return np.sqrt(divide(expected_error(ensemble), error))


def expected_error(ensemble: np.ndarray) -> np.ndarray:
    """The squared error that the ensemble's mean would have if truth were one more member."""
    members = _members(ensemble)
    return np.asarray((members + 1) / members * ensemble.var(0, ddof=1).mean(0))


def rank_histogram(ensemble: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shares [M + 1, ...] of the futures; among equal numbers the truth has any place."""
    below, equal = (ensemble < truth).sum(0), (ensemble == truth).sum(0)
    rank = below + np.floor(rng.random(truth.shape) * (equal + 1)).astype(int)
    return np.stack([(rank == place).mean(0) for place in range(len(ensemble) + 1)])


def coverage(ranks: np.ndarray) -> np.ndarray:
    """How often the truth lies in the central 80 %, of a rank histogram [M + 1, ...].

    Rank r stands for the quantiles from ``r / (M + 1)`` to ``(r + 1) / (M + 1)`` and counts by the part of them that
    is inside: right for any number of members, which an interval between two of them is not.
    """
    edges = np.linspace(0, 1, len(ranks) + 1).clip(LOW, HIGH)
    return np.tensordot(np.diff(edges) * len(ranks), ranks, 1)


def missing_variance(ensemble: Array, truth: Array) -> np.ndarray:
    """What the squared error of the ensemble's mean is above its spread, on validation data; at least 0.

    A decoder without noise of its own leaves it out.
    """
    ensemble, truth = np.asarray(ensemble, np.float64), np.asarray(truth, np.float64)
    return np.maximum(np.square(ensemble.mean(0) - truth).mean(0) - expected_error(ensemble), 0)


def dress(ensemble: Array, variance: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Each member with noise of ``variance`` [...] in addition, as ``missing_variance`` found it."""
    ensemble = np.asarray(ensemble, np.float64)
    return ensemble + np.sqrt(variance) * np.random.default_rng(seed).normal(size=ensemble.shape)


def _members(ensemble: np.ndarray) -> int:
    if len(ensemble) < 2:
        raise ValueError(f"ensemble: got {len(ensemble)} member; spread takes two or more")
    return len(ensemble)
