"""Squashing functions and the two-hot encoding of scalars (DreamerV3, eqs. 8-11)."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np


def symlog(x: jax.Array) -> jax.Array:
    """``sign(x) ln(1 + |x|)``."""
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def symexp(x: jax.Array) -> jax.Array:
    """``sign(x) (e^|x| - 1)``, the inverse of ``symlog``."""
    return jnp.sign(x) * jnp.expm1(jnp.abs(x))


def symexp_bins(count: int) -> np.ndarray:
    """Bins ``symexp(-20 ... 20)`` of the two-hot encoding, [count] float32, the middle one exactly 0.

    The upper half mirrors the lower one, so that pairs cancel exactly.
    """
    half = _lower_half(count)
    return _mirrored(np.sign(half) * np.expm1(np.abs(half)))


def even_bins(count: int) -> np.ndarray:
    """Bins ``-20 ... 20`` at even distances, of the two-hot encoding of ``symlog(x)``; otherwise as ``symexp_bins``."""
    return _mirrored(_lower_half(count))


def _lower_half(count: int) -> np.ndarray:
    if count % 2 == 0:
        raise ValueError(f"bins: got {count}, must be odd")
    return np.linspace(-20, 0, count // 2 + 1, dtype=np.float32)


def _mirrored(lower: np.ndarray) -> np.ndarray:
    return np.concatenate([lower, -lower[:-1][::-1]]).astype(np.float32)


def twohot_mean(logits: jax.Array, bins: np.ndarray) -> jax.Array:
    """Expected value ``sum_i p_i b_i`` over the last axis, exactly 0 for uniform logits.

    The outer bins are so large that a last digit of a probability is as much as 0.1: differences of products leave a
    residue of that size, and so do differences of probabilities where a compiler takes the same exponential in two
    ways. Of mirrored bins ``p - q = (p + q) tanh((ln p - ln q) / 2)``, which is 0 where their logits are equal.
    """
    chex.assert_axis_dimension(logits, -1, len(bins))
    logits = logits.astype(jnp.float32)
    probs, middle = jax.nn.softmax(logits), len(bins) // 2
    (above, p), (below, q) = (
        [x[..., side] for x in (logits, probs)] for side in (slice(middle + 1, None), slice(middle - 1, None, -1))
    )
    return ((p + q) * jnp.tanh((above - below) / 2) * bins[middle + 1 :]).sum(-1)


def twohot_loss(logits: jax.Array, target: jax.Array, bins: np.ndarray) -> jax.Array:
    """Cross entropy to the two-hot encoding of ``target``, [...] from logits [..., bins].

    The two bins around the target share weight linearly in raw space; beyond the ends all weight is
    on the last bin. Two log-probabilities are gathered instead of building the encoding.
    """
    chex.assert_equal_shape_prefix([logits, target[..., None]], target.ndim)
    logits = logits.astype(jnp.float32)
    edges = jnp.asarray(bins)
    below = jnp.clip(jnp.searchsorted(edges, target, side="right") - 1, 0, len(bins) - 2)
    low, high = edges[below], edges[below + 1]
    above_weight = jnp.clip((target - low) / (high - low), 0, 1)
    pair = jnp.take_along_axis(logits, jnp.stack([below, below + 1], -1), -1)
    chosen = (1 - above_weight) * pair[..., 0] + above_weight * pair[..., 1]
    return jax.nn.logsumexp(logits, -1) - chosen
