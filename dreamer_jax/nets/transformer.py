"""Causal attention that stops at the borders of episodes, over a window at once or step by step."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.config.schema import NetsConfig
from dreamer_jax.nets.layers import Dense, RMSNorm


class Transformer(nn.Module):
    """Layers of attention and MLP, each on the normalised sum so far (pre-norm).

    Attention knows how many steps ago something was (ALiBi, Press et al. 2022), never at which place.
    """

    width: int
    layers: int
    heads: int
    dtype: Any = jnp.float32
    nets: NetsConfig = NetsConfig()

    def setup(self) -> None:
        width, layers = self.width, range(self.layers)

        def dense(inputs: int, outputs: int) -> Dense:
            return Dense((inputs,), outputs, dtype=self.dtype, nets=self.nets)

        self.norms = [RMSNorm((width,)) for _ in layers]
        self.qkv = [dense(width, 3 * width) for _ in layers]
        self.attended = [dense(width, width) for _ in layers]
        self.mlp_norms = [RMSNorm((width,)) for _ in layers]
        self.wide = [dense(width, 2 * width) for _ in layers]
        self.narrow = [dense(2 * width, width) for _ in layers]
        self.last_norm = RMSNorm((width,))

    def __call__(
        self, x: jax.Array, memory: jax.Array, visible: jax.Array, ago: np.ndarray
    ) -> tuple[jax.Array, jax.Array]:
        """What becomes of steps [N, Q, D], and their memory [N, Q, L, 2, D]: keys and values of each layer. float32.

        Args:
          memory: [N, W, L, 2, D] of the steps before.
          visible: [N, Q, W + Q] bool, which of all these a step looks at; itself at least.
          ago: [Q, W + Q] int, how many steps before it they were.
        """
        slope = 2.0 ** (-8 * (np.arange(self.heads) + 1) / self.heads)
        bias = jnp.where(visible[:, None], -(slope[:, None, None] * ago).astype(np.float32), -jnp.inf)

        def heads(x: jax.Array) -> jax.Array:
            return x.reshape(*x.shape[:-1], self.heads, -1)

        kept = []
        for layer in range(self.layers):
            query, key, value = jnp.split(self.qkv[layer](self.norms[layer](x)), 3, -1)
            kept.append(jnp.stack([key, value], 2))
            every = jnp.concatenate([memory[:, :, layer].astype(x.dtype), kept[-1]], 1)
            scores = jnp.einsum("nqhd,nkhd->nhqk", heads(query), heads(every[:, :, 0])).astype(jnp.float32)
            share = jax.nn.softmax(scores / np.sqrt(self.width // self.heads) + bias).astype(x.dtype)
            seen = jnp.einsum("nhqk,nkhd->nqhd", share, heads(every[:, :, 1]))
            x = x + self.attended[layer](seen.reshape(x.shape))
            x = x + self.narrow[layer](nn.silu(self.wide[layer](self.mlp_norms[layer](x))))
        return self.last_norm(x).astype(jnp.float32), jnp.stack(kept, 2).astype(jnp.float32)


class CausalTransformer(nn.Module):
    """Of a window alone: every record sees itself and all before it in its episode."""

    inputs: tuple[int, ...]
    width: int
    layers: int
    heads: int
    dtype: Any = jnp.float32
    nets: NetsConfig = NetsConfig()

    def setup(self) -> None:
        self.embed = Dense(self.inputs, self.width, dtype=self.dtype, nets=self.nets)
        self.transformer = Transformer(self.width, self.layers, self.heads, self.dtype, self.nets)

    def __call__(self, is_first: jax.Array, *parts: jax.Array) -> jax.Array:
        """[B, T, width] float32 of parts [B, T, W_i] and resets [B, T]."""
        x, episode, places = self.embed(*parts), jnp.cumsum(is_first, 1), np.arange(is_first.shape[1])
        ago = places[:, None] - places
        visible = jnp.asarray(ago >= 0) & (episode[:, :, None] == episode[:, None, :])
        nothing = jnp.zeros((len(x), 0, self.layers, 2, self.width))
        return self.transformer(x, nothing, visible, ago)[0]
