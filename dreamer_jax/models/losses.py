"""Losses of the latent distributions (PlaNet, eqs. 3 and 7; DreamerV3, eqs. 2-3)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dreamer_jax.interfaces import RSSM
from dreamer_jax.ops.sequence import swap_time
from dreamer_jax.types import Array, ArrayDict, Params, RSSMState

stop = jax.lax.stop_gradient


def kl_losses(
    distribution: Callable[[ArrayDict], object],
    posterior: ArrayDict,
    prior: ArrayDict,
    free_nats: float,
    free_average: bool = False,
    axis_name: str | None = None,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """``dyn = KL(sg(posterior) || prior)`` and ``rep = KL(posterior || sg(prior))``, and the raw KL. All [B, T].

    Summed over the latents, then at least ``free_nats`` for each time step, below which there is no gradient. With
    ``free_average`` they are for the mean of the whole batch, of all devices (``axis_name``): below it every element is
    ``free_nats``, above it none is touched.
    """
    dyn = _kl(distribution, stop(posterior), prior)
    rep = _kl(distribution, posterior, stop(prior))

    def clip(kl: jax.Array) -> jax.Array:
        if not free_average:
            return jnp.maximum(kl, free_nats)
        return jnp.where(_mean(stop(kl), axis_name) > free_nats, kl, free_nats)

    return {"dyn": clip(dyn), "rep": clip(rep)}, stop(dyn)


def overshooting_loss(
    rssm: RSSM,
    params: Params,
    noise: Array,
    posterior: RSSMState,
    prev_action: jax.Array,
    is_first: jax.Array,
    free_nats: float,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean over t and d = 2 ... D of ``max(KL(sg(posterior_t) || prior_{t | t-d}), free_nats)`` (PlaNet, eq. 7).

    The prior is rolled forward for d steps from the posterior's *sample* at t-d, which learns as well as the prior.
    Pairs whose start lies before the window or in another episode don't count. [B, T] whose mean, over all devices of
    ``axis_name``, is that mean; the element of t-d has what was predicted from there.

    Args:
      noise: [B, T, D, ...], whose length is D.
      prev_action: [B, T, A], the flat vector that led to each record.
    """
    size, length = is_first.shape
    steps = noise.shape[2]
    if steps >= length:  # whatever lies further ahead has no posterior
        noise, steps = noise[:, :, : length - 1], length - 1

    def ahead(x: jax.Array) -> jax.Array:
        """[steps, B * T, ...]: what comes 1, 2 ... steps records after each one; beyond the end anything."""
        return jnp.stack([jnp.roll(x, -d, 1).reshape(size * length, *x.shape[2:]) for d in range(1, steps + 1)])

    distance = jnp.arange(1, steps + 1)[:, None]
    place = jnp.tile(jnp.arange(length), size)
    same = (jnp.cumsum(ahead(is_first).astype(jnp.int32), 0) == 0) & (place + distance < length)
    counts = (same & (distance > 1)).astype(jnp.float32)

    def step(state: RSSMState, inputs: tuple[jax.Array, jax.Array, ArrayDict]) -> tuple[RSSMState, jax.Array]:
        action, noise, target = inputs
        after = rssm.prior(params, noise, state, action)
        return after.without_stats(), _kl(rssm.distribution, target, after.stats)

    flat = jax.tree.map(lambda x: x.reshape(size * length, *x.shape[2:]), posterior)
    noise = swap_time(jnp.asarray(noise).reshape(size * length, *noise.shape[2:]))
    targets = jax.tree.map(ahead, stop(posterior.stats))
    _, kl = jax.lax.scan(step, rssm.carry(flat), (ahead(prev_action), noise, targets))
    total = (counts * jnp.maximum(kl, free_nats)).sum(0)
    return (total / jnp.maximum(_mean(counts.sum(0), axis_name), 1e-8)).reshape(size, length)


def _kl(distribution: Callable[[ArrayDict], object], left: ArrayDict, right: ArrayDict) -> jax.Array:
    return distribution(left).kl_divergence(distribution(right))  # type: ignore[attr-defined]


def _mean(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Over the whole batch, whose parts are on the devices of ``axis_name``."""
    return x.mean() if axis_name is None else jax.lax.pmean(x.mean(), axis_name)
