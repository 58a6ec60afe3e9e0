"""Networks that read the latent features: reward, continuation, value."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dreamer_jax.config.schema import NetsConfig
from dreamer_jax.nets.layers import MLP, Dense


class Head(nn.Module):
    """MLP on the features and one linear layer, in float32 at the end."""

    inputs: tuple[int, ...]
    layers: int
    units: int
    outputs: int
    scale: float
    dtype: Any = jnp.float32
    nets: NetsConfig = NetsConfig()

    def setup(self) -> None:
        self.mlp = MLP(self.inputs, self.layers, self.units, self.dtype, self.nets)
        self.out = Dense(self.mlp.outputs, self.outputs, self.scale, self.dtype, self.nets)

    def __call__(self, *features: jax.Array) -> jax.Array:
        return self.out(*self.mlp(*features)).astype(jnp.float32)
