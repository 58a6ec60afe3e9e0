"""A kind of latent variable: how a layer's output becomes a sample, and how far two distributions are apart."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import jax.numpy as jnp

from dreamer_jax.config.schema import RSSMConfig
from dreamer_jax.types import Array, Noise, Stats


class ToStats(Protocol):
    def __call__(self, raw: Array, /) -> Stats:
        """Parameters of the distributions, from a layer's output [..., outputs] float32."""
        ...


class DrawNoise(Protocol):
    def __call__(self, key: Array, rows: Array, shape: tuple[int, ...], /) -> Noise:
        """What draws of ``rows`` take, a pytree of arrays [rows, *shape, ...].

        Args:
          rows: [B] int, their indices in the global batch; each row's numbers depend on its own and the key alone.
          shape: of the axes after the batch's, such as (T,).
        """
        ...


class Sample(Protocol):
    def __call__(self, stats: Stats, noise: Noise, /) -> Array:
        """A draw [..., *Latent.shape] float32, with the gradient that it is to have."""
        ...


class LikeliestValue(Protocol):
    def __call__(self, stats: Stats, /) -> Array:
        """The most likely value [..., *Latent.shape] float32."""
        ...


class ExpectedValue(Protocol):
    def __call__(self, stats: Stats, /) -> Array:
        """The mean of draws [..., *Latent.shape] float32: of one-hot variables the probabilities."""
        ...


class Entropy(Protocol):
    def __call__(self, stats: Stats, /) -> Array:
        """Of all variables together, [...] float32."""
        ...


class Divergence(Protocol):
    def __call__(self, left: Stats, right: Stats, /) -> Array:
        """How far ``right`` is from ``left``, of each variable, [..., S] float32; both have a gradient."""
        ...


class Active(Protocol):
    def __call__(self, stats: Stats, /) -> Array:
        """Which variables [S] bool tell the leading axes of ``stats`` apart."""
        ...


class Pack(Protocol):
    def __call__(self, sample: Array, /) -> Array:
        """A sample [..., *Latent.shape] as replay is to keep it, or back to the same sample, up to rounding."""
        ...


class Latent(NamedTuple):
    """A kind of latent variable, S of which are the stochastic part of a state."""

    shape: tuple[int, ...]  # of a sample without batch axes; S comes first
    outputs: int  # width of the layer that ``stats`` takes
    stats: ToStats
    noise: DrawNoise
    sample: Sample
    mode: LikeliestValue
    entropy: Entropy
    divergence: Divergence
    active: Active
    compress: Pack = lambda sample: sample.astype(jnp.bfloat16)
    expand: Pack = lambda stored: stored.astype(jnp.float32)
    divergence_name: str = "kl"  # in metrics and reports
    mean: ExpectedValue | None = None  # what probes read; without it they read draws
    bounds_likelihood: bool = True  # whether the divergence is a KL in nats, so that reports have an ELBO


class MakeLatent(Protocol):
    def __call__(self, config: RSSMConfig, /) -> Latent: ...
