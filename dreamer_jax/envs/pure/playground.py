"""Environments of MuJoCo Playground, whose form is brax's."""

from __future__ import annotations

import jax

from dreamer_jax.envs.pure.brax import adapt
from dreamer_jax.interfaces.environment import Environment


def names() -> list[str]:
    """All of them: DeepMind Control, locomotion, manipulation.

    Raises:
      ImportError: Playground is not installed.
    """
    from mujoco_playground import registry

    return list(registry.ALL_ENVS)


def make(name: str) -> Environment:
    """Playground's environment of this name, such as ``CartpoleBalance``, with its own time limit.

    Its physics are MuJoCo Warp's where there is CUDA, else those of MJX in JAX alone.
    """
    from mujoco_playground import registry

    impl = "warp" if jax.default_backend() == "gpu" else "jax"
    env = registry.load(name, config_overrides={"impl": impl})
    return adapt(env, int(registry.get_default_config(name).episode_length))
