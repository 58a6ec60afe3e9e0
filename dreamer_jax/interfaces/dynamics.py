"""How a world model's state goes on, with and without observations (PlaNet, eq. 4; DreamerV3, eq. 1)."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from dreamer_jax.config.schema import Config
from dreamer_jax.interfaces.latent import DrawNoise, Latent
from dreamer_jax.types import Array, ArrayDict, Features, LatentState, Noise, Params, Stats


class InitParams(Protocol):
    def __call__(self, key: Array, /) -> Params:
        """New parameters, float32."""
        ...


class InitialState(Protocol):
    def __call__(self, size: int, /) -> LatentState:
        """A state [size, ...] of zeros, in the types that all states have."""
        ...


class Start(Protocol):
    def __call__(self, params: Params, size: int, /) -> LatentState:
        """What ``Posterior`` and ``Observe`` put in the place of a state where an episode begins, [size, ...]."""
        ...


class Prior(Protocol):
    def __call__(
        self, params: Params, noise: Noise | None, state: LatentState, action: Array, /
    ) -> tuple[LatentState, Stats]:
        """The state one step ahead, without an observation, and the distribution that its latent was drawn from.

        Args:
          noise: what its latent is drawn with, else it is the most likely one.
          state: [N, ...], or what ``to_scan_carry`` or this function made; the result is of the same form.
          action: [N, A] float32, the flat vector.
        """
        ...


class Posterior(Protocol):
    def __call__(
        self, params: Params, noise: Noise, state: LatentState, /, *, prev_action: Array, tokens: Array, is_first: Array
    ) -> tuple[LatentState, Stats]:
        """The state after one more record, and the distribution that its latent was drawn from.

        Args:
          state: [N, ...] at the record before; nothing of it is left in rows that are first.
          prev_action: [N, A] float32, the flat vector that led to the record; unused in rows that are first.
          tokens: [N, W], the encoded observation.
          is_first: [N] bool.
        """
        ...


class Observe(Protocol):
    def __call__(
        self, params: Params, noise: Noise, state: LatentState, /, *, prev_action: Array, tokens: Array, is_first: Array
    ) -> tuple[LatentState, Stats]:
        """``Posterior`` for records [B, T] one after the other; ``state`` [B, ...] is from before the first.

        What it returns may have another form than a state: ``starts`` makes states of it, and nothing but ``features``,
        ``prior_stats``, ``redraw`` and ``exchange`` takes it otherwise.
        """
        ...


class PriorStats(Protocol):
    def __call__(self, params: Params, posterior: LatentState, /) -> Stats:
        """The distributions of the latents that ``Observe`` gave, [B, T, ...], as they were before the observations."""
        ...


class PosteriorStats(Protocol):
    def __call__(self, params: Params, state: LatentState, tokens: Array, /) -> Stats:
        """The distribution of a state's latent once its observation is known, [N, ...]; the latent it has is unused.

        Args:
          state: [N, ...].
          tokens: [N, W], the encoded observation.
        """
        ...


class Starts(Protocol):
    def __call__(self, posterior: LatentState, /) -> LatentState:
        """States [B, T, ...], from each of which imagination or another window can go on, of what ``Observe`` gave."""
        ...


class ToScanCarry(Protocol):
    def __call__(self, state: LatentState, /) -> LatentState:
        """A state [N, ...] in the form in which a scan of ``prior`` is fastest; it need not begin with N."""
        ...


class ToFeatures(Protocol):
    def __call__(self, state: LatentState, /) -> Features:
        """What heads read, [..., F_i] float32, of a state of any form."""
        ...


class Redraw(Protocol):
    def __call__(self, state: LatentState, stats: Stats, noise: Noise, /) -> LatentState:
        """What ``Observe`` gave with other latents, drawn from ``stats``."""
        ...


class Exchange(Protocol):
    def __call__(self, state: LatentState, other: LatentState, /) -> LatentState:
        """What ``Observe`` gave with the latents of ``other``."""
        ...


class Compress(Protocol):
    def __call__(self, state: LatentState, /) -> ArrayDict:
        """A state [..., ...] as replay keeps it, {name: [..., ...]}."""
        ...


class Expand(Protocol):
    def __call__(self, stored: ArrayDict, /) -> LatentState:
        """The state that ``Compress`` took, as near as what is stored comes."""
        ...


class Dynamics(NamedTuple):
    """The recurrent part of a world model. Nobody else knows what a state is made of."""

    init: InitParams
    initial: InitialState
    start: Start
    noise: DrawNoise
    prior: Prior
    posterior: Posterior
    observe: Observe
    prior_stats: PriorStats
    starts: Starts
    to_scan_carry: ToScanCarry
    features: ToFeatures
    redraw: Redraw
    exchange: Exchange
    compress: Compress
    expand: Expand
    latent: Latent
    feature_widths: tuple[int, ...]
    posterior_stats: PosteriorStats | None = None  # for what takes a step apart, see ``evaluation.lens``


class MakeDynamics(Protocol):
    def __call__(self, config: Config, /, *, tokens: int, action: int, dtype: Any) -> Dynamics:
        """Dynamics over ``tokens``-wide tokens and ``action``-wide action vectors; networks compute in ``dtype``."""
        ...
