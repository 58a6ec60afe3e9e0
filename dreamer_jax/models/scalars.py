"""What heads for rewards and values put out, and how it is learnt: two-hot encodings, or a mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dreamer_jax.ops.transforms import symexp_bins, twohot_loss, twohot_mean


class Scalar(NamedTuple):
    """Functions of a head's raw output [..., outputs]; mean and loss are [...]."""

    outputs: int
    mean: Callable[[jax.Array], jax.Array]
    loss: Callable[[jax.Array, jax.Array], jax.Array]


def make_scalar(dist: str, bins: int) -> Scalar:
    if dist == "symexp_twohot":
        edges = symexp_bins(bins)
        return Scalar(bins, lambda raw: twohot_mean(raw, edges), lambda raw, target: twohot_loss(raw, target, edges))
    if dist == "normal":
        return Scalar(
            1,
            lambda raw: raw[..., 0],
            lambda raw, target: (jnp.square(raw[..., 0] - target) + math.log(2 * math.pi)) / 2,
        )
    raise NotImplementedError
