"""Losses of the latent distributions (DreamerV3, eqs. 2-3)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dreamer_jax.types import ArrayDict


def kl_losses(
    distribution: Callable[[ArrayDict], object], posterior: ArrayDict, prior: ArrayDict, free_nats: float
) -> tuple[dict[str, jax.Array], jax.Array]:
    """``dyn = KL(sg(posterior) || prior)`` and ``rep = KL(posterior || sg(prior))``, and the raw KL.

    Summed over the latents, then at least ``free_nats`` for each time step, below which there is no
    gradient. All [B, T].
    """

    def kl(left: ArrayDict, right: ArrayDict) -> jax.Array:
        return distribution(left).kl_divergence(distribution(right))  # type: ignore[attr-defined]

    dyn = kl(jax.lax.stop_gradient(posterior), prior)
    rep = kl(posterior, jax.lax.stop_gradient(prior))
    clipped = {"dyn": jnp.maximum(dyn, free_nats), "rep": jnp.maximum(rep, free_nats)}
    return clipped, jax.lax.stop_gradient(dyn)
