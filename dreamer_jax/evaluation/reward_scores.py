"""Predicted rewards by horizon, and their sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dreamer_jax.evaluation.agreement import Agreement, agreement, correlation
from dreamer_jax.evaluation.forecast_scores import horizon_means
from dreamer_jax.evaluation.intervals import divide
from dreamer_jax.types import Array

SPANS = (15, 50)
"""Steps over which rewards are summed."""


class RewardScores(NamedTuple):
    """By horizon [H]; correlations are over starts, NaN where either side is always the same."""

    mse: np.ndarray
    nmse: np.ndarray  # by the variance in training; NaN if there is none
    correlation: np.ndarray
    sums: dict[int, Agreement]  # of the rewards of the first steps, by their number


def score_rewards(
    predicted: Array, truth: Array, variance: float, *, valid: np.ndarray | None = None, spans: Sequence[int] = SPANS
) -> RewardScores:
    """Of predictions [N, H] from N starts; past the end of an episode (not ``valid``) there is no reward.

    Spans longer than H are left out. A sum ends with its episode, for the model as well.
    """
    predicted, truth = (np.asarray(x, np.float64) for x in (predicted, truth))
    valid = np.ones(truth.shape, bool) if valid is None else valid
    mse = horizon_means(np.square(predicted - truth), valid)
    sums = {}
    for span in (span for span in spans if span <= truth.shape[1]):
        own, true = (np.where(valid, x, 0)[:, :span].sum(1) for x in (predicted, truth))
        sums[span] = agreement(own, true)
    columns = [correlation(own[at], true[at]) for own, true, at in zip(predicted.T, truth.T, valid.T, strict=True)]
    return RewardScores(mse, divide(mse, np.asarray(variance)), np.array(columns), sums)
