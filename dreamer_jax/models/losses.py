"""Losses of the latent distributions (PlaNet, eqs. 3 and 7; DreamerV3, eqs. 2-3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dreamer_jax.interfaces import Dynamics
from dreamer_jax.interfaces.latent import Divergence
from dreamer_jax.ops.sequence import swap_time
from dreamer_jax.types import Array, LatentState, Noise, Params, Stats

stop = jax.lax.stop_gradient


def kl_losses(
    divergence: Divergence,
    posterior: Stats,
    prior: Stats,
    *,
    free_nats: Array,
    free_average: bool = False,
    axis_name: str | None = None,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """``dyn = KL(sg(posterior) || prior)`` and ``rep = KL(posterior || sg(prior))``, and the raw KL. All [B, T].

    Summed over the latents, then at least ``free_nats`` for each time step, below which there is no gradient. With
    ``free_average`` they are for the mean of the whole batch, of all devices (``axis_name``): below it every element is
    ``free_nats``, above it none is touched.
    """
    dyn = divergence(stop(posterior), prior).sum(-1)
    rep = divergence(posterior, stop(prior)).sum(-1)

    def clip(kl: jax.Array) -> jax.Array:
        if not free_average:
            return jnp.maximum(kl, free_nats)
        return jnp.where(_mean(stop(kl), axis_name) > free_nats, kl, free_nats)

    return {"dyn": clip(dyn), "rep": clip(rep)}, stop(dyn)


def overshooting_loss(
    dynamics: Dynamics,
    params: Params,
    noise: Noise,
    *,
    posterior: LatentState,
    stats: Stats,
    prev_action: Array,
    is_first: Array,
    steps: int,
    free_nats: Array,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean over t and d = 2 ... D of ``max(KL(sg(posterior_t) || prior_{t | t-d}), free_nats)`` (PlaNet, eq. 7).

    The prior is rolled forward for d steps from the posterior's *sample* at t-d, which learns as well as the prior.
    Pairs whose start lies before the window or in another episode don't count. [B, T] whose mean, over all devices of
    ``axis_name``, is that mean; the element of t-d has what was predicted from there.

    Args:
      noise: [B, T, D, ...].
      stats: the posterior's, [B, T, ...].
      prev_action: [B, T, A], the flat vector that led to each record.
      steps: D.
    """
    size, length = is_first.shape
    steps = min(steps, length - 1)  # whatever lies further ahead has no posterior

    def ahead(x: jax.Array) -> jax.Array:
        """[steps, B * T, ...]: what comes 1, 2 ... steps records after each one; beyond the end anything."""
        return jnp.stack([jnp.roll(x, -d, 1).reshape(size * length, *x.shape[2:]) for d in range(1, steps + 1)])

    def flat(x: Array) -> jax.Array:
        return jnp.asarray(x).reshape(size * length, *x.shape[2:])

    distance = jnp.arange(1, steps + 1)[:, None]
    place = jnp.tile(jnp.arange(length), size)
    same = (jnp.cumsum(ahead(is_first).astype(jnp.int32), 0) == 0) & (place + distance < length)
    counts = (same & (distance > 1)).astype(jnp.float32)

    def step(state: LatentState, inputs: tuple[Array, Noise, Stats]) -> tuple[LatentState, jax.Array]:
        action, noise, target = inputs
        state, predicted = dynamics.prior(params, noise, state, action)
        return state, dynamics.latent.divergence(target, predicted).sum(-1)

    start = dynamics.to_scan_carry(jax.tree.map(flat, dynamics.starts(posterior)))
    noise = swap_time(jax.tree.map(lambda x: flat(x[:, :, :steps]), noise))
    targets = jax.tree.map(ahead, stop(stats))
    _, kl = jax.lax.scan(step, start, (ahead(prev_action), noise, targets))
    total: jax.Array = (counts * jnp.maximum(kl, free_nats)).sum(0)
    return jnp.reshape(total / jnp.maximum(_mean(counts.sum(0), axis_name), 1e-8), (size, length))


def _mean(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Over the whole batch, whose parts are on the devices of ``axis_name``."""
    return x.mean() if axis_name is None else jax.lax.pmean(x.mean(), axis_name)
