"""Functions that travel between the parts: bundles of pure functions with explicit keys.

Each function has a protocol that says what it takes and returns; each bundle is built by keyword. Arguments before
``/`` are given by position, and an implementation may call them as it likes.
"""

from dreamer_jax.interfaces.agent import Agent
from dreamer_jax.interfaces.behavior import Behavior, MakeBehavior
from dreamer_jax.interfaces.dynamics import Dynamics, MakeDynamics
from dreamer_jax.interfaces.environment import Environment, Transition
from dreamer_jax.interfaces.latent import Latent, MakeLatent
from dreamer_jax.interfaces.world_model import WorldModel

__all__ = [
    "Agent",
    "Behavior",
    "Dynamics",
    "Environment",
    "Latent",
    "MakeBehavior",
    "MakeDynamics",
    "MakeLatent",
    "Transition",
    "WorldModel",
]
