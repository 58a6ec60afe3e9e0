"""Features to observations and their losses (DreamerV3, sec. 3)."""

from __future__ import annotations

import itertools
import math
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from dreamer_jax.config.schema import DecoderConfig, NetsConfig
from dreamer_jax.distributions import categorical
from dreamer_jax.models.encoder import (
    FACTORS,
    HALVINGS,
    KERNELS,
    flatten_leaf,
    image_grid,
    image_specs,
    unit_pixels,
    vector_specs,
)
from dreamer_jax.nets.convolution import Conv, ConvLayer, Resample
from dreamer_jax.nets.layers import MLP, Dense, Layer, RMSNorm, activate, parameter, truncated_normal
from dreamer_jax.nets.recurrent import block_product, enter_blocks
from dreamer_jax.ops.transforms import symlog
from dreamer_jax.specs import ArraySpec
from dreamer_jax.types import ArrayDict


class Decoder(nn.Module):
    """Numbers (in symlog space, if so configured), logits of classes, and images in [0, 1], {name: [..., *shape]}.

    Vectors share an MLP and have a linear head each. Takes features, [..., F_i] each; the rows of a layer's kernel that
    meet the last of them come first.
    """

    specs: dict[str, ArraySpec]
    inputs: tuple[int, ...]
    config: DecoderConfig
    dtype: Any = jnp.float32
    nets: NetsConfig = NetsConfig()

    def setup(self) -> None:
        c, vectors, images = self.config, vector_specs(self.specs), image_specs(self.specs)
        if vectors:
            self.mlp = MLP(self.inputs[::-1], c.layers, c.units, self.dtype, self.nets)
            self.heads = {
                name: Dense(self.mlp.outputs, spec.width, dtype=self.dtype, nets=self.nets)
                for name, spec in vectors.items()
            }
        if images:
            grows = c.cnn in ("same", "valid")
            part = PlainImageDecoder if grows else ImageDecoder
            self.images = part(images, self.inputs, c, self.dtype, self.nets)

    def __call__(self, *features: jax.Array) -> ArrayDict:
        outputs = {}
        if vector_specs(self.specs):
            trunk = self.mlp(*features[::-1])
            for name, head in self.heads.items():
                x = head(*trunk).astype(jnp.float32)
                outputs[name] = x.reshape(*x.shape[:-1], *_output_shape(self.specs[name]))
        if image_specs(self.specs):
            outputs |= self.images(*features)
        return outputs


