"""Rewards spread over the steps around them (DreamSmooth, Lee et al. 2024, sec. 3), as batches have them.

The ring keeps what environments gave; so scores, exports and a change of the setting are of the true rewards.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dreamer_jax.config.schema import ReplayConfig
from dreamer_jax.types import Array

LEAST = 1e-6
"""The share of a reward that is neglected, far away from it."""


class Kernel(NamedTuple):
    """``smoothed_t = sum_i weight_i reward_(t + offset_i)``; beyond an end of the episode, the reward at that end."""

    offsets: np.ndarray  # [taps] int, increasing
    weights: np.ndarray  # [taps], of sum 1

    @property
    def before(self) -> int:
        """Records that are needed before the first."""
        return max(0, -int(self.offsets[0]))

    @property
    def after(self) -> int:
        return max(0, int(self.offsets[-1]))


def make_kernel(config: ReplayConfig) -> Kernel | None:
    """What ``replay.smoothing`` names; None if rewards stay as they are."""
    match config.smoothing:
        case "none":
            return None
        case "gaussian":
            radius = int(4 * config.smoothing_sigma + 0.5)
            offsets = np.arange(-radius, radius + 1)
            weights = np.exp(-0.5 * (offsets / config.smoothing_sigma) ** 2)
        case "uniform":
            offsets = np.arange(config.smoothing_width) - (config.smoothing_width - 1) // 2
            weights = np.ones(config.smoothing_width)
        case "ema":  # of what has been, so that nothing is promised before it is known
            share = config.smoothing_share
            taps = 1 if share == 1 else 1 + math.ceil(math.log(LEAST) / math.log1p(-share))
            offsets = np.arange(1 - taps, 1)
            weights = share * (1 - share) ** -offsets.astype(float)
            weights[0] += (1 - share) ** taps  # all that came earlier
    return Kernel(offsets, weights / weights.sum())


def smooth(kernel: Kernel, reward: Array, is_first: Array, known: Array) -> Array:
    """Smoothed rewards [B, T] float32 of the records between ``kernel.before`` and ``kernel.after`` others.

    Arrays may be numpy's, or JAX's, which has 32 bits for the sum.

    Args:
      reward, is_first: [B, before + T + after].
      known: the same shape, bool: which records there are; those of a row follow one another.
    """
    xp, width = reward.__array_namespace__(), reward.shape[1]
    places = np.arange(width)
    begins = is_first | (known & ~xp.roll(known, 1, 1)) | (places == 0)
    first = xp.maximum.accumulate(xp.where(begins, places, 0), 1)
    ends = xp.roll(begins, -1, 1) | ~xp.roll(known, -1, 1) | (places == width - 1)
    last = xp.flip(xp.minimum.accumulate(xp.flip(xp.where(ends, places, width), 1), 1), 1)
    inside = slice(kernel.before, width - kernel.after)
    taps = places[inside, None] + kernel.offsets  # [T, taps]
    taps = xp.clip(taps, first[:, inside, None], last[:, inside, None])
    rows = np.arange(len(reward))[:, None, None]
    return (kernel.weights * reward[rows, taps]).sum(-1).astype(np.float32)
