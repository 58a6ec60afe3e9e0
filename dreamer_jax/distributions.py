"""Distributions over distrax, and the only place that draws random numbers.

Noise is drawn before a scan, one key for each row of the *global* batch, so that the same batch
gives the same update on any number of devices. ``sample`` turns noise into a draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import distrax
import jax
import jax.numpy as jnp

from dreamer_jax.specs import ArraySpec
from dreamer_jax.types import Array, ArrayDict

Kind = Literal["uniform", "normal"]


def draw_noise(key: Array, rows: Array, shape: tuple[int, ...], kind: Kind) -> jax.Array:
    """Noise [rows, *shape]; row ``i`` depends on ``key`` and ``rows[i]``, its index in the global batch."""
    draw = {"uniform": jax.random.uniform, "normal": jax.random.normal}[kind]
    return jax.vmap(lambda row: draw(jax.random.fold_in(key, row), shape, jnp.float32))(rows)


def uniform_actions(key: Array, rows: Array, specs: Mapping[str, ArraySpec]) -> ArrayDict:
    """Actions as environments take them, {name: [rows, ...]}: any class alike, or numbers uniform in [-1, 1)."""
    actions = {}
    for leaf_key, (name, spec) in zip(jax.random.split(key, len(specs)), specs.items(), strict=True):
        noise = draw_noise(leaf_key, rows, spec.shape, "uniform")
        actions[name] = (jnp.floor(spec.classes * noise) if spec.classes else 2 * noise - 1).astype(spec.dtype)
    return actions


def categorical(logits: jax.Array, unimix: float = 0.0) -> distrax.Distribution:
    """One-hot variables [..., S, K], independent over S, mixed with ``unimix`` of uniform (V3, sec. 3)."""
    logits = logits.astype(jnp.float32)
    if unimix:
        probs = (1 - unimix) * jax.nn.softmax(logits) + unimix / logits.shape[-1]
        # Not as logits: a sample would then pay for a logarithm and another softmax.
        return distrax.Independent(distrax.OneHotCategorical(probs=probs, dtype=jnp.float32), 1)
    return distrax.Independent(distrax.OneHotCategorical(logits=logits, dtype=jnp.float32), 1)


def normal(mean: jax.Array, std: jax.Array) -> distrax.Distribution:
    """Independent normal variables over the last axis."""
    return distrax.Independent(distrax.Normal(mean.astype(jnp.float32), std.astype(jnp.float32)), 1)


def bernoulli(logit: jax.Array) -> distrax.Distribution:
    """A yes or no [...]; its log-probability takes soft labels."""
    return distrax.Bernoulli(logits=logit.astype(jnp.float32))


def noise_kind(discrete: bool) -> Kind:
    """The noise that ``sample`` takes: uniform [..., S] for categoricals, normal [..., A] else."""
    return "uniform" if discrete else "normal"


def sample(distribution: distrax.Distribution, noise: Array) -> jax.Array:
    """A draw from ``categorical`` (straight-through one-hot) or ``normal`` (reparameterised)."""
    inner = distribution.distribution
    if isinstance(inner, distrax.OneHotCategorical):
        probs = inner.probs
        return straight_through(inverse_cdf(jax.lax.stop_gradient(probs), noise), probs)
    return inner.loc + inner.scale * noise


def mode(distribution: distrax.Distribution) -> jax.Array:
    """The most likely value; no gradient for categoricals."""
    return distribution.mode()


def variable_kl(left: distrax.Distribution, right: distrax.Distribution) -> jax.Array:
    """KL(left || right) of each variable by itself, [..., S]; ``kl_divergence`` is their sum."""
    return left.distribution.kl_divergence(right.distribution)


def active_variables(distribution: distrax.Distribution) -> jax.Array:
    """Which variables [S] tell the leading axes apart.

    Categorical ones by their information H(mean of q) - mean of H(q), above 0.05 nats; normal ones by the
    variance of their mean, above 0.01 (Burda et al. 2016, "Importance Weighted Autoencoders", section 5.2).
    """
    inner = distribution.distribution
    if isinstance(inner, distrax.OneHotCategorical):
        axes = tuple(range(inner.probs.ndim - 2))
        mean = distrax.OneHotCategorical(probs=inner.probs.mean(axes))
        return mean.entropy() - inner.entropy().mean(axes) > 0.05
    return inner.loc.var(tuple(range(inner.loc.ndim - 1))) > 0.01


def inverse_cdf(probs: jax.Array, uniform: Array) -> jax.Array:
    """One-hot of the class in whose share of [0, 1) the uniform number falls.

    The same distribution as the Gumbel trick for one random number a variable instead of K.
    """
    classes = probs.shape[-1]
    cumulative = probs @ jnp.triu(jnp.ones((classes, classes), probs.dtype))
    passed = (uniform[..., None] >= cumulative[..., :-1]).astype(probs.dtype)
    ends = jnp.ones_like(passed[..., :1])
    return jnp.concatenate([ends, passed], -1) - jnp.concatenate([passed, jnp.zeros_like(ends)], -1)


def straight_through(onehot: jax.Array, probs: jax.Array) -> jax.Array:
    """The one-hot in value, the probabilities in gradient (DreamerV2, sec. 2)."""
    return onehot + (probs - jax.lax.stop_gradient(probs))
