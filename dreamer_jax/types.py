"""Arrays that travel between the parts.

The letters used in every docstring: ``B`` batch, ``T`` replay time, ``H`` imagination horizon,
``N = B*T`` imagination starts, ``E`` environments, ``A`` action width, ``F`` feature width,
``S x K`` latent variables x classes, ``D`` width of the deterministic state of an RSSM.
"""

from __future__ import annotations

from typing import Any, Literal

from flax import struct

Array = Any
"""A ``jax.Array`` or a ``np.ndarray``: what takes one takes the other, and ``jit`` turns numpy's into JAX's."""
ArrayDict = dict[str, Array]
Params = Any
LatentState = Any
"""A world model's state: a pytree of arrays [B, ...] or [B, T, ...]. Only the dynamics that made it look inside."""
Stats = ArrayDict
"""Parameters of the distribution of latent variables; only their ``Latent`` knows what they are."""
Noise = Any
"""Random numbers for one or more draws of latents, a pytree of arrays [B, ...] (of nothing, if nothing is drawn)."""
Features = tuple[Array, ...]
"""What heads read of a state: vectors [..., F_i], in the order of ``Dynamics.feature_widths``."""
MODEL_LOSS = "model_loss"
"""Beside the latents that an update hands out: the world model's loss of each record, where replay asks for it."""
Mode = Literal["train", "sample", "mode", "random"]
"""How a policy acts: ``train`` explores as in training, ``sample`` draws, ``mode`` is greedy, ``random`` is uniform."""


@struct.dataclass
class TimeStep:
    """What ``E`` environments emit at once; the reward and the flags arrive *with* the observation.

    A record with ``is_last`` ends an episode; a separate record with ``is_first`` and reward 0
    follows it. ``is_terminal`` is a true termination, never a time limit.
    """

    observation: ArrayDict  # {name: [E, ...]}
    reward: Array  # [E] float32
    is_first: Array  # [E] bool
    is_last: Array  # [E] bool
    is_terminal: Array  # [E] bool


@struct.dataclass
class TrajectoryBatch:
    """``B`` windows of ``T`` records that may span episodes.

    ``prev_action`` is the action that LED TO the observation of the same row; it has no meaning
    where ``is_first`` (the model masks it). ``context`` is the state at the record before the window, as
    replay stores it (``Dynamics.compress``).
    """

    observation: ArrayDict  # {name: [B, T, ...]}
    prev_action: ArrayDict  # {name: [B, T, ...]}
    reward: Array  # [B, T]
    is_first: Array  # [B, T]
    is_last: Array  # [B, T]
    is_terminal: Array  # [B, T]
    context: ArrayDict | None = None  # {name: [B, ...]}


@struct.dataclass
class ImaginedTrajectory:
    """``H`` imagined steps from ``N`` starts; index 0 of the time axis is the start itself."""

    features: Features  # [N, H+1, F_i] each
    action: ArrayDict  # {name: [N, H+1, ...]} one-hot if discrete; the last one is in no loss
    reward: Array  # [N, H+1]
    discount: Array  # [N, H+1] probability of going on, discount included


@struct.dataclass
class ModelAux:
    """What a world model's loss finds on the way."""

    tokens: Array  # [B, T, W] encoded observations
    posterior: LatentState  # [B, T, ...]
    posterior_stats: Stats  # [B, T, ...]
    prior_stats: Stats  # [B, T, ...]
    divergence: Array  # [B, T] of the posterior from the prior, before anything is clipped
    posterior_entropy: Array  # [B, T]
    prior_entropy: Array  # [B, T]
    reconstruction: ArrayDict  # {name: [B, T, ...]}
    cont_target: Array  # [B, T] what the probability of going on is learnt from


@struct.dataclass
class BehaviorAux:
    """What a behavior's loss finds on the way."""

    moments: ArrayDict  # the next ``TrainState.moments``
    metrics: dict[str, Array]  # {name: []}
    details: Any = None  # of its own kind


@struct.dataclass
class AgentAux:
    """What an agent's loss finds on the way."""

    losses: dict[str, Array]  # {name: [B, T]}, not yet scaled
    model: ModelAux
    behavior: BehaviorAux


@struct.dataclass
class Dream:
    """What a world model makes of windows of which it sees ``C`` records and imagines ``H`` more."""

    observation: ArrayDict  # {name: [B, C+H, ...]} images in [0, 1], numbers as the decoder has them, logits of classes
    reward: Array  # [B, C+H]
    discount: Array  # [B, C+H] probability of going on, discount included


@struct.dataclass
class PolicyCarry:
    """What acting remembers from one record to the next, one row per environment."""

    latent: LatentState  # [E, ...]
    prev_action: ArrayDict  # {name: [E, ...]} the action taken after the previous record
    records: Array | None = None  # [] int32 agent steps in training, all environments; where exploration changes
    behavior: Any = ()  # what the behavior remembers, [E, ...]


@struct.dataclass
class TrainState:
    """Everything that an update changes. No random key is ever stored here."""

    step: Array  # [] int32, updates done
    params: dict[str, Params]  # {"model", "actor", "critic"}, or what there is of them
    slow: Params  # slowly following copy of params["critic"], {} without one
    opt_state: Any
    moments: ArrayDict  # running statistics of the return normaliser
