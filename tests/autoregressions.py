"""Slow random numbers, as states of episodes are: neighbouring rows are nearly the same."""

import numpy as np


def slow(episodes, length, width, seed, keep=0.98):
    """Stationary autoregressions with variance 1, each episode by itself: [episodes * length, width]."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(episodes, length, width))
    for t in range(1, length):
        x[:, t] = keep * x[:, t - 1] + np.sqrt(1 - keep**2) * x[:, t]
    return x.reshape(-1, width)
