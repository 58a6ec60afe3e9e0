"""How an agent chooses actions, and what it learns from imagination."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from dreamer_jax.config.schema import Config
from dreamer_jax.interfaces.world_model import WorldModel
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import Array, ArrayDict, BehaviorAux, LatentState, Mode, Params, TrainState, TrajectoryBatch


class InitBehavior(Protocol):
    def __call__(self, key: Array, /) -> dict[str, Params]:
        """New parameters by group: {"actor", "critic"}, or {} where nothing is learnt."""
        ...


class InitialCarry(Protocol):
    def __call__(self, size: int, /) -> Any:
        """What ``act`` remembers at the beginning of ``size`` episodes: arrays [size, ...], or () for nothing."""
        ...


class ChooseAction(Protocol):
    def __call__(
        self, params: dict[str, Params], key: Array, rows: Array, state: LatentState, carry: Any, mode: Mode, /
    ) -> tuple[Any, ArrayDict]:
        """The new carry, and actions {name: [N, ...]} as environments take them.

        Args:
          params: ``TrainState.params``.
          rows: [N] int, indices of the rows among all, to which random numbers belong.
          state: [N, ...] of the world model.
          carry: what the last call returned, or ``InitialCarry`` where an episode begins.
        """
        ...


class BehaviorLoss(Protocol):
    def __call__(
        self,
        params: dict[str, Params],
        state: TrainState,
        key: Array,
        rows: Array,
        /,
        *,
        posterior: LatentState,
        batch: TrajectoryBatch,
    ) -> tuple[dict[str, Array], BehaviorAux]:
        """Losses {name: [B, T] float32}, or none.

        Args:
          params: what gradients are taken by; ``state.params`` without a gradient.
          rows: [B] int, the windows' indices in the global batch.
          posterior: of ``batch``, as ``WorldModel.observe`` gives it.
        """
        ...


class Behavior(NamedTuple):
    """A learnt policy, or a planner."""

    init: InitBehavior
    initial: InitialCarry
    act: ChooseAction
    loss: BehaviorLoss


class MakeBehavior(Protocol):
    def __call__(
        self, config: Config, spec: EnvSpec, model: WorldModel, /, *, dtype: Any, axis_name: str | None
    ) -> Behavior:
        """A behavior in ``model``; networks compute in ``dtype``, means are those of all devices of ``axis_name``."""
        ...
