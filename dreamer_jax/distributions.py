"""Distributions over distrax, and the only place that draws random numbers.

Noise is drawn before a scan, one key for each row of the *global* batch, so that the same batch
gives the same update on any number of devices. ``sample`` turns noise into a draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import distrax
import jax
import jax.numpy as jnp

from dreamer_jax.specs import ArraySpec
from dreamer_jax.types import Array, ArrayDict

Kind = Literal["uniform", "normal"]

TANH_LIMIT = 0.99999994
"""Actions are taken back through tanh from at most this, the last float32 before 1 (DreamerV1's code)."""
TRUNC_LIMIT = 1 - 1e-6
"""Samples on [-1, 1] stay this close to 0, away from the edge of what has a probability (DreamerV2's code)."""
MODE_DRAWS = 100
"""Of which the most likely one stands for a mode that has no formula (DreamerV1's code)."""


def draw_noise(key: Array, rows: Array, shape: tuple[int, ...], kind: Kind) -> jax.Array:
    """Noise [rows, *shape]; row ``i`` depends on ``key`` and ``rows[i]``, its index in the global batch."""
    draw = {"uniform": jax.random.uniform, "normal": jax.random.normal}[kind]
    return jax.vmap(lambda row: draw(jax.random.fold_in(key, row), shape, jnp.float32))(rows)


def uniform_actions(key: Array, rows: Array, specs: Mapping[str, ArraySpec]) -> ArrayDict:
    """Actions as environments take them, {name: [rows, ...]}: any class alike, or numbers uniform in [-1, 1)."""
    actions = {}
    for leaf_key, (name, spec) in zip(jax.random.split(key, len(specs)), specs.items(), strict=True):
        noise = draw_noise(leaf_key, rows, spec.shape, "uniform")
        actions[name] = (jnp.floor(spec.classes * noise) if spec.classes else 2 * noise - 1).astype(spec.dtype)
    return actions


class OneHot(distrax.OneHotCategorical):
    """A one-hot variable; distrax's would trace a sample whenever it is asked for its shape."""

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return (self._probs if self._logits is None else self._logits).shape[:-1]

    def mean(self) -> jax.Array:
        """The probabilities [..., K]."""
        return self.probs

    def from_noise(self, noise: Array) -> jax.Array:
        """The draw [..., K] that uniform noise [...] makes, with the gradient of the probabilities."""
        probs = self.probs
        return straight_through(inverse_cdf(jax.lax.stop_gradient(probs), noise), probs)


class Normal(distrax.Normal):
    """A normal variable."""

    def from_noise(self, noise: Array) -> jax.Array:
        """The draw that standard normal noise makes."""
        return self.loc + self.scale * noise


def categorical(logits: jax.Array, unimix: float = 0.0) -> distrax.Distribution:
    """One-hot variables [..., S, K], independent over S, mixed with ``unimix`` of uniform (V3, sec. 3)."""
    logits = logits.astype(jnp.float32)
    if unimix:
        probs = (1 - unimix) * jax.nn.softmax(logits) + unimix / logits.shape[-1]
        # Not as logits: a sample would then pay for a logarithm and another softmax.
        return distrax.Independent(OneHot(probs=probs, dtype=jnp.float32), 1)
    return distrax.Independent(OneHot(logits=logits, dtype=jnp.float32), 1)


def normal(mean: jax.Array, std: jax.Array) -> distrax.Distribution:
    """Independent normal variables over the last axis."""
    return distrax.Independent(Normal(mean.astype(jnp.float32), std.astype(jnp.float32)), 1)


class Reparameterized(distrax.Distribution):
    """A variable given by how it is drawn from noise of one ``kind``, by way of a standardised number."""

    kind: Kind

    def __init__(self, loc: jax.Array, scale: jax.Array) -> None:
        super().__init__()
        self.loc, self.scale = loc, scale

    @property
    def event_shape(self) -> tuple[int, ...]:
        return ()

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.loc.shape

    def from_noise(self, noise: Array) -> jax.Array:
        """The draw that noise of ``kind`` makes."""
        return self.from_standard(noise)

    def from_standard(self, standard: Array) -> jax.Array:
        """The draw of a standardised number."""
        raise NotImplementedError

    def _sample_n(self, key: Any, n: int) -> jax.Array:
        return self.from_noise(draw_noise(key, jnp.arange(n), self.batch_shape, self.kind))


class TanhNormal(Reparameterized):
    """``tanh(x)`` of a normal variable x (DreamerV1, sec. 3). It has neither a mode nor an entropy in closed form."""

    kind = "normal"

    def from_standard(self, standard: Array) -> jax.Array:
        return jnp.tanh(self.loc + self.scale * standard)

    def log_prob(self, value: Array) -> jax.Array:
        """``log N(x) - log(1 - tanh(x)^2)`` at x = atanh(value), the latter as ``2 (ln 2 - x - softplus(-2x))``."""
        x = jnp.arctanh(jnp.clip(value, -TANH_LIMIT, TANH_LIMIT))
        volume = 2 * (math.log(2) - x - jax.nn.softplus(-2 * x))
        return distrax.Normal(self.loc, self.scale).log_prob(x) - volume


class TruncNormal(Reparameterized):
    """A normal variable given that it lies in [-1, 1], where its ``loc`` is too.

    With the standardised bounds a and b, and ``Z = Phi(b) - Phi(a)``, the log-probability is ``log N(x) - log Z`` and
    the entropy ``log(sqrt(2 pi e) scale Z) + (a phi(a) - b phi(b)) / (2 Z)``.
    """

    kind = "uniform"

    def _bounds(self) -> tuple[jax.Array, jax.Array]:
        return (-1 - self.loc) / self.scale, (1 - self.loc) / self.scale

    def _cumulative(self) -> tuple[jax.Array, jax.Array]:
        """``2 Phi - 1`` at both bounds; one is negative and the other is not, so that nothing cancels in ``Z``."""
        low, high = (jax.lax.erf(bound / math.sqrt(2)) for bound in self._bounds())
        return low, high

    def from_noise(self, noise: Array) -> jax.Array:
        """The inverse of the distribution function."""
        low, high = self._cumulative()
        place = low + noise * (high - low)
        # At its lower end the noise is exactly 0, and infinity lies there.
        return self.from_standard(math.sqrt(2) * jax.lax.erf_inv(jnp.clip(place, -1 + 2**-23, 1 - 2**-23)))

    def from_standard(self, standard: Array) -> jax.Array:
        """``loc + scale standard``, clipped to +-(1 - 1e-6) in value, but not in gradient.

        The standardised number has no gradient, as if its bounds stayed where they are: the event's is 1 by ``loc``,
        and that number by ``scale``. It is TensorFlow's rule, with which DreamerV2 was published.
        """
        return clip_value(self.loc + self.scale * jax.lax.stop_gradient(standard), TRUNC_LIMIT)

    def log_prob(self, value: Array) -> jax.Array:
        low, high = self._cumulative()
        inside = distrax.Normal(self.loc, self.scale).log_prob(value) - jnp.log((high - low) / 2)
        return jnp.where(jnp.abs(value) <= 1, inside, -jnp.inf)

    def entropy(self) -> jax.Array:
        low, high = self._cumulative()
        mass = (high - low) / 2
        a, b = (x * jnp.exp(-jnp.square(x) / 2) / math.sqrt(2 * math.pi) for x in self._bounds())
        return 0.5 * math.log(2 * math.pi * math.e) + jnp.log(self.scale * mass) + (a - b) / (2 * mass)

    def mode(self) -> jax.Array:
        return jnp.clip(self.loc, -1, 1)


def tanh_normal(loc: jax.Array, scale: jax.Array) -> distrax.Distribution:
    """Independent variables in (-1, 1) over the last axis: tanh of normal ones."""
    return distrax.Independent(TanhNormal(loc.astype(jnp.float32), scale.astype(jnp.float32)), 1)


def trunc_normal(loc: jax.Array, scale: jax.Array) -> distrax.Distribution:
    """Independent normal variables over the last axis, cut off at -1 and 1."""
    return distrax.Independent(TruncNormal(loc.astype(jnp.float32), scale.astype(jnp.float32)), 1)


def bernoulli(logit: jax.Array) -> distrax.Distribution:
    """A yes or no [...]; its log-probability takes soft labels."""
    return distrax.Bernoulli(logits=logit.astype(jnp.float32))


def noise_kind(discrete: bool, continuous: str = "normal") -> Kind:
    """The noise that ``sample`` takes: uniform for categoricals and ``trunc_normal``, normal for the other two."""
    return "uniform" if discrete or continuous == "trunc_normal" else "normal"


def sample(distribution: distrax.Distribution, noise: Array) -> jax.Array:
    """A draw from noise [..., S] or [..., A]: a straight-through one-hot, or a reparameterised number.

    ``distribution`` is a ``distrax.Independent`` of a class whose method ``from_noise`` makes the draw.
    """
    return distribution.distribution.from_noise(noise)


def mode(distribution: distrax.Distribution, noise: Array | None = None) -> jax.Array:
    """The most likely value; no gradient for categoricals.

    That of ``tanh_normal`` has no formula: the most likely of the draws that ``noise`` [..., MODE_DRAWS, A] makes, for
    every leading element by itself.
    """
    inner = distribution.distribution if isinstance(distribution, distrax.Independent) else None
    if not isinstance(inner, TanhNormal):
        return distribution.mode()
    if noise is None:
        raise ValueError("mode: that of a tanh_normal takes noise")
    each = tanh_normal(inner.loc[..., None, :], inner.scale[..., None, :])
    return likeliest(each, each.distribution.from_noise(noise))


def likeliest(distribution: distrax.Distribution, draws: jax.Array) -> jax.Array:
    """Of ``draws`` [..., K, A] the most likely one, [..., A]."""
    best = jnp.argmax(distribution.log_prob(draws), -1)
    return jnp.take_along_axis(draws, best[..., None, None], -2)[..., 0, :]


def variable_kl(left: distrax.Distribution, right: distrax.Distribution) -> jax.Array:
    """KL(left || right) of each variable by itself, [..., S]; ``kl_divergence`` is their sum."""
    return left.distribution.kl_divergence(right.distribution)


def information(distribution: distrax.Distribution) -> jax.Array:
    """What each one-hot variable says about its place among the leading axes: H(mean of q) - mean of H(q), [S] nats."""
    inner = distribution.distribution
    axes = tuple(range(inner.probs.ndim - 2))
    return OneHot(probs=inner.probs.mean(axes)).entropy() - inner.entropy().mean(axes)


def inverse_cdf(probs: jax.Array, uniform: Array) -> jax.Array:
    """One-hot of the class in whose share of [0, 1) the uniform number falls.

    The same distribution as the Gumbel trick for one random number a variable instead of K.
    """
    classes = probs.shape[-1]
    cumulative = probs @ jnp.triu(jnp.ones((classes, classes), probs.dtype))
    passed = (uniform[..., None] >= cumulative[..., :-1]).astype(probs.dtype)
    ends = jnp.ones_like(cumulative[..., :1])  # also where there is one class
    return jnp.concatenate([ends, passed], -1) - jnp.concatenate([passed, jnp.zeros_like(ends)], -1)


def straight_through(onehot: jax.Array, probs: jax.Array) -> jax.Array:
    """The one-hot in value, the probabilities in gradient (DreamerV2, sec. 2)."""
    return onehot + (probs - jax.lax.stop_gradient(probs))


def clip_value(x: jax.Array, limit: float) -> jax.Array:
    """``x`` clipped to [-limit, limit] in value; its gradient passes."""
    return jax.lax.stop_gradient(jnp.clip(x, -limit, limit)) + (x - jax.lax.stop_gradient(x))
