"""Intervals of ratios of sums, resampled by episode: rows of one episode are no independent draws."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dreamer_jax.types import Array

Ratio = Callable[..., np.ndarray]
"""Sums over episodes [..., *shape] each, to what is made of them; leading axes are resamples."""


class Intervals(NamedTuple):
    """Values and the ends of their 95 % intervals, all of one shape."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def divide(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to divide by."""
    upper, lower = np.broadcast_arrays(np.asarray(upper, np.float64), np.asarray(lower, np.float64))
    return np.divide(upper, lower, out=np.full(upper.shape, np.nan), where=lower > 0)


def episode_sums(values: Array, episode: np.ndarray) -> np.ndarray:
    """Sums [E, ...] of ``values`` [N, ...] over the rows of each episode."""
    values = np.asarray(values, np.float64)
    order = np.argsort(episode, kind="stable")
    _, starts = np.unique(np.asarray(episode)[order], return_index=True)
    return np.add.reduceat(values[order], starts, 0)


def episode_means(values: Array, episode: np.ndarray) -> np.ndarray:
    """Means [E, ...] over the rows of each episode."""
    ones = np.ones((len(values), *(1,) * (np.ndim(values) - 1)))
    return np.asarray(episode_sums(values, episode) / episode_sums(ones, episode))


def bootstrap_episodes(ratio: Ratio, *sums: np.ndarray, resamples: int = 2000, seed: int = 0) -> Intervals:
    """``ratio`` of the totals of ``sums`` [E, ...], and its percentile interval over episodes drawn with replacement.

    Resamples of which it is NaN don't count. The ends are NaN with a single episode: nothing can vary then.
    """
    value = np.asarray(ratio(*(each.sum(0) for each in sums)))
    episodes = len(sums[0])
    if episodes < 2:
        unknown = np.full(value.shape, np.nan)
        return Intervals(value, unknown, unknown)
    drawn = np.random.default_rng(seed).multinomial(episodes, [1 / episodes] * episodes, resamples).astype(np.float64)
    again = ratio(*(np.tensordot(drawn, each, 1) for each in sums))
    return Intervals(value, *_ends(again))


def bootstrap_rows(
    statistic: Callable[..., np.ndarray], *columns: Array, episode: np.ndarray, resamples: int = 500, seed: int = 0
) -> Intervals:
    """What is no ratio of sums, such as an order: ``statistic`` of columns [N, ...], all rows of an episode together.

    As ``bootstrap_episodes``, with a call for each resample.
    """
    columns = tuple(np.asarray(column) for column in columns)
    rows = [np.flatnonzero(episode == name) for name in np.unique(episode)]
    value = np.asarray(statistic(*columns), np.float64)
    if len(rows) < 2:
        unknown = np.full(value.shape, np.nan)
        return Intervals(value, unknown, unknown)
    rng, again = np.random.default_rng(seed), []
    for _ in range(resamples):
        drawn = np.concatenate([rows[index] for index in rng.integers(len(rows), size=len(rows))])
        again.append(statistic(*(column[drawn] for column in columns)))
    return Intervals(value, *_ends(np.stack(again)))


def _ends(again: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
        low, high = np.nanquantile(again, (0.025, 0.975), axis=0)
    return low, high
