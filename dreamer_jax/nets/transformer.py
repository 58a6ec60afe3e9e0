"""A causal transformer over the records of a window, whose attention stops at the borders of episodes."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.config.schema import NetsConfig
from dreamer_jax.nets.layers import Dense
from dreamer_jax.types import Array


def causal_mask(is_first: Array) -> jax.Array:
    """Which records [B, T, T] each one may look at: itself, and those before it in its episode."""
    first = jnp.asarray(is_first)
    episode = jnp.cumsum(first, 1)
    before = np.tri(first.shape[1], dtype=bool)
    return jnp.asarray(before) & (episode[:, :, None] == episode[:, None, :])


def positions(length: int, width: int) -> np.ndarray:
    """Sines and cosines [length, width] (Vaswani et al. 2017, sec. 3.5)."""
    rate = np.exp(-np.log(10_000.0) * np.arange(0, width, 2) / width)
    angle = np.arange(length)[:, None] * rate
    return np.concatenate([np.sin(angle), np.cos(angle)], 1)[:, :width].astype(np.float32)


class CausalTransformer(nn.Module):
    """Layers of attention and MLP, each on the normalised sum so far (pre-norm)."""

    inputs: tuple[int, ...]
    units: int
    layers: int
    heads: int
    dtype: Any = jnp.float32
    nets: NetsConfig = NetsConfig()

    @nn.compact
    def __call__(self, is_first: Array, *parts: Array) -> jax.Array:
        """[B, T, units] float32 of parts [B, T, W_i] and resets [B, T]."""
        x = Dense(self.inputs, self.units, dtype=self.dtype, nets=self.nets, name="embed")(*parts)
        x = x + jnp.asarray(positions(x.shape[1], self.units), x.dtype)
        mask = causal_mask(is_first)[:, None]
        for number in range(self.layers):
            normed = nn.LayerNorm(dtype=self.dtype, name=f"attention_norm{number}")(x)
            attention = nn.MultiHeadDotProductAttention(self.heads, dtype=self.dtype, name=f"attention{number}")
            x = x + attention(normed, mask=mask)
            normed = nn.LayerNorm(dtype=self.dtype, name=f"mlp_norm{number}")(x)
            hidden = nn.gelu(nn.Dense(4 * self.units, dtype=self.dtype, name=f"wide{number}")(normed))
            x = x + nn.Dense(self.units, dtype=self.dtype, name=f"narrow{number}")(hidden)
        return nn.LayerNorm(dtype=self.dtype, name="norm")(x).astype(jnp.float32)
