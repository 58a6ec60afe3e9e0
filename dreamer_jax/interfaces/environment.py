"""An environment as pure functions, which can run inside of a compiled program."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import Array, ArrayDict

EnvState = Any
"""A pytree of arrays. Only the environment that made it looks inside."""


class Transition(NamedTuple):
    """What an action led to. The observation of a last step is that of the end, never of a new episode."""

    observation: ArrayDict  # {name: [...]} as ``EnvSpec.observation`` has them
    reward: Array  # [] float32
    terminated: Array  # [] bool, the episode has come to its own end
    truncated: Array  # [] bool, or it was cut off and would have gone on
    log: ArrayDict = {}  # noqa: RUF012  {name: []} as ``Environment.log_names``: numbers of the episode so far


class ResetEnvironment(Protocol):
    def __call__(self, key: Array, /) -> tuple[EnvState, ArrayDict]:
        """The state that begins an episode, and its observation {name: [...]}."""
        ...


class StepEnvironment(Protocol):
    def __call__(self, key: Array, state: EnvState, action: ArrayDict, /) -> tuple[EnvState, Transition]:
        """One step of one environment, without any reset.

        Args:
          key: new in every step.
          action: {name: [...]} as ``EnvSpec.action`` has them; continuous ones are in [-1, 1].
        """
        ...


class Environment(NamedTuple):
    """One environment, not many: ``jax.vmap`` makes those.

    An action that is the only one is named ``action``.
    """

    spec: EnvSpec
    reset: ResetEnvironment
    step: StepEnvironment
    time_limit: int = 0  # frames after which an episode is to be cut off; 0: never, or ``step`` does it
    log_names: tuple[str, ...] = ()  # what a run writes down of the last step of each episode, beside its score
