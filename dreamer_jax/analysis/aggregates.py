"""One number of many tasks and seeds, with intervals (Agarwal et al. 2021, arXiv 2108.13264).

Scores are normalised and come as one array of seeds for each task. Intervals are percentile bootstraps that draw seeds
anew within each task (stratified): they speak of other seeds on these tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dreamer_jax.analysis.statistics import Interval, iqm

Tasks = Sequence[np.ndarray]
"""Normalised scores [seeds] of each task."""


class Profile(NamedTuple):
    """Share of runs [K] with a score above each threshold, and its interval."""

    thresholds: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray


def optimality_gap(scores: np.ndarray, axis: int = -1) -> np.ndarray:
    """How much is missing to 1 on average; what is above 1 does not make up for it (section 4.3)."""
    return np.maximum(1 - scores, 0).mean(axis)


def aggregate(tasks: Tasks, *, resamples: int = 2000, seed: int = 0) -> dict[str, Interval]:
    """IQM and optimality gap over all runs, mean and median over the tasks' means; NaN ends where nothing can vary."""

    def values(groups: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        runs, means = np.concatenate(groups, -1), np.stack([group.mean(-1) for group in groups], -1)
        return {
            "iqm": iqm(runs),
            "median": np.median(means, -1),
            "mean": means.mean(-1),
            "optimality_gap": optimality_gap(runs),
        }

    drawn, found = _draw(tasks, resamples, seed), values([task[None] for task in tasks])
    again = {} if drawn is None else values(drawn)
    return {name: _interval(value, again.get(name)) for name, value in found.items()}


def performance_profile(tasks: Tasks, thresholds: np.ndarray, *, resamples: int = 2000, seed: int = 0) -> Profile:
    """Of all runs, how many are above each threshold (section 4.2, score distributions)."""

    def share(groups: Sequence[np.ndarray]) -> np.ndarray:
        scores = np.concatenate(groups, -1)
        return np.stack([(scores > threshold).mean(-1) for threshold in thresholds], -1)

    drawn, value = _draw(tasks, resamples, seed), share([task[None] for task in tasks])[0]
    if drawn is None:
        return Profile(thresholds, value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    return Profile(thresholds, value, *np.quantile(share(drawn), (0.025, 0.975), axis=0))


def probability_of_improvement(ours: Tasks, theirs: Tasks, *, resamples: int = 2000, seed: int = 0) -> Interval:
    """That a run of ours beats one of theirs on the same task, a tie counting half, mean over tasks (section 4.3)."""

    def better(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> np.ndarray:
        each = []
        for x, y in zip(a, b, strict=True):
            over, under = x[..., :, None], y[..., None, :]
            each.append(((over > under) + 0.5 * (over == under)).mean((-1, -2)))
        return np.mean(each, 0)

    drawn, other = _draw(ours, resamples, seed), _draw(theirs, resamples, seed + 1)
    value = better([task[None] for task in ours], [task[None] for task in theirs])
    if drawn is None or other is None:
        return _interval(value, None)
    return _interval(value, better(drawn, other))


def _draw(tasks: Tasks, resamples: int, seed: int) -> list[np.ndarray] | None:
    """Seeds drawn anew [resamples, seeds] of each task; None where every task has one."""
    if not tasks or any(task.ndim != 1 or not task.size for task in tasks):
        raise ValueError("aggregates need at least one score of every task")
    if all(task.size < 2 for task in tasks):
        return None
    rng = np.random.default_rng(seed)
    return [task[rng.integers(0, task.size, (resamples, task.size))] for task in tasks]


def _interval(value: np.ndarray, drawn: np.ndarray | None) -> Interval:
    low, high = (float("nan"),) * 2 if drawn is None else np.quantile(drawn, (0.025, 0.975))
    return Interval(float(value[0]), float(low), float(high))
