"""Environments of brax, and of others of the same form, without any of its wrappers.

Those end an episode after 1,000 steps and go back to the state in which the first one began, again and again; without
them ``done`` is a termination alone, and each episode begins with a reset of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dreamer_jax.interfaces.environment import Environment, EnvState, Transition
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import Array, ArrayDict

TIME_LIMIT = 1000
"""Of brax's own wrapper, by default."""


def names() -> list[str]:
    """All of them, one's own registered ones among them.

    Raises:
      ImportError: brax is not installed.
    """
    from brax import envs

    return sorted(envs._envs)


def make(name: str) -> Environment:
    """brax's environment of this name, such as ``ant``, with its default physics."""
    from brax import envs

    return adapt(envs.get_environment(name), TIME_LIMIT)


def adapt(env: Any, time_limit: int) -> Environment:
    """An environment of brax's form, whose states have ``obs``, ``reward`` and ``done``.

    Where the simulation fails, so that a number is not finite, the episode is cut off there: with the observation
    before and reward 0, and no termination, as it is no end that an agent could learn from.
    """

    def observe(state: EnvState) -> ArrayDict:
        return dict(state.obs) if isinstance(state.obs, Mapping) else {"observation": state.obs}

    def reset(key: Array) -> tuple[EnvState, ArrayDict]:
        state = env.reset(key)
        return state, observe(state)

    def step(key: Array, state: EnvState, action: ArrayDict) -> tuple[EnvState, Transition]:
        after = env.step(state, action["action"])
        before, seen = observe(state), observe(after)
        whole = jnp.isfinite(after.reward) & jnp.stack([jnp.isfinite(value).all() for value in seen.values()]).all()
        seen = {name: jnp.where(whole, value, before[name]) for name, value in seen.items()}
        return after, Transition(seen, jnp.where(whole, after.reward, 0), whole & (after.done > 0), ~whole)

    shown = jax.eval_shape(reset, jax.eval_shape(lambda: jax.random.key(0)))[1]
    spec = EnvSpec(
        {name: ArraySpec(value.shape, "float32") for name, value in shown.items()},
        {"action": ArraySpec((env.action_size,), "float32")},
    )
    return Environment(spec, reset, step, time_limit)
