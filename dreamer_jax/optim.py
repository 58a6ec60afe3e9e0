"""LaProp with adaptive gradient clipping (DreamerV3, sec. 3; Ziyin et al. 2020)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from dreamer_jax.config.schema import OptimizerConfig


def clip_by_tensor_norm(limit: float, floor: float = 1e-3) -> optax.GradientTransformation:
    """``g / max(1, |g| / (limit max(floor, |p|)))`` with norms over whole tensors.

    optax's adaptive clipping takes norms by unit instead.
    """

    def update(grads: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None) -> tuple:
        def clip(grad: jax.Array, param: jax.Array) -> jax.Array:
            allowed = limit * jnp.maximum(floor, jnp.linalg.norm(param.ravel()))
            return grad / jnp.maximum(1.0, jnp.linalg.norm(grad.ravel()) / allowed)

        return jax.tree.map(clip, grads, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clip, divide by the root mean square, *then* average: the order that allows so small an eps."""
    rate: optax.ScalarOrSchedule = config.learning_rate
    if config.warmup:
        rate = optax.linear_schedule(0.0, config.learning_rate, config.warmup)
    return optax.chain(
        clip_by_tensor_norm(config.agc) if config.agc else optax.identity(),
        optax.scale_by_rms(config.beta2, config.eps, eps_in_sqrt=False, bias_correction=True),
        optax.ema(config.beta1, debias=True),
        optax.scale_by_learning_rate(rate),
    )
