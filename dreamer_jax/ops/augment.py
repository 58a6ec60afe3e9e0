"""Images changed at random before a world model learns from them; all records of a window in the same way.

Shifts are those of DrQ (Yarats et al. 2021, sec. 3); brightness and contrast are two of SimCLR's colour distortions.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dreamer_jax.types import Array


def shift(key: Array, rows: Array, images: Array, most: int) -> jax.Array:
    """Windows of images [B, T, H, W, C] moved by up to ``most`` pixels each way; edges are repeated.

    Args:
      rows: [B] int, their indices in the global batch, to which the random numbers belong.
    """
    height, width = images.shape[2:4]
    padding = (0, 0), (most, most), (most, most), (0, 0)

    def move(row: Array, window: Array) -> jax.Array:
        place = jax.random.randint(jax.random.fold_in(key, row), (2,), 0, 2 * most + 1)
        wide = jnp.pad(window, padding, mode="edge")
        size = len(window), height, width, window.shape[-1]
        return jax.lax.dynamic_slice(wide, (0, place[0], place[1], 0), size)

    return jax.vmap(move)(rows, images)


def jitter(key: Array, rows: Array, images: Array, strength: float) -> jax.Array:
    """Windows of bytes [B, T, H, W, C] with another brightness and contrast, each times 1 - ``strength`` to 1 + it."""

    def change(row: Array, window: Array) -> jax.Array:
        low, high = 1 - strength, 1 + strength
        brightness, contrast = jax.random.uniform(jax.random.fold_in(key, row), (2,), minval=low, maxval=high)
        pixels = window.astype(jnp.float32) * brightness
        mean = pixels.mean()
        return jnp.clip(jnp.round((pixels - mean) * contrast + mean), 0, 255).astype(jnp.uint8)

    return jax.vmap(change)(rows, images)
