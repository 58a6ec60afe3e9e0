"""Mutual information of what a probe says with each number that it is about, with what would be found by chance.

In two dimensions only: nearest-neighbour estimates of whole latents are far too low, and a null of 0 doesn't show it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import digamma, ndtri

from dreamer_jax.evaluation.episodes import other_episodes
from dreamer_jax.types import Array

NEIGHBOURS = 3
PAIRINGS, CONTROLS, HALVES, MOST_ROWS = 20, 10, 10, 2000
TOLERANCE = 0.1
"""An estimate may be off by a tenth, or by two deviations of its null."""


class Information(NamedTuple):
    """Of each target [D], in nats. By data processing it is at most that of the features with it."""

    estimate: np.ndarray  # nearest neighbours
    bound: np.ndarray  # a lower bound by correlation alone, at most the ceiling
    null_mean: np.ndarray  # estimates with targets of other episodes at the same step
    null_std: np.ndarray
    control: np.ndarray  # estimate of Gaussian pairs, of as many, whose information is ``estimate``
    half: np.ndarray  # mean estimate of halves of the rows
    ceiling: float  # no estimate of so many rows is higher

    @property
    def value(self) -> np.ndarray:
        """What is more than by chance."""
        return self.estimate - self.null_mean

    @property
    def z(self) -> np.ndarray:
        """Too high of few episodes, which have few pairings: infinite of two."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.value / self.null_std)

    @property
    def saturated(self) -> np.ndarray:
        """At least that much: the value stands for any higher one."""
        return np.maximum(self.estimate, self.bound) >= self.ceiling - 1e-9

    @property
    def recovered(self) -> np.ndarray:
        """The positive control is found to be what it is."""
        return self._close(self.control, np.maximum(self.estimate, 0))

    @property
    def stable(self) -> np.ndarray:
        """Half of the rows would have told the same."""
        return self._close(self.half, self.estimate)

    @property
    def sum_of_marginals(self) -> float:
        """Over the targets; not their joint information."""
        return float(self.value.sum())

    def _close(self, found: np.ndarray, expected: np.ndarray) -> np.ndarray:
        return np.abs(found - expected) <= np.maximum(TOLERANCE * expected, 2 * self.null_std)


def projection_information(
    predicted: Array, target: Array, episode: np.ndarray, step: np.ndarray, *, seed: int = 0
) -> Information:
    """Of columns ``predicted`` [N, D], what a probe says on unseen episodes, with those of ``target`` [N, D].

    The null pairs with another episode at the same step, 20 times: independent shuffles would know nothing of how
    slowly both move, and would be too sure.
    """
    rng = np.random.default_rng(seed)
    predicted, target = (np.asarray(x, np.float64) for x in (predicted, target))
    rows = _draw(np.arange(len(target)), rng)
    pairings = []
    for _ in range(PAIRINGS):
        own, other = other_episodes(episode, step, rng)
        kept = _draw(np.arange(len(own)), rng)
        pairings.append((own[kept], other[kept]))
    fewest = min(len(rows) // 2, *(len(own) for own, _ in pairings))
    if fewest <= NEIGHBOURS:
        raise ValueError(f"rows: got {len(rows)}, of which {fewest} in a pairing or a half; {NEIGHBOURS + 1} or more")
    ceiling, columns = ksg_ceiling(len(rows)), []
    for said, true in zip(predicted.T, target.T, strict=True):
        pair = gaussianise(said[rows], rng), gaussianise(true[rows], rng)
        estimate = ksg(*pair)
        null = [ksg(gaussianise(said[own], rng), gaussianise(true[other], rng)) for own, other in pairings]
        controls = [ksg(*gaussian_pair(max(estimate, 0), len(rows), rng)) for _ in range(CONTROLS)]
        halves = [ksg(pair[0][half], pair[1][half]) for half in _halves(len(rows), rng)]
        bound, deviation = min(correlation_bound(*pair), ceiling), float(np.std(null, ddof=1))
        columns.append((estimate, bound, deviation, *(float(np.mean(each)) for each in (null, controls, halves))))
    estimates, bounds, deviations, means, control, half = np.array(columns).T
    return Information(estimates, bounds, means, deviations, control, half, ceiling)


def gaussianise(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Normal quantiles of the ranks; equal numbers are put in random order. Neither changes any information."""
    order = np.lexsort((rng.random(len(x)), x))
    ranks = np.empty(len(x))
    ranks[order] = np.arange(len(x)) + 0.5
    return np.asarray(ndtri(ranks / len(x)))


def correlation_bound(x: np.ndarray, y: np.ndarray) -> float:
    """``-ln(1 - rho^2) / 2 <= I(x; y)`` if one of them is normal: given x, no density has a higher entropy."""
    rho = float(np.corrcoef(x, y)[0, 1])
    return -0.5 * math.log1p(-min(rho * rho, 1 - 1e-15))


def ksg(x: np.ndarray, y: np.ndarray, neighbours: int = NEIGHBOURS) -> float:
    """``psi(k) + psi(N) - mean(psi(n_x + 1) + psi(n_y + 1))``, where n counts rows nearer than the k-th neighbour.

    Kraskov, Stoegbauer and Grassberger 2004, "Estimating mutual information", eq. 8, with maximum norm.
    """
    points = np.stack([x, y], 1)
    reach = cKDTree(points).query(points, neighbours + 1, p=np.inf)[0][:, -1] * (1 - 1e-10)  # strictly nearer
    inside = 0.0
    for axis in (x, y):
        ordered = np.sort(axis)
        near = np.searchsorted(ordered, axis + reach, "right") - np.searchsorted(ordered, axis - reach, "left")
        inside += float(digamma(near).mean())  # with itself: n + 1
    return float(digamma(neighbours) + digamma(len(x))) - inside


def ksg_ceiling(count: int, neighbours: int = NEIGHBOURS) -> float:
    """``psi(N) - psi(k)``, the estimate for a number with itself. No lower bound can promise more than ln N."""
    return float(digamma(count) - digamma(neighbours))


def gaussian_pair(information: float, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Normal numbers whose mutual information is known: ``rho^2 = 1 - exp(-2 I)``."""
    x, noise = rng.normal(size=(2, count))
    return x, math.sqrt(-math.expm1(-2 * information)) * x + math.exp(-information) * noise


def _halves(count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    for _ in range(HALVES // 2):
        order = rng.permutation(count)
        yield from (order[0::2], order[1::2])


def _draw(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """At most so many, in random order."""
    return rng.permutation(rows)[:MOST_ROWS]
