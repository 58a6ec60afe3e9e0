"""lambda-returns (DreamerV3, eq. 5, its replay form, and what came before). Time is the last axis."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def lambda_return(reward: jax.Array, discount: jax.Array, trace: jax.Array | float, value: jax.Array) -> jax.Array:
    """``R_t = r_{t+1} + d_{t+1} [(1 - k_{t+1}) v_{t+1} + k_{t+1} R_{t+1}]``, ending in ``R_H = v_H``.

    Args:
      reward, discount, value: [..., H+1]; rewards arrive with their state, so index 0 of reward and
        discount is unused.
      trace: [..., H+1] or a number, the weight ``k`` of the longer return.

    Returns:
      [..., H] float32.
    """
    chex.assert_equal_shape([reward, discount, value])
    trace = jnp.broadcast_to(jnp.asarray(trace, value.dtype), value.shape)
    interim = reward + discount * (1 - trace) * value
    decay = discount * trace

    def step(following: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        result = now[0] + now[1] * following
        return result, result

    inputs = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0)[1:], (interim, decay))
    _, returns = jax.lax.scan(step, value[..., -1], inputs, reverse=True)
    return jnp.moveaxis(returns, 0, -1)


def departure_return(reward: jax.Array, discount: jax.Array, lambda_: float, value: jax.Array) -> jax.Array:
    """``R_t = r_t + d_t [(1 - l) v_{t+1} + l R_{t+1}]``, ending in ``R_H = v_H`` (DreamerV1, eq. 6; DreamerV2, eq. 4).

    A state's value includes its own reward. All [..., H+1], of which the last reward and discount are unused; returns
    [..., H].
    """
    reward, discount = (jnp.roll(x, 1, -1) for x in (reward, discount))
    return lambda_return(reward, discount, lambda_, value)


def replay_return(
    reward: jax.Array,
    is_last: jax.Array,
    is_terminal: jax.Array,
    bootstrap: jax.Array,
    *,
    discount: float,
    lambda_: float,
) -> jax.Array:
    """Return of replayed states, [..., T-1] from [..., T].

    A termination ends the sum; a time limit cuts the trace but keeps the bootstrap; nothing crosses
    the border of an episode.
    """
    live = discount * (1 - is_terminal.astype(jnp.float32))
    trace = lambda_ * (1 - is_last.astype(jnp.float32))
    return lambda_return(reward, live, trace, bootstrap)
