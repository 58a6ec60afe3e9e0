"""Arrays that travel between the parts.

The letters used in every docstring: ``B`` batch, ``T`` replay time, ``H`` imagination horizon,
``N = B*T`` imagination starts, ``E`` environments, ``A`` action width, ``F`` feature width,
``S x K`` latent variables x classes, ``D`` width of the deterministic state.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from flax import struct

Array = Any
"""A ``jax.Array`` or a ``np.ndarray``: what takes one takes the other, and ``jit`` turns numpy's into JAX's."""
ArrayDict = dict[str, Array]
Params = Any
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
class RSSMState:
    """Recurrent latent state; ``stats`` are the parameters of the distribution of ``stoch``.

    Replay stores a state without ``stats`` and, in compact form, with class indices in ``stoch``.
    """

    deter: Array  # [..., D]
    stoch: Array  # [..., S, K] one-hot (categorical) or [..., S] (Gaussian); stored: [..., S] int
    stats: ArrayDict = struct.field(default_factory=dict)  # {"logits": [..., S, K]} or mean, std
    cell: Array | None = None  # deter again, in the layout of the recurrent cell; only from step to step of a scan

    def without_stats(self) -> RSSMState:
        """What goes from one step to the next."""
        return replace(self, stats={})

    def without_cell(self) -> RSSMState:
        """What leaves a scan."""
        return replace(self, cell=None)


@struct.dataclass
class TrajectoryBatch:
    """``B`` windows of ``T`` records that may span episodes.

    ``prev_action`` is the action that LED TO the observation of the same row; it has no meaning
    where ``is_first`` (the model masks it). ``context`` is the stored latent of the record before
    the window.
    """

    observation: ArrayDict  # {name: [B, T, ...]}
    prev_action: ArrayDict  # {name: [B, T, ...]}
    reward: Array  # [B, T]
    is_first: Array  # [B, T]
    is_last: Array  # [B, T]
    is_terminal: Array  # [B, T]
    context: RSSMState | None = None  # [B, ...]


@struct.dataclass
class ImaginedTrajectory:
    """``H`` imagined steps from ``N`` starts; index 0 of the time axis is the start itself."""

    features: tuple[Array, Array]  # deter [N, H+1, D], flat stoch [N, H+1, S*K]
    action: ArrayDict  # {name: [N, H+1, ...]} one-hot if discrete; the last one is in no loss
    reward: Array  # [N, H+1]
    discount: Array  # [N, H+1] probability of going on, discount included


@struct.dataclass
class Dream:
    """What a world model makes of windows of which it sees ``C`` records and imagines ``H`` more."""

    observation: ArrayDict  # {name: [B, C+H, ...]} images in [0, 1], numbers as the decoder has them, logits of classes
    reward: Array  # [B, C+H]
    discount: Array  # [B, C+H] probability of going on, discount included


@struct.dataclass
class PolicyCarry:
    """What acting remembers from one record to the next, one row per environment."""

    latent: RSSMState  # [E, ...]
    prev_action: ArrayDict  # {name: [E, ...]} the action taken after the previous record
    records: Array | None = None  # [] int32 agent steps in training, all environments; where exploration changes


@struct.dataclass
class TrainState:
    """Everything that an update changes. No random key is ever stored here."""

    step: Array  # [] int32, updates done
    params: dict[str, Params]  # {"model", "actor", "critic"}, or what there is of them
    slow: Params  # slowly following copy of params["critic"], {} without one
    opt_state: Any
    moments: ArrayDict  # running statistics of the return normaliser
