"""Forecasts without a world model: the mean, what was seen last, linear autoregression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dreamer_jax.evaluation.ridge import Linear, fit_linear
from dreamer_jax.types import Array

Sequences = Sequence[tuple[Array, Array]]
"""Of each episode what was observed [T, D], and the actions [T, A] or [T - 1, A]: number t leads from t to t + 1."""


def forecast_mean(train: Array, starts: int, horizon: int) -> np.ndarray:
    """The mean of observations [M, ...], everywhere: [starts, horizon, ...]."""
    mean = np.mean(train, 0, dtype=np.float64)
    return np.broadcast_to(mean, (starts, horizon, *mean.shape))


def forecast_persistence(last: Array, horizon: int) -> np.ndarray:
    """What was seen last [N, ...], everywhere: [N, horizon, ...]."""
    last = np.asarray(last)
    return np.broadcast_to(last[:, None], (len(last), horizon, *last.shape[1:]))


def fit_autoregression(train: Sequences, validation: Sequences) -> Linear:
    """``x_{t+1} = A x_t + B a_t + c`` by ridge on single steps, its strength by those of validation."""
    return fit_linear(*_steps(train), *_steps(validation))


def forecast_autoregression(model: Linear, last: Array, actions: Array) -> np.ndarray:
    """Rolled from ``last`` [N, D] by ``actions`` [N, H, A] alone: [N, H, D]."""
    state, ahead = np.asarray(last, np.float64), []
    for action in np.moveaxis(np.asarray(actions, np.float64), 1, 0):
        state = model(np.concatenate([state, action], -1))
        ahead.append(state)
    return np.stack(ahead, 1)


def _steps(sequences: Sequences) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (x_t, a_t) and x_{t+1}, none across the end of an episode."""
    before = [np.concatenate([x[:-1], action[: len(x) - 1]], -1) for x, action in sequences]
    return np.concatenate(before), np.concatenate([np.asarray(x)[1:] for x, _ in sequences])
