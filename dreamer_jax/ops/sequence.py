"""Scans over time: the only place where the time axis leads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def swap_time(tree: Any) -> Any:
    """``[B, T, ...]`` to ``[T, B, ...]`` and back, for every array of a tree."""
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)


def rematerialized(function: Callable[..., Any], wanted: bool) -> Callable[..., Any]:
    """If ``wanted``, only the inputs of ``function`` are kept for its gradient, and the rest is computed again."""
    return jax.checkpoint(function) if wanted else function


def scan_time(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, inputs: Any) -> tuple[Any, Any]:
    """``lax.scan`` over the second axis: inputs and outputs are [B, T, ...], the carry [B, ...]."""
    carry, outputs = jax.lax.scan(step, carry, swap_time(inputs))
    return carry, swap_time(outputs)
