"""What heads for rewards and values put out, what it means, and how it is learnt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from dreamer_jax import distributions
from dreamer_jax.ops.transforms import even_bins, symexp, symexp_bins, symlog, twohot_loss, twohot_mean


class Scalar(NamedTuple):
    """Functions of a head's raw output [..., outputs]; mean and loss are [...]."""

    outputs: int
    mean: Callable[[jax.Array], jax.Array]
    loss: Callable[[jax.Array, jax.Array], jax.Array]  # minus the log-probability of a target


def make_scalar(dist: Literal["symexp_twohot", "symlog_twohot", "normal"], bins: int) -> Scalar:
    """A two-hot distribution over ``bins``, or a normal one of deviation 1 (DreamerV1, DreamerV2).

    - ``symexp_twohot``: bins and interpolation in raw space; the mean is ``sum_i p_i b_i`` (DreamerV3, eq. 10).
    - ``symlog_twohot``: of ``symlog(target)`` in even bins; the mean is ``symexp(sum_i p_i b_i)`` (DreamerV3 of 2023).
    """
    match dist:
        case "symexp_twohot":
            raw_bins = symexp_bins(bins)
            return Scalar(bins, lambda raw: twohot_mean(raw, raw_bins), lambda raw, y: twohot_loss(raw, y, raw_bins))
        case "symlog_twohot":
            even = even_bins(bins)
            return Scalar(
                bins,
                lambda raw: symexp(twohot_mean(raw, even)),
                lambda raw, y: twohot_loss(raw, symlog(y), even),
            )
        case "normal":
            return Scalar(1, lambda raw: raw[..., 0], _normal_loss)


def _normal_loss(raw: jax.Array, target: jax.Array) -> jax.Array:
    log_prob: jax.Array = distributions.normal(raw, jnp.ones_like(raw)).log_prob(target[..., None])
    return -log_prob
