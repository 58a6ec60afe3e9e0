"""A whole agent; the training loop knows nothing else about an algorithm."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from dreamer_jax.specs import ArraySpec
from dreamer_jax.types import Array, ArrayDict, Dream, Mode, Params, PolicyCarry, TimeStep, TrainState, TrajectoryBatch


class InitAgent(Protocol):
    def __call__(self, key: Array, /) -> TrainState:
        """A new train state."""
        ...


class ResetPolicy(Protocol):
    def __call__(self, params: dict[str, Params], num_envs: int, /) -> PolicyCarry:
        """The carry before the first record of ``num_envs`` environments."""
        ...


class Policy(Protocol):
    def __call__(
        self,
        params: dict[str, Params],
        key: Array,
        carry: PolicyCarry,
        timestep: TimeStep,
        /,
        mode: Mode = "sample",
        env_offset: Array = 0,
    ) -> tuple[PolicyCarry, ArrayDict, ArrayDict]:
        """The new carry, actions {name: [E, ...]}, and latents {name: [E, ...]} as ``Agent.latent_spec`` has them.

        Args:
          env_offset: [] int, the number of the first of these environments among all: random numbers belong to them.
        """
        ...


class AgentLoss(Protocol):
    def __call__(
        self, params: dict[str, Params], state: TrainState, key: Array, batch: TrajectoryBatch, /
    ) -> tuple[Array, Any]:
        """What ``Update`` differentiates, [] float32, and what else is computed on the way."""
        ...


class Update(Protocol):
    def __call__(
        self, state: TrainState, key: Array, batch: TrajectoryBatch, /
    ) -> tuple[TrainState, dict[str, Array], ArrayDict]:
        """One gradient step: the new state, metrics {name: []}, and latents {name: [B, T, ...]} for replay.

        A metric whose name begins with ``loss/`` ends the run where it is not finite.
        """
        ...


class Report(Protocol):
    def __call__(self, state: TrainState, key: Array, batch: TrajectoryBatch, /) -> tuple[dict[str, Array], Any]:
        """Metrics {name: []} of the world model on windows [B, T], and a ``Dream`` from their first half, or None."""
        ...


class MakeDream(Protocol):
    def __call__(
        self,
        params: dict[str, Params],
        key: Array,
        /,
        seen: TrajectoryBatch,
        actions: ArrayDict | None,
        length: int,
        mode: Mode = "sample",
    ) -> Dream:
        """Watch ``seen`` [B, C], then imagine ``length`` steps: by ``actions`` {name: [B, length, ...]}, or its own."""
        ...


class Agent(NamedTuple):
    """``params`` are ``TrainState.params``."""

    init: InitAgent
    reset: ResetPolicy
    policy: Policy
    loss: AgentLoss
    update: Update
    report: Report
    dream: MakeDream
    latent_spec: dict[str, ArraySpec]  # what replay is to keep beside each record; empty if nothing
