"""Ridge regression whose strength is chosen on validation data."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dreamer_jax.types import Array

ALPHAS = tuple(10.0**power for power in range(-3, 6))
VARIANCE_FLOOR = 1e-6
"""A number that varies less has nothing to predict, and is not scored."""


class Standard(NamedTuple):
    """Mean and deviation of numbers in training data; the deviation of one that is always the same is infinite."""

    mean: np.ndarray
    scale: np.ndarray

    def __call__(self, x: Array) -> np.ndarray:
        return (np.asarray(x, np.float64) - self.mean) / self.scale

    def inverse(self, standard: Array) -> np.ndarray:
        """Back to their own units."""
        return np.asarray(standard, np.float64) * self.spread + self.mean

    @property
    def spread(self) -> np.ndarray:
        """Deviations, 0 of what is always the same."""
        return np.where(np.isfinite(self.scale), self.scale, 0)


class Axes(NamedTuple):
    """Principal axes [F, R] of standardised features, and the sums of squares along them, the largest first."""

    standard: Standard
    directions: np.ndarray
    squares: np.ndarray

    def __call__(self, x: Array) -> np.ndarray:
        """Coordinates [N, R]."""
        return self.standard(x) @ self.directions


class Linear(NamedTuple):
    """``x @ weights + bias``."""

    weights: np.ndarray
    bias: np.ndarray
    alpha: float

    def __call__(self, x: Array) -> np.ndarray:
        return np.asarray(x, np.float64) @ self.weights + self.bias


def standardise(x: Array) -> Standard:
    """Of rows [N, ...]. What rounding alone can make vary counts as always the same."""
    x = np.asarray(x, np.float64)
    mean, std = x.mean(0), x.std(0)
    return Standard(mean, np.where(std > np.maximum(1e-6 * np.abs(mean), 1e-12), std, np.inf))


def principal_axes(x: Array) -> Axes:
    """By the eigenvalues of the smaller of X'X and XX'."""
    standard = standardise(x)
    rows = standard(x)
    wide = rows.shape[1] > rows.shape[0]
    squares, vectors = np.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
    kept = np.flatnonzero(squares > 1e-12 * squares.max(initial=0))[::-1]
    squares, vectors = squares[kept], vectors[:, kept]
    return Axes(standard, rows.T @ vectors / np.sqrt(squares) if wide else vectors, squares)


def fit_linear(x: Array, y: Array, x_validation: Array, y_validation: Array) -> Linear:
    """Least squares of standardised numbers plus ``alpha |w|^2``, with the best mean R2 on validation data.

    With X'X = V diag(l) V' the weights are ``V (V'X'Y) / (l + alpha)``: one decomposition for every alpha.
    """
    axes, target = principal_axes(x), standardise(y)
    along = axes(x).T @ target(y)  # [R, D]
    truth, coordinates = target(y_validation), axes(x_validation)
    scored = np.var(np.asarray(y_validation, np.float64), 0) >= VARIANCE_FLOOR
    total = np.square(truth).sum(0)[scored]

    def solve(alpha: float) -> np.ndarray:
        return along / (axes.squares + alpha)[:, None]

    def loss(alpha: float) -> float:
        error = np.square(coordinates @ solve(alpha) - truth).sum(0)[scored]
        return float((error / np.maximum(total, 1e-12)).sum())

    alpha = min(ALPHAS, key=loss)
    weights = (axes.directions @ solve(alpha)) / axes.standard.scale[:, None] * target.spread
    return Linear(weights, target.mean - axes.standard.mean @ weights, alpha)
