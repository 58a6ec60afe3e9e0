"""What a world model learns from instead of reconstructing observations; it then has no decoder.

Both compare a linear projection of the features with the encoder's own tokens, through which no gradient flows, so that
the encoder learns only by way of the posterior (R2-Dreamer, sec. 3; contrastive as in its comparison).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from dreamer_jax.config.schema import Config
from dreamer_jax.interfaces.dynamics import InitParams
from dreamer_jax.nets.layers import Dense
from dreamer_jax.types import Array, Features, Params

stop = jax.lax.stop_gradient


class RepresentationLoss(Protocol):
    def __call__(self, params: Params, tokens: Array, feat: Features, /) -> Array:
        """[B, T] of tokens [B, T, W] and features [B, T, F_i]; its mean over all devices is the loss of the batch."""
        ...


class Representation(NamedTuple):
    init: InitParams
    loss: RepresentationLoss


def make_representation(
    config: Config, inputs: tuple[int, ...], width: int, *, dtype: Any, axis_name: str | None
) -> Representation:
    """What ``representation.kind`` names, of features of widths ``inputs`` and tokens of ``width``."""
    projector = Dense(inputs, width, dtype=dtype, nets=config.nets)

    def init(key: Array) -> Params:
        return projector.init(key, *(jnp.zeros((1, size), jnp.float32) for size in inputs))["params"]

    def loss(params: Params, tokens: Array, feat: Features) -> jax.Array:
        projected = projector.apply({"params": params}, *feat).astype(jnp.float32)
        mine, given = (x.reshape(-1, width) for x in (projected, stop(jnp.asarray(tokens).astype(jnp.float32))))
        if config.representation.kind == "redundancy":
            whole = redundancy(mine, given, config.representation.redundancy, axis_name=axis_name)
            return jnp.broadcast_to(whole, tokens.shape[:2])
        return contrast(mine, given, axis_name=axis_name).reshape(tokens.shape[:2])

    return Representation(init=init, loss=loss)


def redundancy(mine: jax.Array, given: jax.Array, weight: float, *, axis_name: str | None = None) -> jax.Array:
    """``sum_i (1 - C_ii)^2 + weight sum_{i != j} C_ij^2`` of the correlations C of two [N, W] (Barlow Twins, eq. 1).

    Means are those over all devices of ``axis_name``.
    """

    def mean(x: jax.Array) -> jax.Array:
        return x.mean(0) if axis_name is None else jax.lax.pmean(x.mean(0), axis_name)

    def standard(x: jax.Array) -> jax.Array:
        x = x - mean(x)
        return x / (jnp.sqrt(mean(jnp.square(x))) + 1e-8)

    left, right = standard(mine), standard(given)
    cross = left.T @ right / len(left)
    cross = cross if axis_name is None else jax.lax.pmean(cross, axis_name)
    own = jnp.diagonal(cross)
    rest = jnp.square(cross).sum() - jnp.square(own).sum()
    return jnp.square(1 - own).sum() + weight * rest


def contrast(mine: jax.Array, given: jax.Array, *, axis_name: str | None = None) -> jax.Array:
    """``-ln softmax_j(mine_i given_j)`` at j = i, [N], over those of all devices (van den Oord et al. 2018, eq. 4)."""
    every = given
    if axis_name is not None:
        every = jax.lax.all_gather(given, axis_name).reshape(-1, given.shape[-1])
    return jax.nn.logsumexp(mine @ every.T, 1) - (mine * given).sum(-1)
