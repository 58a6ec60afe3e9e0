"""Observations to tokens (DreamerV3, sec. 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dreamer_jax.nets.layers import MLP
from dreamer_jax.ops.transforms import symlog
from dreamer_jax.specs import ArraySpec
from dreamer_jax.types import ArrayDict


def flatten_leaf(x: jax.Array, spec: ArraySpec) -> jax.Array:
    """[..., *spec.shape] to the vector [..., spec.width] that a network sees: one-hot where discrete.

    A class of -1 marks a missing value and becomes zeros.
    """
    if spec.classes is not None:
        x = jax.nn.one_hot(x.astype(jnp.int32), spec.classes)
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
    """Vectors of any number of keys, joined in sorted order, through an MLP: [..., units]."""

    specs: dict[str, ArraySpec]
    layers: int
    units: int
    symlog: bool
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.mlp = MLP((sum(spec.width for spec in self.specs.values()),), self.layers, self.units, self.dtype)

    @property
    def width(self) -> int:
        """Width of the tokens."""
        return self.units

    def __call__(self, observation: ArrayDict) -> jax.Array:
        x = flatten_leaves(observation, self.specs, squash=symlog if self.symlog else None)
        return self.mlp(jnp.where(x == -jnp.inf, 0.0, x))[0]  # minus infinity marks a missing value
