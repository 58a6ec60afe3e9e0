"""Features to observations and their losses (DreamerV3, sec. 3)."""

from __future__ import annotations

import itertools
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from dreamer_jax.config.schema import DecoderConfig
from dreamer_jax.distributions import categorical
from dreamer_jax.models.encoder import FACTORS, HALVINGS, flatten_leaf, image_grid, image_specs, vector_specs
from dreamer_jax.nets.convolution import Conv, ConvLayer, Resample
from dreamer_jax.nets.layers import MLP, Dense, Layer, RMSNorm, truncated_normal
from dreamer_jax.nets.recurrent import block_product, enter_blocks
from dreamer_jax.ops.transforms import symlog
from dreamer_jax.specs import ArraySpec
from dreamer_jax.types import ArrayDict


class Decoder(nn.Module):
    """Numbers in symlog space, logits of classes, and images in [0, 1], {name: [..., *shape]}.

    Vectors share an MLP and have a linear head each. Takes flat stoch [..., S*K] and deter [..., D].
    """

    specs: dict[str, ArraySpec]
    inputs: tuple[int, int]
    config: DecoderConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        c, vectors = self.config, vector_specs(self.specs)
        if vectors:
            self.mlp = MLP(self.inputs, c.layers, c.units, self.dtype)
            self.heads = {name: Dense(self.mlp.outputs, spec.width, dtype=self.dtype) for name, spec in vectors.items()}
        if image_specs(self.specs):
            self.images = ImageDecoder(image_specs(self.specs), self.inputs, c, self.dtype)

    def __call__(self, stoch: jax.Array, deter: jax.Array) -> ArrayDict:
        outputs = {}
        if vector_specs(self.specs):
            trunk = self.mlp(stoch, deter)
            for name, head in self.heads.items():
                x = head(*trunk).astype(jnp.float32)
                outputs[name] = x.reshape(*x.shape[:-1], *_output_shape(self.specs[name]))
        if image_specs(self.specs):
            outputs |= self.images(stoch, deter)
        return outputs


class ImageDecoder(nn.Module):
    """A small grid from the features, then a CNN that doubles it until it has the size of the images."""

    specs: dict[str, ArraySpec]
    inputs: tuple[int, int]
    config: DecoderConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        c, (stoch, deter) = self.config, self.inputs
        height, width = image_grid(self.specs)
        channels = [c.depth * factor for factor in FACTORS[c.cnn]]
        self.grid = (height, width, channels[-1])
        size = height * width * channels[-1]
        shape = (c.blocks, deter // c.blocks, size // c.blocks)
        self.deter_kernel = self.param("deter_kernel", truncated_normal(deter), shape, jnp.float32)
        self.deter_bias = self.param("deter_bias", nn.initializers.zeros, (size,), jnp.float32)
        self.stoch_in = Layer((stoch,), 2 * c.units, self.dtype)
        self.stoch_out = Dense((2 * c.units,), size, dtype=self.dtype)
        self.norm = RMSNorm((channels[-1],))
        self.cnn = [ConvLayer(big, small, c.cnn, self.dtype) for small, big in itertools.pairwise(channels)]
        outputs = sum(spec.shape[-1] for spec in self.specs.values())
        last: Resample = c.cnn if len(self.cnn) < HALVINGS else "none"
        self.out = Conv(channels[0], outputs, resample=last, dtype=self.dtype)

    def __call__(self, stoch: jax.Array, deter: jax.Array) -> ArrayDict:
        batch, blocks = deter.shape[:-1], self.config.blocks
        height, width, channels = self.grid
        rows = deter.reshape(-1, deter.shape[-1]).astype(self.dtype)
        # Each block makes its share of the channels, everywhere on the grid.
        shares = block_product(enter_blocks(rows, blocks), self.deter_kernel, self.deter_bias)
        shares = shares.reshape(blocks, -1, height, width, channels // blocks)
        x = jnp.moveaxis(shares, 0, 3).reshape(-1, *self.grid)
        x = x + self.stoch_out(self.stoch_in(stoch.reshape(-1, stoch.shape[-1]))).reshape(x.shape)
        x = nn.silu(self.norm(x))
        for layer in reversed(self.cnn):
            x = layer(x)
        x = nn.sigmoid(self.out(x).astype(jnp.float32))
        x = x.reshape(*batch, *x.shape[1:])
        images, start = {}, 0
        for name, spec in self.specs.items():  # in the order in which the environment declares them
            images[name] = x[..., start : start + spec.shape[-1]]
            start += spec.shape[-1]
        return images


def _output_shape(spec: ArraySpec) -> tuple[int, ...]:
    return (spec.size, spec.classes) if spec.classes else spec.shape


def reconstruction_loss(output: jax.Array, target: jax.Array, spec: ArraySpec) -> jax.Array:
    """Loss of one key, [B, T]: cross entropy for classes, else squared errors of all elements summed.

    Images are compared in [0, 1], other numbers in symlog space.
    """
    chex.assert_equal_shape_prefix([output, target], 2)
    rows = output.shape[:2]
    if spec.discrete:
        onehot = flatten_leaf(target, spec).reshape(output.shape)
        return -categorical(output).log_prob(onehot)
    return jnp.square(output - decoder_target(target, spec)).reshape(*rows, -1).sum(-1)


def decoder_target(x: jax.Array, spec: ArraySpec) -> jax.Array:
    """What the decoder's output for a key of numbers is compared with, [..., *shape]."""
    x = x.astype(jnp.float32)
    return x / 255 if spec.image else symlog(x)
