"""Kinds of latent variables: categorical (DreamerV2, sec. 2), Gaussian (PlaNet, sec. 3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dreamer_jax import distributions
from dreamer_jax.config.schema import RSSMConfig
from dreamer_jax.interfaces import Latent
from dreamer_jax.interfaces.latent import Active, ToStats
from dreamer_jax.types import Array, Stats


def make_latent(config: RSSMConfig) -> Latent:
    """The kind that ``rssm.latent`` names."""
    match config.latent:
        case "categorical":
            return categorical(config)
        case "gaussian":
            return gaussian(config)


def categorical(config: RSSMConfig) -> Latent:
    """S one-hot variables of K classes, mixed with ``unimix`` of uniform; replay keeps the classes' indices."""
    shape = config.stoch, config.classes
    index = jnp.uint8 if config.classes <= 256 else jnp.uint16

    def distribution(stats: Stats) -> Any:
        return distributions.categorical(stats["logits"], config.unimix)

    def expand(stored: Array) -> jax.Array:
        indices = jnp.issubdtype(stored.dtype, jnp.integer)
        return jax.nn.one_hot(stored, config.classes, dtype=jnp.float32) if indices else stored.astype(jnp.float32)

    return latent_of(
        distribution,
        "uniform",
        shape=shape,
        outputs=math.prod(shape),
        stats=lambda raw: {"logits": raw.reshape(*raw.shape[:-1], *shape)},
        active=lambda stats: distributions.information(distribution(stats)) > 0.05,
    )._replace(compress=lambda sample: jnp.argmax(sample, -1).astype(index), expand=expand)


def gaussian(config: RSSMConfig) -> Latent:
    """S independent normal variables with a deviation of at least ``min_std``; replay keeps them as bfloat16."""

    def stats(raw: Array) -> Stats:
        mean, raw = jnp.split(raw, 2, -1)
        match config.std:
            case "softplus":
                std = nn.softplus(raw)
            case "sigmoid":
                std = nn.sigmoid(raw)
            case "sigmoid2":
                std = 2 * nn.sigmoid(raw / 2)
        return {"mean": mean, "std": std + config.min_std}

    def active(stats: Stats) -> jax.Array:
        """By the variance of the mean (Burda et al. 2016, "Importance Weighted Autoencoders", section 5.2)."""
        mean = jnp.asarray(stats["mean"])
        return mean.var(tuple(range(mean.ndim - 1))) > 0.01

    return latent_of(
        lambda stats: distributions.normal(stats["mean"], stats["std"]),
        "normal",
        shape=(config.stoch,),
        outputs=2 * config.stoch,
        stats=stats,
        active=active,
    )


def latent_of(
    distribution: Callable[[Stats], Any],
    noise: distributions.Kind,
    *,
    shape: tuple[int, ...],
    outputs: int,
    stats: ToStats,
    active: Active,
) -> Latent:
    """A kind whose variables are independent and have a distribution.

    Args:
      distribution: makes of the parameters a ``distrax.Independent`` over S, as ``distributions.sample`` takes it.
      noise: what its draws take, one number for each variable.
    """
    return Latent(
        shape=shape,
        outputs=outputs,
        stats=stats,
        noise=lambda key, rows, length: distributions.draw_noise(key, rows, (*length, shape[0]), noise),
        sample=lambda stats, noise: distributions.sample(distribution(stats), noise),
        mode=lambda stats: distributions.mode(distribution(stats)),
        entropy=lambda stats: distribution(stats).entropy(),
        divergence=lambda left, right: distributions.variable_kl(distribution(left), distribution(right)),
        active=active,
        mean=lambda stats: distribution(stats).mean(),
    )
