"""Acting in environments with a compiled policy."""

from __future__ import annotations

from typing import Any, get_args

import jax
import numpy as np

from dreamer_jax.devices.packing import Packing, ask_for, fetch
from dreamer_jax.interfaces import Agent
from dreamer_jax.types import Array, Mode, PolicyCarry, TimeStep

Chosen = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
"""Actions and latents by name, one row for each environment."""


class Act:
    """``act(params, root, step, carry, timestep) -> (carry, action, latents)``: one decision for all environments.

    The policy's key is ``fold_in(root, step)``; ``env_offset`` is the number of the first environment. The carry stays
    on the device; the actions and the latents for replay are fetched together, as numpy arrays by name.
    """

    def __init__(self, agent: Agent, mode: Mode) -> None:
        self._packing = Packing(axes=1)

        @jax.jit
        def policy(
            params: Any, root: Array, step: Array, carry: PolicyCarry, timestep: TimeStep, env_offset: Array
        ) -> Any:
            key = jax.random.fold_in(root, step)
            carry, action, latents = agent.policy(params, key, carry, timestep, mode, env_offset)
            return carry, self._packing.pack((action, latents))

        self._policy = policy

    def begin(
        self, params: Any, root: Array, step: int, carry: PolicyCarry, timestep: TimeStep, env_offset: int = 0
    ) -> tuple[PolicyCarry, Array]:
        """The new carry, and what ``finish`` takes; waits for nothing."""
        carry, chosen = self._policy(params, root, np.uint32(step), carry, timestep, np.int32(env_offset))
        return carry, ask_for(chosen)

    def finish(self, chosen: Array) -> Chosen:
        """Wait until the decision is on the host."""
        return self._packing.unpack(fetch(chosen))

    def __call__(self, params: Any, root: Array, step: int, carry: PolicyCarry, timestep: TimeStep) -> Any:
        carry, chosen = self.begin(params, root, step, carry, timestep)
        return carry, *self.finish(chosen)


def make_act(agent: Agent, mode: Mode) -> Act:
    """Acting with ``agent``, compiled anew for each number of environments."""
    return Act(agent, mode)


def make_acts(agent: Agent) -> dict[Mode, Act]:
    """Acting in every mode; what is not used is not compiled."""
    return {mode: make_act(agent, mode) for mode in get_args(Mode)}
