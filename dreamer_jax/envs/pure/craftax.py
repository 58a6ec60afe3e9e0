"""Craftax and Craftax-Classic, from symbols or pixels, in the form that never resets by itself.

Its ``done`` is a time limit, too; here that is one, and only death, or a beaten boss, is a termination. The log of a
step says of every achievement whether it has been unlocked in this episode.
"""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium
import jax.numpy as jnp
import numpy as np

from dreamer_jax.envs.pure.gymnax import adapt
from dreamer_jax.interfaces.environment import Environment, EnvState
from dreamer_jax.types import Array, ArrayDict

NAMES = [f"Craftax{world}-{view}-v1" for world in ("", "-Classic") for view in ("Symbolic", "Pixels")]
SIDES = 16
"""Pictures get black edges until height and width are multiples of it, as CNNs want them."""


def names() -> list[str]:
    """All of them.

    Raises:
      ImportError: craftax is not installed.
    """
    import craftax  # noqa: F401

    return NAMES


def make(name: str) -> Environment:
    """The environment of this id, such as ``Craftax-Classic-Symbolic-v1``."""
    from craftax.craftax_env import make_craftax_env_from_name

    env = make_craftax_env_from_name(name, auto_reset=False)
    params = env.default_params
    shape = env.observation_space(params).shape
    actions: gymnasium.Space = gymnasium.spaces.Discrete(env.num_actions)
    observations = gymnasium.spaces.Box(0, 1, shape, np.float32)
    if len(shape) == 3:
        env = Pictures(env)
        observations = gymnasium.spaces.Box(0, 255, _padded(shape), np.uint8)

    def ends(state: EnvState, done: Array, params: Any) -> tuple[Array, Array]:
        late = state.timestep >= params.max_timesteps
        alive = ~env.is_terminal(state.replace(timestep=jnp.zeros_like(state.timestep)), params)
        return done & ~alive, late

    known = importlib.import_module(f"craftax.craftax{'_classic' if 'Classic' in name else ''}.constants").Achievement

    def log(state: EnvState) -> ArrayDict:
        return {f"achievement_{one.name.lower()}": state.achievements[one.value] for one in known}

    return adapt(env, params, observations, actions, ends, log)._replace(time_limit=int(params.max_timesteps))


class Pictures:
    """Shows bytes in place of numbers in [0, 1]."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self.is_terminal = env.is_terminal

    def reset_env(self, key: Array, params: Any) -> tuple[Array, EnvState]:
        pixels, state = self._env.reset_env(key, params)
        return _bytes(pixels), state

    def step_env(self, key: Array, state: EnvState, action: Array, params: Any) -> tuple[Any, ...]:
        pixels, *others = self._env.step_env(key, state, action, params)
        return _bytes(pixels), *others


def _padded(shape: tuple[int, ...]) -> tuple[int, ...]:
    return *(-(-side // SIDES) * SIDES for side in shape[:2]), shape[2]


def _bytes(pixels: Array) -> Array:
    whole = jnp.round(255 * jnp.clip(pixels, 0, 1)).astype(jnp.uint8)
    more = [(after - before) for before, after in zip(whole.shape, _padded(whole.shape), strict=True)]
    return jnp.pad(whole, [(extra // 2, extra - extra // 2) for extra in more])
