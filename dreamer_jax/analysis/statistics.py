"""Mean, median and interquartile mean of scores, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dreamer_jax.terminal import Answer, table

Scores = Sequence[float] | Sequence[Sequence[float]] | Sequence[np.ndarray] | np.ndarray
"""Scores, or several groups of scores that are resampled each in itself."""

Statistic = Callable[..., np.ndarray]  # (scores, axis=-1)


def iqm(scores: np.ndarray, axis: int = -1) -> np.ndarray:
    """Interquartile mean: the lowest and the highest quarter, each rounded down to whole scores, don't count.

    Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice", section 4.3.
    """
    ordered = np.sort(np.moveaxis(np.asarray(scores, np.float64), axis, -1), -1)
    cut = ordered.shape[-1] // 4
    return ordered[..., cut : ordered.shape[-1] - cut].mean(-1)


STATISTICS: dict[str, Statistic] = {"iqm": iqm, "mean": np.mean, "median": np.median}


class Interval(NamedTuple):
    """A statistic and the ends of its interval."""

    value: float
    low: float
    high: float


def bootstrap(
    scores: Scores, statistic: Statistic = iqm, *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile bootstrap of a statistic of all scores; the ends are NaN where nothing can vary.

    What may be concluded depends on the groups. One group per task with one score per seed (stratified, as in
    Agarwal et al. 2021) speaks of new seeds. One group per run with its episodes speaks of more episodes of
    these runs only, and is too narrow for any claim about other seeds.
    """
    groups = _groups(scores)
    value = float(statistic(np.concatenate(groups), axis=-1))
    if all(group.size < 2 for group in groups):
        return Interval(value, float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    total = sum(group.size for group in groups)
    chunk = max(1, 2_000_000 // total)  # resamples at a time: bounds the memory to about 16 MB
    drawn = []
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        samples = [group[rng.integers(0, group.size, (rows, group.size))] for group in groups]
        drawn.append(statistic(np.concatenate(samples, axis=-1), axis=-1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(drawn), (tail, 1 - tail))
    return Interval(value, float(low), float(high))


def summary(scores: Scores, *, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Statistics with their 95 % intervals, ready for JSON; an interval that can't be had is None."""
    groups = _groups(scores)
    every = np.concatenate(groups)
    result: dict[str, Any] = {"n": int(every.size), "groups": len(groups)}
    for name, statistic in STATISTICS.items():
        value, low, high = bootstrap(groups, statistic, resamples=resamples, seed=seed)
        result[name] = value
        result[f"{name}_ci95"] = None if np.isnan(low) else [low, high]
    result["std"] = float(every.std(ddof=1)) if every.size > 1 else None
    result["min"], result["max"] = float(every.min()), float(every.max())
    return result


def describe(result: dict[str, Any]) -> Answer:
    """How many scores a ``summary`` is of, and a table of their statistics."""
    groups = f" in {result['groups']} groups" if result["groups"] != 1 else ""
    rows = []
    for name in STATISTICS:
        interval = result[f"{name}_ci95"]
        between = f"{interval[0]:.1f} to {interval[1]:.1f}" if interval else "none of one score"
        rows.append(("IQM" if name == "iqm" else name, f"{result[name]:.1f}", between))
    return [
        f"scores: {result['n']}{groups}, from {result['min']:.1f} to {result['max']:.1f}",
        table(("statistic", "score", "95 % interval"), rows, right=("score", "95 % interval")),
    ]


def _groups(scores: Scores) -> list[np.ndarray]:
    nested = len(scores) > 0 and np.ndim(scores[0]) > 0
    groups = [np.asarray(group, np.float64) for group in (scores if nested else [scores])]
    if not groups or any(group.ndim != 1 or not group.size for group in groups):
        raise ValueError("statistics need at least one score in every group")
    if not all(np.isfinite(group).all() for group in groups):
        raise ValueError("statistics of scores that are not all finite")
    return groups
