"""Observations to tokens (DreamerV3, sec. 3)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dreamer_jax.config.schema import ConfigError, EncoderConfig
from dreamer_jax.nets.convolution import ConvLayer
from dreamer_jax.nets.layers import MLP
from dreamer_jax.ops.transforms import symlog
from dreamer_jax.specs import ArraySpec
from dreamer_jax.types import ArrayDict

HALVINGS = 4
"""How often every CNN halves height and width; a further layer, at the images' own size, does not."""
FACTORS = {"pool": (2, 3, 4, 4), "repeat": (2, 3, 4, 4), "stride": (1, 2, 3, 4, 4), "transpose": (1, 2, 3, 4, 4)}
"""Channels of the layers in units of the depth, from the images' size to the smallest: V3-HEAD, and V3 of 2024."""


def vector_specs(specs: dict[str, ArraySpec]) -> dict[str, ArraySpec]:
    return {name: spec for name, spec in specs.items() if not spec.image}


def image_specs(specs: dict[str, ArraySpec]) -> dict[str, ArraySpec]:
    return {name: spec for name, spec in specs.items() if spec.image}


def image_grid(specs: dict[str, ArraySpec]) -> tuple[int, int]:
    """Height and width of the smallest feature map of all images; 0 without any.

    Raises:
      ConfigError: their sizes differ, or can't be halved so often.
    """
    images = image_specs(specs)
    if not images:
        return 0, 0
    step, first = 2**HALVINGS, next(iter(images))
    for name, spec in images.items():
        size = spec.shape[:2]
        if any(side % step for side in size):
            near = " x ".join(str(max(step, round(side / step) * step)) for side in size)
            raise ConfigError(
                f"observation {name!r}: got {size[0]} x {size[1]} pixels; height and width must be multiples of "
                f"{step}, such as {near}"
            )
        if size != images[first].shape[:2]:
            other = " x ".join(map(str, images[first].shape[:2]))
            raise ConfigError(
                f"observation {name!r}: got {size[0]} x {size[1]} pixels, but {first!r} has {other}; "
                "all images must have one size"
            )
    height, width, _ = images[first].shape
    return height // step, width // step


def flatten_leaf(x: jax.Array, spec: ArraySpec) -> jax.Array:
    """[..., *spec.shape] to the vector [..., spec.width] that a network sees: one-hot where discrete.

    A class of -1 marks a missing value and becomes zeros.
    """
    if spec.classes is not None:
        x = jax.nn.one_hot(x.astype(jnp.int32), spec.classes, dtype=jnp.float32)
        return x.reshape(*x.shape[: x.ndim - 1 - len(spec.shape)], spec.width)
    return x.astype(jnp.float32).reshape(*x.shape[: x.ndim - len(spec.shape)], spec.width)


def flatten_leaves(
    values: ArrayDict,
    specs: dict[str, ArraySpec],
    squash: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """All leaves in sorted order of their names as one vector [..., sum of widths].

    ``squash`` is for numbers; what is one-hot stays as it is.
    """

    def flatten(name: str, spec: ArraySpec) -> jax.Array:
        x = flatten_leaf(jnp.asarray(values[name]), spec)
        return x if squash is None or spec.discrete else squash(x)

    return jnp.concatenate([flatten(name, specs[name]) for name in sorted(specs)], -1)


class Encoder(nn.Module):
    """Tokens [..., width] of all observations: numbers and classes through an MLP, images through a CNN.

    Vectors are joined in sorted order of their names; so are images, on their channels.
    """

    specs: dict[str, ArraySpec]
    config: EncoderConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        c, vectors, images = self.config, vector_specs(self.specs), image_specs(self.specs)
        if vectors:
            self.mlp = MLP((sum(spec.width for spec in vectors.values()),), c.layers, c.units, self.dtype)
        if images:
            widths = [sum(spec.shape[-1] for spec in images.values()), *self._channels]
            full = len(self._channels) - HALVINGS
            self.cnn = [
                ConvLayer(inputs, outputs, "none" if i < full else c.cnn, self.dtype)
                for i, (inputs, outputs) in enumerate(itertools.pairwise(widths))
            ]

    @property
    def _channels(self) -> list[int]:
        return [self.config.depth * factor for factor in FACTORS[self.config.cnn]]

    @property
    def width(self) -> int:
        """Width of the tokens."""
        height, width = image_grid(self.specs)
        vectors = self.config.units if vector_specs(self.specs) else 0
        return vectors + height * width * self._channels[-1]

    def __call__(self, observation: ArrayDict) -> jax.Array:
        vectors, images = vector_specs(self.specs), image_specs(self.specs)
        tokens: list[jax.Array] = []
        if vectors:
            x = flatten_leaves(observation, vectors, squash=symlog if self.config.symlog else None)
            tokens += self.mlp(jnp.where(x == -jnp.inf, 0.0, x))  # minus infinity marks a missing value
        if images:
            x = jnp.concatenate([jnp.asarray(observation[name]) for name in sorted(images)], -1)
            batch = x.shape[:-3]
            x = x.reshape(-1, *x.shape[-3:]).astype(jnp.float32) / 255 - 0.5
            for layer in self.cnn:
                x = layer(x)
            tokens.append(x.reshape(*batch, -1))
        return jnp.concatenate(tokens, -1)
