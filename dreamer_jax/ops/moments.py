"""Running range of the returns, which scales the advantages (DreamerV3, eq. 7)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dreamer_jax.types import ArrayDict


def initial_range() -> ArrayDict:
    """Both percentiles start at 0 and are not bias-corrected."""
    return {"low": jnp.zeros((), jnp.float32), "high": jnp.zeros((), jnp.float32)}


def gathered(x: jax.Array, axis_name: str | None) -> jax.Array:
    """The values of all devices of ``axis_name`` together, without a gradient."""
    x = jax.lax.stop_gradient(x)
    return x if axis_name is None else jax.lax.all_gather(x, axis_name)


def update_range(moments: ArrayDict, x: jax.Array, *, low: float, high: float, rate: float) -> ArrayDict:
    """Move the averages of the ``low`` and ``high`` percentiles of ``x`` by ``rate``."""
    percentiles = jnp.percentile(jax.lax.stop_gradient(x), jnp.array([low, high], jnp.float32))
    return {
        name: (1 - rate) * moments[name] + rate * new for name, new in zip(("low", "high"), percentiles, strict=True)
    }


def range_scale(moments: ArrayDict, limit: float) -> jax.Array:
    """``max(limit, high - low)``: a floor under the divisor of the advantages."""
    return jnp.maximum(limit, moments["high"] - moments["low"])
