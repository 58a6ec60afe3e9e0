"""What a world model learns from instead of reconstructing observations; it then has no decoder.

All compare features with the encoder's own tokens, through which no gradient flows, so that the encoder learns only by
way of the posterior: a linear projection with the tokens of the same record (R2-Dreamer, sec. 3; contrastive as in its
comparison), or what a transformer makes of an episode so far with those of the next one (NE-Dreamer).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from dreamer_jax.config.schema import Config
from dreamer_jax.interfaces.dynamics import InitParams
from dreamer_jax.nets.layers import Dense
from dreamer_jax.nets.transformer import CausalTransformer
from dreamer_jax.types import Array, Features, Params

stop = jax.lax.stop_gradient


class RepresentationLoss(Protocol):
    def __call__(self, params: Params, tokens: Array, feat: Features, action: Array, is_first: Array, /) -> Array:
        """[B, T]; its mean over all devices is the loss of the batch.

        Args:
          tokens: [B, T, W].
          feat: features [B, T, F_i].
          action: [B, T, A], what led to the records.
          is_first: [B, T].
        """
        ...


class Representation(NamedTuple):
    init: InitParams
    loss: RepresentationLoss


def make_representation(
    config: Config, inputs: tuple[int, ...], action: int, width: int, *, dtype: Any, axis_name: str | None
) -> Representation:
    """What ``representation.kind`` names, of features of widths ``inputs``, ``action``-wide actions and tokens of
    ``width``."""
    c = config.representation
    ahead = c.kind == "next_embedding"
    projector = Dense((c.transformer_units,) if ahead else inputs, width, dtype=dtype, nets=config.nets)
    predictor = CausalTransformer(
        (*inputs, action), c.transformer_units, c.transformer_layers, c.transformer_heads, dtype=dtype, nets=config.nets
    )

    def init(key: Array) -> Params:
        if not ahead:
            return projector.init(key, *(jnp.zeros((1, size), jnp.float32) for size in inputs))["params"]
        parts = [jnp.zeros((1, 1, size), jnp.float32) for size in (*inputs, action)]
        params = {"transformer": predictor.init(key, jnp.zeros((1, 1), bool), *parts)["params"]}
        return params | {
            "out": projector.init(jax.random.fold_in(key, 1), jnp.zeros((1, c.transformer_units)))["params"]
        }

    def loss(params: Params, tokens: Array, feat: Features, action: Array, is_first: Array) -> jax.Array:
        given = stop(jnp.asarray(tokens).astype(jnp.float32))
        if ahead:
            whole = following(params, given, feat, action, jnp.asarray(is_first))
            return jnp.broadcast_to(whole, tokens.shape[:2])
        projected = projector.apply({"params": params}, *feat).astype(jnp.float32)
        mine, given = (x.reshape(-1, width) for x in (projected, given))
        if c.kind == "redundancy":
            return jnp.broadcast_to(redundancy(mine, given, c.redundancy, axis_name=axis_name), tokens.shape[:2])
        return contrast(mine, given, axis_name=axis_name).reshape(tokens.shape[:2])

    def following(params: Params, given: jax.Array, feat: Features, action: Array, first: jax.Array) -> jax.Array:
        """Redundancy of predictions from all records of an episode so far and their actions, but for its last ones."""
        parts = *(jnp.asarray(x)[:, :-1] for x in feat), jnp.asarray(action)[:, 1:]
        hidden = predictor.apply({"params": params["transformer"]}, first[:, :-1], *parts)
        predicted = projector.apply({"params": params["out"]}, hidden).astype(jnp.float32)
        mine, theirs = (x.reshape(-1, width) for x in (predicted, given[:, 1:]))
        known = 1 - first[:, 1:].reshape(-1).astype(jnp.float32)
        return redundancy(mine, theirs, c.redundancy, weights=known, axis_name=axis_name)

    return Representation(init=init, loss=loss)


def redundancy(
    mine: jax.Array,
    given: jax.Array,
    weight: float,
    *,
    weights: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """``sum_i (1 - C_ii)^2 + weight sum_{i != j} C_ij^2`` of the correlations C of two [N, W] (Barlow Twins, eq. 1).

    Means are those over all devices of ``axis_name``, and of rows by ``weights`` [N].
    """
    count = jnp.float32(len(mine)) if weights is None else weights.sum()
    total = count if axis_name is None else jax.lax.psum(count, axis_name)

    def mean(x: jax.Array) -> jax.Array:
        if weights is None:
            return x.mean(0) if axis_name is None else jax.lax.pmean(x.mean(0), axis_name)
        summed = (weights[:, None] * x).sum(0)
        return (summed if axis_name is None else jax.lax.psum(summed, axis_name)) / jnp.maximum(total, 1)

    def standard(x: jax.Array) -> jax.Array:
        x = x - mean(x)
        return x / (jnp.sqrt(mean(jnp.square(x))) + 1e-8)

    left, right = standard(mine), standard(given)
    left = left if weights is None else left * weights[:, None]
    cross = left.T @ right
    cross = (cross if axis_name is None else jax.lax.psum(cross, axis_name)) / jnp.maximum(total, 1)
    own = jnp.diagonal(cross)
    rest = jnp.square(cross).sum() - jnp.square(own).sum()
    return jnp.square(1 - own).sum() + weight * rest


def contrast(mine: jax.Array, given: jax.Array, *, axis_name: str | None = None) -> jax.Array:
    """``-ln softmax_j(mine_i given_j)`` at j = i, [N], over those of all devices (van den Oord et al. 2018, eq. 4)."""
    every = given
    if axis_name is not None:
        every = jax.lax.all_gather(given, axis_name).reshape(-1, given.shape[-1])
    return jax.nn.logsumexp(mine @ every.T, 1) - (mine * given).sum(-1)
