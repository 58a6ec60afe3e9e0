"""Environments of gymnax, and of others of the same form, by their bare ``reset_env`` and ``step_env``.

gymnax's own ``step`` resets at once, with the last observation in its info alone; what is here never does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.envs.actions import plan_actions
from dreamer_jax.envs.observations import part_of, plan_observations
from dreamer_jax.interfaces.environment import Environment, EnvState, Transition
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import Array, ArrayDict

Ends = Callable[[EnvState, Array, Any], tuple[Array, Array]]
"""Of a state, whether its step said that it is the last, and the parameters: terminated, truncated."""


def names() -> list[str]:
    """Ids that gymnax knows, one's own registered ones among them.

    Raises:
      ImportError: it is not installed.
    """
    import gymnax

    return list(gymnax.registered_envs)


def make(name: str) -> Environment:
    """gymnax's environment of this id, such as ``CartPole-v1``.

    Raises:
      ConfigError: it is of a gymnax before 1.0, where time limits are terminations.
    """
    import gymnax
    from gymnax.environments.spaces import gymnax_space_to_gym_space

    env, params = gymnax.make(name)
    if not hasattr(env, "is_truncated"):
        raise ConfigError(f"env.task: 'gymnax/{name}' needs a newer package: pip install 'dreamer-jax[gymnax]'")

    def ends(state: EnvState, done: Array, params: Any) -> tuple[Array, Array]:
        return done, env.is_truncated(state, params)

    shown, taken = (gymnax_space_to_gym_space(space(params)) for space in (env.observation_space, env.action_space))
    return adapt(env, params, shown, taken, ends)._replace(time_limit=int(params.max_steps_in_episode))


def adapt(
    env: Any,
    params: Any,
    observations: gymnasium.Space,
    actions: gymnasium.Space,
    ends: Ends,
    log: Callable[[EnvState], ArrayDict] = lambda state: {},
) -> Environment:
    """An environment of gymnax's form, with its spaces as Gymnasium has them.

    Float arrays of three or more axes, which no image is, become vectors.

    Raises:
      ConfigError: its observations or actions can't be used.
    """
    shown = plan_observations(_flat(observations)).leaves
    (taken,) = plan_actions(actions).leaves

    def observe(observation: Any) -> ArrayDict:
        named = {leaf.name: part_of(observation, leaf.name, leaf.path) for leaf in shown}
        return {leaf.name: jnp.reshape(named[leaf.name], leaf.spec.shape).astype(leaf.spec.dtype) for leaf in shown}

    def own(action: Array) -> Array:
        if taken.reach is None:
            return action
        low, high, centre, half = (jnp.asarray(bound, jnp.float32) for bound in taken.reach)
        return jnp.clip(centre + half * action, low, high)

    def reset(key: Array) -> tuple[EnvState, ArrayDict]:
        observation, state = env.reset_env(key, params)
        return state, observe(observation)

    def step(key: Array, state: EnvState, action: ArrayDict) -> tuple[EnvState, Transition]:
        observation, state, reward, done, _ = env.step_env(key, state, own(action["action"]), params)
        reward, both = jnp.asarray(reward, jnp.float32), ends(state, done, params)
        return state, Transition(observe(observation), reward, *both, log(state))

    spec = EnvSpec({leaf.name: leaf.spec for leaf in shown}, {taken.name: taken.spec})
    begun = jax.eval_shape(reset, jax.eval_shape(lambda: jax.random.key(0)))[0]
    return Environment(spec, reset, step, log_names=tuple(jax.eval_shape(log, begun)))


def _flat(space: gymnasium.Space) -> gymnasium.Space:
    if isinstance(space, gymnasium.spaces.Box) and len(space.shape) > 2 and space.dtype != np.uint8:
        return gymnasium.spaces.Box(-np.inf, np.inf, (math.prod(space.shape),), np.float32)
    return space
