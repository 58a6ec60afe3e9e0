"""Scans over time, the only place where the time axis leads, and over chunks of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def swap_time(tree: Any) -> Any:
    """``[B, T, ...]`` to ``[T, B, ...]`` and back, for every array of a tree."""
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)


def mask_first(x: jax.Array, is_first: jax.Array, first: jax.Array | float = 0) -> jax.Array:
    """``first`` where an episode begins, else ``x``; ``is_first`` has the leading axes of ``x``."""
    return jnp.where(is_first.reshape(*is_first.shape, *(1,) * (x.ndim - is_first.ndim)), first, x)


def rematerialized(function: Callable[..., Any], wanted: bool) -> Callable[..., Any]:
    """If ``wanted``, only the inputs of ``function`` are kept for its gradient, and the rest is computed again."""
    return jax.checkpoint(function) if wanted else function


def in_chunks(function: Callable[[Any], Any], inputs: Any, rows: int) -> Any:
    """``function(inputs)`` of arrays [H, N, ...], whose rows don't know of each other, at most ``rows`` at a time.

    What is inside is computed again for the gradient: the memory is that of one chunk, and where it fits into a
    core's cache that costs less than to write everything down. 0 is all at once, nothing twice.
    """
    steps, width = jax.tree.leaves(inputs)[0].shape[:2]
    if not rows or rows >= steps * width:
        return function(inputs)
    size = max(n for n in range(1, rows + 1) if steps * width % n == 0)
    chunks = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[2:]), inputs)
    outputs = jax.lax.map(jax.checkpoint(function), chunks)
    return jax.tree.map(lambda x: x.reshape(steps, width, *x.shape[2:]), outputs)


def scan_time(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, inputs: Any) -> tuple[Any, Any]:
    """``lax.scan`` over the second axis: inputs and outputs are [B, T, ...], the carry [B, ...]."""
    carry, outputs = jax.lax.scan(step, carry, swap_time(inputs))
    return carry, swap_time(outputs)
