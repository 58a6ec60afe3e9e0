"""Dense layers, norm and MLP. Order is always linear, norm, SiLU; parameters stay float32."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

TRUNCATION = 1.1368
"""Brings a normal truncated at two standard deviations back to unit variance."""


def truncated_normal(fan_in: int, scale: float = 1.0) -> nn.initializers.Initializer:
    """Normal truncated at +-2 deviations, with standard deviation ``scale / sqrt(fan_in)``."""
    return nn.initializers.truncated_normal(scale * TRUNCATION / fan_in**0.5, lower=-2, upper=2)


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """``x @ kernel`` of [..., in] and [in, out]. Its weight gradient is a product of a transposed *copy*.

    Where both factors run along the summed axis, as ``x.T @ cotangent`` has it, products of many rows take twice the
    time on a CPU; the cotangent is the smaller one to copy.
    """
    return x @ kernel


def _product_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x @ kernel, (x, kernel)


def _product_backward(inputs: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = inputs
    rows = cotangent.reshape(-1, cotangent.shape[-1])
    # Barriers, or the compiler would fold both transpositions into the product that is to be avoided.
    weights = jax.lax.optimization_barrier(rows.T) @ x.reshape(-1, x.shape[-1])
    return cotangent @ kernel.T, jax.lax.optimization_barrier(weights).T


product.defvjp(_product_forward, _product_backward)


class Dense(nn.Module):
    """``concat(inputs) @ kernel + bias`` without the concatenation: each input meets its own rows."""

    inputs: tuple[int, ...]
    features: int
    scale: float = 1.0
    dtype: Any = jnp.float32

    def setup(self) -> None:
        width = sum(self.inputs)
        self.kernel = self.param("kernel", truncated_normal(width, self.scale), (width, self.features), jnp.float32)
        self.bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)

    def share(self, index: int, x: jax.Array) -> jax.Array:
        """What input ``index`` adds to the output, without bias."""
        start = sum(self.inputs[:index])
        kernel = self.kernel[start : start + self.inputs[index]]
        return product(x.astype(self.dtype), kernel.astype(self.dtype))

    def __call__(self, *xs: jax.Array) -> jax.Array:
        shares = [self.share(index, x) for index, x in enumerate(xs)]
        return sum(shares[1:], shares[0]) + self.bias.astype(self.dtype)


class RMSNorm(nn.Module):
    """``x / rms(x) * scale`` over the last axis, or over ``axes`` with a scale of that shape. In float32."""

    shape: tuple[int, ...]
    axes: tuple[int, ...] = (-1,)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, self.shape, jnp.float32)
        wide = x.astype(jnp.float32)
        norm = jax.lax.rsqrt(jnp.square(wide).mean(self.axes, keepdims=True) + 1e-4)
        return (wide * norm * scale).astype(x.dtype)


class Layer(nn.Module):
    """Dense, RMSNorm, SiLU."""

    inputs: tuple[int, ...]
    features: int
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.dense = Dense(self.inputs, self.features, dtype=self.dtype)
        self.norm = RMSNorm((self.features,))

    def finish(self, x: jax.Array) -> jax.Array:
        """Norm and activation of a pre-activation that was put together from shares."""
        return nn.silu(self.norm(x))

    def __call__(self, *xs: jax.Array) -> jax.Array:
        return self.finish(self.dense(*xs))


class MLP(nn.Module):
    """``layers`` times ``Layer``; the first one takes several inputs."""

    inputs: tuple[int, ...]
    layers: int
    units: int
    dtype: Any = jnp.float32

    def setup(self) -> None:
        widths = [self.inputs] + [(self.units,)] * (self.layers - 1)
        self.hidden = [Layer(width, self.units, self.dtype) for width in widths[: self.layers]]

    @property
    def outputs(self) -> tuple[int, ...]:
        """Widths of what ``__call__`` returns, for the layer that follows."""
        return (self.units,) if self.layers else self.inputs

    def __call__(self, *xs: jax.Array) -> tuple[jax.Array, ...]:
        for layer in self.hidden:
            xs = (layer(*xs),)
        return xs
