"""What can be read from features: probes, R2 on episodes they have not seen, and what chance and time alone give."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dreamer_jax.analysis.statistics import Interval
from dreamer_jax.evaluation.episodes import Records, Split
from dreamer_jax.evaluation.intervals import Intervals, bootstrap_episodes, divide, episode_sums
from dreamer_jax.evaluation.ridge import VARIANCE_FLOOR, fit_linear
from dreamer_jax.types import Array


class Probe(NamedTuple):
    """A fitted probe."""

    predict: Callable[[Array], np.ndarray]  # features [N, F] to the predictions [M, N, D] of its members
    mean: np.ndarray  # [D], of the targets in training
    chosen: dict[str, float]  # what validation chose: ``alpha``, ``epochs``


Fit = Callable[[Records, Records], Probe]
"""From the rows of training and of validation."""


class Score(NamedTuple):
    """R2 of each target on unseen episodes, with 95 % intervals for others; NaN where nothing varies."""

    each: Intervals  # [D]
    mean: Interval
    excluded: tuple[int, ...]  # targets that don't vary

    @property
    def median(self) -> float:
        return float(np.median(self._scored))

    @property
    def least(self) -> float:
        return float(np.min(self._scored))

    @property
    def _scored(self) -> np.ndarray:
        return np.delete(self.each.value, self.excluded)


class Probed(NamedTuple):
    """A probe, its score and the control's: the same fit to targets of another episode at the same step.

    That one knows the features' capacity and what time alone says.
    """

    probe: Probe
    score: Score
    control: Score

    @property
    def selectivity(self) -> float:
        """Hewitt and Liang 2019, "Designing and Interpreting Probes with Control Tasks", section 2."""
        return self.score.mean.value - self.control.mean.value


def fit_ridge(train: Records, validation: Records) -> Probe:
    """A linear probe."""
    linear = fit_linear(train.features, train.targets, validation.features, validation.targets)
    return Probe(lambda features: linear(features)[None], np.mean(train.targets, 0), {"alpha": linear.alpha})


def probe_features(records: Records, split: Split, fit: Fit = fit_ridge, *, seed: int = 0) -> Probed:
    """Fit on the episodes of training, choose on those of validation, score on those of the test; then the control.

    Raises:
      ValueError: features or targets are not all finite.
    """
    for name in ("features", "targets"):
        if not np.isfinite(getattr(records, name)).all():
            raise ValueError(f"{name}: not all finite")
    rng = np.random.default_rng(seed)
    parts = [records.of(episodes) for episodes in split]
    found = []
    for train, validation, test in (parts, [part.exchanged(rng) for part in parts]):
        probe = fit(train, validation)
        found.append((probe, score(probe, test, seed=seed)))
    (probe, own), (_, control) = found
    return Probed(probe, own, control)


def score(probe: Probe, test: Records, *, seed: int = 0, resamples: int = 2000) -> Score:
    """``1 - SSE / SST`` with SST about the mean in training, SSE the mean over the members.

    ``test`` may have other features than those of the fit, such as imagined ones.
    """
    targets = np.asarray(test.targets, np.float64)
    varies = targets.var(0) >= VARIANCE_FLOOR
    if not varies.any():
        raise ValueError("targets: none of them varies")
    error = np.square(probe.predict(test.features) - targets).mean(0)
    sums = [episode_sums(x, test.episode) for x in (error, np.square(targets - probe.mean))]

    def r2(error: np.ndarray, total: np.ndarray) -> np.ndarray:
        return np.where(varies, 1 - divide(error, total), np.nan)

    def mean(error: np.ndarray, total: np.ndarray) -> np.ndarray:
        return np.mean(r2(error, total)[..., varies], -1)

    each, overall = (bootstrap_episodes(ratio, *sums, seed=seed, resamples=resamples) for ratio in (r2, mean))
    return Score(each, Interval(*map(float, overall)), tuple(map(int, np.flatnonzero(~varies))))
