"""Open-loop forecasts by horizon: errors, and skill against forecasts without a world model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from dreamer_jax.evaluation.intervals import Intervals, bootstrap_episodes, divide, episode_sums
from dreamer_jax.evaluation.ridge import VARIANCE_FLOOR
from dreamer_jax.types import Array

TRIVIAL = ("mean", "persistence")
"""Of these two a forecast must beat the better one, which changes with the horizon."""


class Forecast(NamedTuple):
    """What was predicted from N starts and what came; index 0 is one step ahead."""

    samples: Array  # [S, N, H, D], S draws of the future; what has no chance has S = 1
    truth: Array  # [N, H, D]
    baselines: Mapping[str, Array]  # {name: [N, H, D]}, ``mean`` and ``persistence`` among them
    episode: np.ndarray  # [N], of each start
    valid: np.ndarray | None = None  # [N, H] bool: before the end of the episode; all without it


class ForecastScores(NamedTuple):
    """By horizon [H]. Errors are means over starts, normalised ones also over dimensions that vary."""

    mse: np.ndarray  # [H, D], of the mean of the samples
    nmse: np.ndarray  # of the mean of the samples, by the variances in training
    sample_nmse: np.ndarray  # of single samples: higher where they differ
    baseline_nmse: dict[str, np.ndarray]
    skill: Intervals  # against the better of mean and persistence
    skill_against: dict[str, Intervals]  # each baseline by itself

    @property
    def furthest(self) -> int:
        """The largest horizon at which skill is above 0 for sure (lower end of the 95 % interval); 0 for none."""
        return furthest_skilled(self.skill)

    @property
    def area(self) -> float:
        """Normalised error, mean over the horizons."""
        return float(self.nmse.mean())


def score_forecast(forecast: Forecast, variance: Array, *, seed: int = 0) -> ForecastScores:
    """``NMSE_h``: squared errors over ``variance`` [D] in training, so that no unit counts more than another.

    Dimensions with hardly any variance in training are left out, but for ``mse``.
    """
    samples, truth = (np.asarray(x, np.float64) for x in (forecast.samples, forecast.truth))
    given = {name: np.asarray(x, np.float64) for name, x in forecast.baselines.items()}
    valid = np.ones(truth.shape[:2], bool) if forecast.valid is None else forecast.valid
    square = np.square(samples.mean(0) - truth)
    error = normalise(square, variance)
    single = np.mean([normalise(np.square(sample - truth), variance) for sample in samples], 0)
    others = {name: normalise(np.square(x - truth), variance) for name, x in given.items()}
    trivial = [others[name] for name in TRIVIAL]
    return ForecastScores(
        mse=horizon_means(square, valid),
        nmse=horizon_means(error, valid),
        sample_nmse=horizon_means(single, valid),
        baseline_nmse={name: horizon_means(x, valid) for name, x in others.items()},
        skill=skill(error, *trivial, episode=forecast.episode, valid=valid, seed=seed),
        skill_against={
            name: skill(error, x, episode=forecast.episode, valid=valid, seed=seed) for name, x in others.items()
        },
    )


def skill(
    error: Array, *baselines: Array, episode: np.ndarray, valid: np.ndarray | None = None, seed: int = 0
) -> Intervals:
    """``1 - MSE / min(MSE of the baselines)`` [H] of squared errors [N, H], with intervals over episodes.

    The minimum is of means, not of single errors, and is taken again in every resample.
    """
    every = [np.asarray(x, np.float64) for x in (error, *baselines)]
    if valid is not None:
        every = [np.where(valid, x, 0) for x in every]

    def ratio(own: np.ndarray, *others: np.ndarray) -> np.ndarray:
        return 1 - divide(own, np.minimum.reduce(others))

    return bootstrap_episodes(ratio, *(episode_sums(x, episode) for x in every), seed=seed)


def normalise(square: np.ndarray, variance: Array) -> np.ndarray:
    """Squares [..., D] over variances in training, mean of those dimensions that vary."""
    variance = np.asarray(variance, np.float64)
    varies = variance >= VARIANCE_FLOOR
    if not varies.any():
        raise ValueError("variance: no dimension varies")
    return np.asarray((square[..., varies] / variance[varies]).mean(-1))


def furthest_skilled(skill: Intervals) -> int:
    """Steps ahead."""
    return int(np.max(np.flatnonzero(skill.low > 0) + 1, initial=0))


def horizon_means(errors: Array, valid: np.ndarray) -> np.ndarray:
    """Means [H, ...] over the starts [N, H, ...] whose episodes last so long; NaN without any."""
    errors = np.asarray(errors, np.float64)
    mask = valid.reshape(*valid.shape, *(1,) * (errors.ndim - 2))
    return divide(np.where(mask, errors, 0).sum(0), mask.sum(0))
