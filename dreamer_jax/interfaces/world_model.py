"""Encoder, dynamics, decoder and the heads for reward and continuation, put together."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from dreamer_jax.interfaces.dynamics import Dynamics, InitParams
from dreamer_jax.specs import ArraySpec
from dreamer_jax.types import Array, ArrayDict, Features, LatentState, ModelAux, Noise, Params, TrajectoryBatch


class Encode(Protocol):
    def __call__(self, params: Params, observation: ArrayDict, /) -> Array:
        """Tokens [..., W] of observations {name: [..., ...]}."""
        ...


class Filter(Protocol):
    def __call__(
        self,
        params: Params,
        key: Array,
        rows: Array,
        state: LatentState,
        /,
        *,
        prev_action: ArrayDict,
        observation: ArrayDict,
        is_first: Array,
    ) -> LatentState:
        """The state after one more record for each row, which is all that acting needs.

        Args:
          rows: [N] int, indices of the rows in the global batch, to which random numbers belong.
          state: [N, ...] at the record before.
          prev_action: {name: [N, ...]}, what led to the record, as environments take it.
          observation: {name: [N, ...]}.
          is_first: [N] bool.
        """
        ...


class ObserveBatch(Protocol):
    def __call__(self, params: Params, key: Array, rows: Array, batch: TrajectoryBatch, /) -> LatentState:
        """What ``Dynamics.observe`` makes of windows [B, T]: from the stored context, where there is one."""
        ...


class ModelLoss(Protocol):
    def __call__(
        self, params: Params, key: Array, rows: Array, batch: TrajectoryBatch, /, step: Array = 0
    ) -> tuple[dict[str, Array], ModelAux]:
        """Losses {name: [B, T]} float32 of windows whose indices in the global batch are ``rows`` [B].

        Args:
          step: [] int, number of the update, from 0.
        """
        ...


class ActionVector(Protocol):
    def __call__(self, action: ArrayDict, /) -> Array:
        """Actions {name: [..., ...]} as the flat vector [..., A] float32 that the dynamics take."""
        ...


class ImagineStep(Protocol):
    def __call__(self, params: Params, noise: Noise | None, state: LatentState, action: Array, /) -> LatentState:
        """``Dynamics.prior``, without the distribution."""
        ...


class Predict(Protocol):
    def __call__(self, params: Params, feat: Features, /) -> tuple[Array, Array]:
        """Expected reward and probability of going on, the discount included, [...] float32 each."""
        ...


class Decode(Protocol):
    def __call__(self, params: Params, feat: Features, /) -> ArrayDict:
        """Reconstructions {name: [..., ...]}: images in [0, 1], numbers as they are learnt, logits of classes."""
        ...


class Disagree(Protocol):
    def __call__(self, params: Params, feat: Features, action: Array, /) -> Array:
        """How unsure the model is of what follows features and flat actions [..., A], [...] float32 from 0."""
        ...


class WorldModel(NamedTuple):
    """``params`` are ``TrainState.params["model"]``; what needs none of them is in ``dynamics``."""

    init: InitParams
    encode: Encode
    filter: Filter
    observe: ObserveBatch
    loss: ModelLoss
    action_vector: ActionVector
    imagine_step: ImagineStep
    predict: Predict
    decode: Decode
    dynamics: Dynamics
    latent_spec: dict[str, ArraySpec]  # what ``dynamics.compress`` yields, without batch axes; empty: nothing is stored
    disagree: Disagree | None = None  # where there is an ensemble