class ImageDecoder(nn.Module):
    """A small grid from the features, then a CNN that doubles it until it has the size of the images.

    The first of the features goes into the grid by blocks, of which each makes some channels; the others by two dense
    layers.
    """

    specs: dict[str, ArraySpec]
    inputs: tuple[int, ...]
    config: DecoderConfig
    dtype: Any = jnp.float32
    nets: NetsConfig = NetsConfig()

    def setup(self) -> None:
        c, (first, *others) = self.config, self.inputs
        height, width = image_grid(self.specs)
        channels = [c.depth * factor for factor in FACTORS[c.cnn]]
        self.grid = (height, width, channels[-1])
        size = height * width * channels[-1]
        shape = (c.blocks, first // c.blocks, size // c.blocks)
        self.deter_kernel = parameter(self, "deter_kernel", truncated_normal(first), shape)
        self.deter_bias = parameter(self, "deter_bias", nn.initializers.zeros, (size,))
        if others:
            self.stoch_in = Layer(tuple(others), 2 * c.units, self.dtype, self.nets)
            self.stoch_out = Dense((2 * c.units,), size, dtype=self.dtype, nets=self.nets)
        self.norm = RMSNorm((channels[-1],))
        double: Resample = "repeat" if c.cnn == "repeat" else "transpose"
        named = dict(dtype=self.dtype, nets=self.nets)
        self.cnn = [ConvLayer(big, small, double, **named) for small, big in itertools.pairwise(channels)]
        last: Resample = double if len(self.cnn) < HALVINGS else "none"
        self.out = Conv(channels[0], channel_count(self.specs), resample=last, **named)

    def __call__(self, first: jax.Array, *others: jax.Array) -> ArrayDict:
        batch, blocks = first.shape[:-1], self.config.blocks
        height, width, channels = self.grid
        x = block_product(enter_blocks(_rows(first).astype(self.dtype), blocks), self.deter_kernel, self.deter_bias)
        x = x.reshape(blocks, -1, height, width, channels // blocks)
        x = jnp.moveaxis(x, 0, 3).reshape(-1, *self.grid)
        if others:
            x = x + self.stoch_out(self.stoch_in(*map(_rows, others))).reshape(x.shape)
        x = activate(self.nets.cnn_activation, self.norm(x))
        for layer in reversed(self.cnn):
            x = layer(x)
        return split_images(self.specs, self.config, self.out(x), batch)


class PlainImageDecoder(nn.Module):
    """One linear layer from the features to a small grid, then transposed convolutions (PlaNet to DreamerV3 of 2023).

    ``same`` begins with a sixteenth of the images' size and kernels of 4, ``valid`` with one pixel and 5, 5, 6, 6.
    """

    specs: dict[str, ArraySpec]
    inputs: tuple[int, ...]
    config: DecoderConfig
    dtype: Any = jnp.float32
    nets: NetsConfig = NetsConfig()

    def setup(self) -> None:
        c, valid = self.config, self.config.cnn == "valid"
        *channels, most = (c.depth * factor for factor in FACTORS[c.cnn])
        grid = image_grid(self.specs, c.cnn)
        self.grid = (1, 1, 4 * most) if valid else (*grid, most)
        self.dense = Dense(self.inputs[::-1], math.prod(self.grid), dtype=self.dtype, nets=self.nets)
        double: Resample = "valid_transpose" if valid else "transpose"
        widths = [self.grid[-1], *reversed(channels)]
        kernels = (5, 5, 6, 6) if valid else (KERNELS[c.cnn],) * HALVINGS
        self.cnn = [
            ConvLayer(inputs, outputs, double, self.dtype, size, self.nets)
            for (inputs, outputs), size in zip(itertools.pairwise(widths), kernels[:-1], strict=True)
        ]
        named = dict(dtype=self.dtype, nets=self.nets)
        self.out = Conv(widths[-1], channel_count(self.specs), kernels[-1], double, **named)

    def __call__(self, *features: jax.Array) -> ArrayDict:
        x = self.dense(*features[::-1]).reshape(-1, *self.grid)
        for layer in self.cnn:
            x = layer(x)
        return split_images(self.specs, self.config, self.out(x), features[0].shape[:-1])


def _rows(x: jax.Array) -> jax.Array:
    return x.reshape(-1, x.shape[-1])


def channel_count(specs: dict[str, ArraySpec]) -> int:
    """Channels of all images together."""
    return sum(spec.shape[-1] for spec in specs.values())


def split_images(specs: dict[str, ArraySpec], config: DecoderConfig, x: jax.Array, batch: tuple[int, ...]) -> ArrayDict:
    """Images in [0, 1] by name from the last layer's output [N, height, width, channels]."""
    x = x.astype(jnp.float32)
    # A linear output is that of pixels around 0, as the encoder sees them.
    x = nn.sigmoid(x) if config.images == "sigmoid" else x + 0.5
    x = x.reshape(*batch, *x.shape[1:])
    images, start = {}, 0
    for name, spec in specs.items():  # in the order in which the environment declares them
        images[name] = x[..., start : start + spec.shape[-1]]
        start += spec.shape[-1]
    return images


def _output_shape(spec: ArraySpec) -> tuple[int, ...]:
    return (spec.size, spec.classes) if spec.classes else spec.shape


SQUARED = DecoderConfig()
"""Squared errors, vectors in symlog space."""


def reconstruction_loss(
    output: jax.Array, target: jax.Array, spec: ArraySpec, config: DecoderConfig = SQUARED
) -> jax.Array:
    """Loss of one key, [B, T]: cross entropy for classes, else squared errors of all elements summed.

    Images are compared in [0, 1], other numbers in symlog space or as they are. With ``decoder.loss`` normal it is
    half of that and ``ln(2 pi) / 2`` for each element.
    """
    chex.assert_equal_shape_prefix([output, target], 2)
    rows = output.shape[:2]
    if spec.discrete:
        onehot = flatten_leaf(target, spec).reshape(output.shape)
        log_prob: jax.Array = categorical(output).log_prob(onehot)
        return -log_prob
    squares = jnp.square(output - decoder_target(target, spec, config.symlog)).reshape(*rows, -1).sum(-1)
    return squares if config.loss == "squared" else (squares + spec.size * math.log(2 * math.pi)) / 2


def decoder_target(x: jax.Array, spec: ArraySpec, squash: bool = True) -> jax.Array:
    """What the decoder's output for a key of numbers is compared with, [..., *shape]; vectors through symlog or not."""
    if spec.image:
        return unit_pixels(x)
    return symlog(x.astype(jnp.float32)) if squash else x.astype(jnp.float32)
