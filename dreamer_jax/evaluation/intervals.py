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
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
        low, high = np.nanquantile(again, (0.025, 0.975), axis=0)
    return Intervals(value, low, high)
