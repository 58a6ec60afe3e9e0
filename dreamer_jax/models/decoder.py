"""Features to observations and their losses (DreamerV3, sec. 3)."""

from __future__ import annotations

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from dreamer_jax.distributions import categorical
from dreamer_jax.models.encoder import flatten_leaf
from dreamer_jax.nets.layers import MLP, Dense
from dreamer_jax.ops.transforms import symlog
from dreamer_jax.specs import ArraySpec
from dreamer_jax.types import ArrayDict


class Decoder(nn.Module):
    """Vectors through one MLP and a linear head for each key: symlog space, or logits if discrete."""

    specs: dict[str, ArraySpec]
    inputs: tuple[int, ...]
    layers: int
    units: int
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.mlp = MLP(self.inputs, self.layers, self.units, self.dtype)
        self.heads = {name: Dense(self.mlp.outputs, spec.width, dtype=self.dtype) for name, spec in self.specs.items()}

    def __call__(self, *features: jax.Array) -> ArrayDict:
        trunk = self.mlp(*features)
        outputs = {name: head(*trunk).astype(jnp.float32) for name, head in self.heads.items()}
        return {name: x.reshape(*x.shape[:-1], *_output_shape(self.specs[name])) for name, x in outputs.items()}


def _output_shape(spec: ArraySpec) -> tuple[int, ...]:
    return (spec.size, spec.classes) if spec.classes else spec.shape


def reconstruction_loss(output: jax.Array, target: jax.Array, spec: ArraySpec) -> jax.Array:
    """Loss of one key, [B, T]: ``sum (output - symlog(target))^2``, or cross entropy if discrete."""
    chex.assert_equal_shape_prefix([output, target], 2)
    rows = output.shape[:2]
    if spec.discrete:
        onehot = flatten_leaf(target, spec).reshape(output.shape)
        return -categorical(output).log_prob(onehot)
    return jnp.square(output - symlog(target.astype(jnp.float32))).reshape(*rows, -1).sum(-1)
