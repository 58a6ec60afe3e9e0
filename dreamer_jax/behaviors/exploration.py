"""What training adds to the actions that a behavior chooses (PlaNet, sec. 2; DreamerV1, appendix A)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dreamer_jax.config.schema import ExploreConfig
from dreamer_jax.distributions import draw_noise, noise_kind, uniform_actions
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import Array, ArrayDict


def explore(
    config: ExploreConfig, spec: EnvSpec, key: Array, rows: Array, action: ArrayDict, records: Array | None
) -> ArrayDict:
    """The actions of ``rows`` as they are carried out, in the form and of the types of ``action``.

    Continuous ones get normal noise and are clipped to [-1, 1]; a discrete leaf is now and then replaced by
    classes drawn uniformly. ``records`` is the number of agent steps before, where ``counts_records``.
    """
    chance = epsilon(config, records)
    keys = dict(zip(spec.action, jax.random.split(key, len(spec.action)), strict=True))

    def disturb(name: str, leaf: ArraySpec) -> jax.Array:
        chosen, key = jnp.asarray(action[name]), keys[name]
        if not leaf.discrete and config.noise:
            noise = draw_noise(key, rows, leaf.shape, noise_kind(discrete=False))
            return jnp.clip(chosen + config.noise * noise, -1, 1)
        if leaf.discrete and explores_choices(config):
            coin_key, class_key = jax.random.split(key)
            replaced = draw_noise(coin_key, rows, (1,) * len(leaf.shape), noise_kind(discrete=True)) < chance
            random = uniform_actions(class_key, rows, {name: leaf})[name]
            return jnp.where(replaced, random.astype(chosen.dtype), chosen)
        return chosen

    return {name: disturb(name, leaf) for name, leaf in spec.action.items()}


def epsilon(config: ExploreConfig, records: Array | None) -> Array:
    """The chance of a random choice after ``records`` agent steps of all environments together."""
    if records is None:
        return config.epsilon
    done = jnp.minimum(1, records / config.epsilon_steps)
    return config.epsilon + done * (config.epsilon_final - config.epsilon)


def counts_records(config: ExploreConfig) -> bool:
    """Whether the chance of a random choice changes with the number of agent steps."""
    return config.epsilon_steps > 0 and config.epsilon != config.epsilon_final


def explores_choices(config: ExploreConfig) -> bool:
    """Whether there ever is a chance of a random choice."""
    return config.epsilon > 0 or counts_records(config)
