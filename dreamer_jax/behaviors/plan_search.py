"""Methods that search for plans: what to draw next ones from, given what was tried and how good it was.

The cross-entropy method is PlaNet's (algorithm 2); model predictive path integral control is that of Williams et al.
(2017, "Information Theoretic MPC", algorithm 2), with the spread and the elites of TD-MPC (Hansen et al. 2022, eq. 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from dreamer_jax.config.schema import PlannerConfig
from dreamer_jax.specs import ArraySpec
from dreamer_jax.types import Array, ArrayDict

MIN_VARIANCE = 1e-6
"""Added to that of the elites of the cross-entropy method."""
LEAST_CHANCE = 1e-3
"""Of a class that no elite has, as a share of that of a uniform draw."""


class Fit(NamedTuple):
    """What plans are drawn from, independently for each step: numbers from a normal, classes by their chances."""

    mean: Array  # [H, A]; of a choice the chance of each class
    std: Array  # [H, A], of numbers alone


class Refit(Protocol):
    def __call__(self, fit: Fit, plans: Array, scores: Array, /) -> Fit:
        """What the next plans are drawn from.

        Args:
          fit: what these were drawn from.
          plans: [J, H, A]: numbers in [-1, 1], choices one-hot.
          scores: [J] float32.
        """
        ...


def make_refit(config: PlannerConfig) -> Refit:
    """The method that ``planner.method`` names."""
    return {"cem": cross_entropy, "mppi": path_integral}[config.method](config)


def cross_entropy(config: PlannerConfig) -> Refit:
    """Mean and deviation of the best plans."""

    def refit(fit: Fit, plans: Array, scores: Array) -> Fit:
        elites = plans[jax.lax.top_k(scores, config.elites)[1]]
        return Fit(elites.mean(0), jnp.sqrt(elites.var(0) + MIN_VARIANCE))

    return refit


def path_integral(config: PlannerConfig) -> Refit:
    """The same of the best plans, which count by ``exp(score / temperature)``; deviations are at least ``min_std``."""

    def refit(fit: Fit, plans: Array, scores: Array) -> Fit:
        best, places = jax.lax.top_k(scores, config.elites)
        weight = jax.nn.softmax(best / config.temperature)[:, None, None]
        mean = (weight * plans[places]).sum(0)
        std = jnp.sqrt((weight * jnp.square(plans[places] - mean)).sum(0))
        return Fit(mean, jnp.clip(std, config.min_std, 1))

    return refit


def first_fit(specs: Mapping[str, ArraySpec], horizon: int) -> Fit:
    """Standard normals, and classes all alike."""
    means = [jnp.full((horizon, leaf.width), 1 / leaf.classes if leaf.classes else 0.0) for leaf in _sorted(specs)]
    mean = jnp.concatenate(means, -1)
    return Fit(mean, jnp.ones_like(mean))


def draw_plans(specs: Mapping[str, ArraySpec], fit: Fit, noise: Array) -> jax.Array:
    """Plans [J, H, A] that standard normal noise [J, H, A] makes; numbers are clipped to [-1, 1], classes one-hot."""

    def draw(leaf: ArraySpec, mean: jax.Array, std: jax.Array, noise: jax.Array) -> jax.Array:
        if not leaf.classes:
            return jnp.clip(mean + std * noise, -1, 1)
        shape = (*noise.shape[:-1], leaf.size, leaf.classes)
        chances = jnp.maximum(mean, LEAST_CHANCE / leaf.classes)
        gumbel = -jnp.log(-jax.scipy.special.log_ndtr(noise))
        best = jnp.argmax((jnp.log(chances) + gumbel).reshape(shape), -1)
        return jax.nn.one_hot(best, leaf.classes, dtype=jnp.float32).reshape(noise.shape)

    parts = zip(_sorted(specs), *(_split(x, specs) for x in (fit.mean, fit.std, noise)), strict=True)
    return jnp.concatenate([draw(*part) for part in parts], -1)


def split_leaves(vector: jax.Array, specs: Mapping[str, ArraySpec]) -> ArrayDict:
    """A flat vector [..., A], which has the leaves in sorted order of their names, as environments take it."""
    leaves = {}
    for name, leaf, part in zip(sorted(specs), _sorted(specs), _split(vector, specs), strict=True):
        if leaf.classes:
            part = jnp.argmax(part.reshape(*part.shape[:-1], leaf.size, leaf.classes), -1).astype(leaf.dtype)
        leaves[name] = part.reshape(*part.shape[: vector.ndim - 1], *leaf.shape)
    return {name: leaves[name] for name in specs}


def _sorted(specs: Mapping[str, ArraySpec]) -> list[ArraySpec]:
    return [specs[name] for name in sorted(specs)]


def _split(vector: jax.Array, specs: Mapping[str, ArraySpec]) -> list[jax.Array]:
    parts, begin = [], 0
    for leaf in _sorted(specs):
        parts.append(vector[..., begin : begin + leaf.width])
        begin += leaf.width
    return parts
