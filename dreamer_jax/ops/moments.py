"""Running range of the returns, which scales the advantages (DreamerV3, eqs. 11-12)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dreamer_jax.types import ArrayDict


def initial_range() -> ArrayDict:
    """Both percentiles start at 0 and are not bias-corrected."""
    return {"low": jnp.zeros((), jnp.float32), "high": jnp.zeros((), jnp.float32)}


def update_range(
    moments: ArrayDict, x: jax.Array, *, low: float, high: float, rate: float, axis_name: str | None = None
) -> ArrayDict:
    """Move the averages of the ``low`` and ``high`` percentiles of all ``x`` by ``rate``.

    With ``axis_name`` the percentiles are those of the values of all devices together.
    """
    x = jax.lax.stop_gradient(x)
    if axis_name is not None:
        x = jax.lax.all_gather(x, axis_name)
    percentiles = jnp.percentile(x, jnp.array([low, high]))
    return {
        name: (1 - rate) * moments[name] + rate * new for name, new in zip(("low", "high"), percentiles, strict=True)
    }


def range_scale(moments: ArrayDict, limit: float) -> jax.Array:
    """``max(limit, high - low)``: a floor under the divisor of the advantages."""
    return jnp.maximum(limit, moments["high"] - moments["low"])
