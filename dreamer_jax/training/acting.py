"""Acting in environments with a compiled policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dreamer_jax.interfaces import Agent
from dreamer_jax.types import Array, Mode, PolicyCarry, TimeStep

Act = Callable[[Any, Array, int, PolicyCarry, TimeStep], tuple[PolicyCarry, dict[str, np.ndarray], dict[str, Any]]]


def make_act(agent: Agent, mode: Mode) -> Act:
    """``act(params, root, step, carry, timestep) -> (carry, action, latents)``.

    The policy's key is ``fold_in(root, step)``. The carry stays on the device; the actions and the
    latents for replay are fetched together, as numpy arrays by name.
    """

    @jax.jit
    def policy(params: Any, root: Array, step: Array, carry: PolicyCarry, timestep: TimeStep) -> Any:
        return agent.policy(params, jax.random.fold_in(root, step), carry, timestep, mode)

    def act(params: Any, root: Array, step: int, carry: PolicyCarry, timestep: TimeStep) -> Any:
        carry, *results = policy(params, root, np.uint32(step), carry, timestep)
        action, latents = jax.device_get(results)
        return carry, action, latent_arrays(agent, latents)

    return act


def latent_arrays(agent: Agent, latents: Any) -> dict[str, Any]:
    """The latents that ``agent`` hands back, by the names of its ``latent_spec``."""
    return {name: getattr(latents, name) for name in agent.latent_spec}
