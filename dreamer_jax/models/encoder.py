"""Observations to tokens (DreamerV3, sec. 3)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dreamer_jax.config.schema import ConfigError, EncoderConfig, NetsConfig
from dreamer_jax.nets.convolution import ConvLayer, Resample
from dreamer_jax.nets.layers import MLP
from dreamer_jax.ops.transforms import symlog
from dreamer_jax.specs import ArraySpec
from dreamer_jax.types import ArrayDict

HALVINGS = 4
"""How often every CNN halves height and width; a further layer, at the images' own size, does not."""
FACTORS = {"pool": (2, 3, 4, 4), "repeat": (2, 3, 4, 4), "stride": (1, 2, 3, 4, 4), "transpose": (1, 2, 3, 4, 4)}
FACTORS |= {"same": (1, 2, 4, 8), "valid": (1, 2, 4, 8)}
"""Channels of the layers in units of the depth, from the images' size to the smallest: V3-HEAD, V3 of 2024, before."""
KERNELS = {"pool": 5, "repeat": 5, "stride": 5, "transpose": 5, "same": 4, "valid": 4}
VALID_SIZE, VALID_GRID = 64, 2
"""Without padding, 64 pixels become 31, 14, 6, 2; the decoder that makes 64 of one goes through 5, 13, 30."""


def vector_specs(specs: dict[str, ArraySpec]) -> dict[str, ArraySpec]:
    return {name: spec for name, spec in specs.items() if not spec.image}


def image_specs(specs: dict[str, ArraySpec]) -> dict[str, ArraySpec]:
    return {name: spec for name, spec in specs.items() if spec.image}


def image_grid(specs: dict[str, ArraySpec], cnn: str = "pool") -> tuple[int, int]:
    """Height and width of the encoder's smallest feature map of all images; 0 without any.

    Raises:
      ConfigError: their sizes differ, or can't be halved so often, or are not those of CNNs without padding.
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
    if cnn == "valid":
        if (height, width) != (VALID_SIZE, VALID_SIZE):
            raise ConfigError(
                f"observation {first!r}: got {height} x {width} pixels; cnn valid, without padding, takes "
                f"{VALID_SIZE} x {VALID_SIZE}"
            )
        return VALID_GRID, VALID_GRID
    return height // step, width // step


def quantize(image: jax.Array, bits: int, noise: jax.Array) -> jax.Array:
    """Bytes to numbers in [0, 1): the first ``bits`` of each, and uniform ``noise`` instead of the rest (PlaNet)."""
    levels: int = 2**bits
    return (jnp.floor(image.astype(jnp.float32) / (256 // levels)) + noise) / levels


def unit_pixels(image: jax.Array) -> jax.Array:
    """Images as numbers in [0, 1]: bytes over 255, and what ``quantize`` made as it is."""
    return image.astype(jnp.float32) / 255 if jnp.issubdtype(image.dtype, jnp.integer) else image


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
    nets: NetsConfig = NetsConfig()

    def setup(self) -> None:
        c, vectors, images = self.config, vector_specs(self.specs), image_specs(self.specs)
        if vectors:
            inputs = sum(spec.width for spec in vectors.values())
            self.mlp = MLP((inputs,), c.layers, c.units, self.dtype, self.nets)
        if images:
            widths = [sum(spec.shape[-1] for spec in images.values()), *self._channels]
            full = len(self._channels) - HALVINGS
            halve: Resample = "stride" if c.cnn == "same" else c.cnn
            self.cnn = [
                ConvLayer(inputs, outputs, "none" if i < full else halve, self.dtype, KERNELS[c.cnn], self.nets)
                for i, (inputs, outputs) in enumerate(itertools.pairwise(widths))
            ]

    @property
    def _channels(self) -> list[int]:
        return [self.config.depth * factor for factor in FACTORS[self.config.cnn]]

    @property
    def width(self) -> int:
        """Width of the tokens."""
        height, width = image_grid(self.specs, self.config.cnn)
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
            x = unit_pixels(x.reshape(-1, *x.shape[-3:])) - 0.5
            for layer in self.cnn:
                x = layer(x)
            tokens.append(x.reshape(*batch, -1))
        return jnp.concatenate(tokens, -1)
