"""Dense layers, norms and MLP. Order is always linear, norm, activation; parameters stay float32."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dreamer_jax.config.schema import NetsConfig
from dreamer_jax.ops.deferred import use_weight
from dreamer_jax.types import Array

TRUNCATION = 1.1368
"""Brings a normal truncated at two standard deviations back to unit variance."""


def truncated_normal(fan_in: float, scale: float = 1.0) -> nn.initializers.Initializer:
    """Normal truncated at +-2 deviations, with standard deviation ``scale / sqrt(fan_in)``."""
    deviation = scale * TRUNCATION / fan_in**0.5

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        shared = _noise.get()
        noise = _draw(key, shape) if shared is None else shared(shape)
        return (deviation * noise).astype(dtype)

    return init


def glorot_uniform(fan_in: int, fan_out: int, scale: float = 1.0) -> nn.initializers.Initializer:
    """Uniform with the variance ``2 / (fan_in + fan_out)`` times ``scale`` squared (Keras's default)."""
    limit = scale * (6 / (fan_in + fan_out)) ** 0.5
    draw = truncated_normal(1)

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        # By its own distribution function the noise that all initialisers share is uniform.
        uniform = jax.lax.erf(draw(key, shape) / (TRUNCATION * 2**0.5)) / math.erf(2**0.5)
        return (limit * uniform).astype(dtype)

    return init


def kernel_init(nets: NetsConfig, fan_in: int, fan_out: int, scale: float = 1.0) -> nn.initializers.Initializer:
    """As ``nets.init`` says."""
    match nets.init:
        case "fan_in":
            return truncated_normal(fan_in, scale)
        case "fan_avg":
            return truncated_normal((fan_in + fan_out) / 2, scale)
        case "glorot":
            return glorot_uniform(fan_in, fan_out, scale)


def activate(name: str, x: jax.Array) -> jax.Array:
    """One of the activations of ``NetsConfig``."""
    return {"silu": nn.silu, "elu": nn.elu, "relu": nn.relu}[name](x)


def batched_init_noise(init: Callable[[Array], Any]) -> Callable[[Array], Any]:
    """``init(key)`` with the noise of every ``truncated_normal`` in it cut from one draw.

    A compiler takes as long for each draw as for one of any length.
    """

    @functools.wraps(init)
    def batched(key: Array) -> Any:
        noise_key, key = jax.random.split(key)
        size = 0

        def count(shape: Sequence[int]) -> jax.Array:
            nonlocal size
            size += math.prod(shape)
            return jnp.zeros(shape)

        def cut(shape: Sequence[int]) -> jax.Array:
            nonlocal size
            size -= math.prod(shape)
            return noise[size : size + math.prod(shape)].reshape(shape)

        token = _noise.set(count)
        try:
            jax.eval_shape(lambda key: init(key), key)  # a new function: JAX would not trace a known one again
            noise = _draw(noise_key, (size,))
            _noise.set(cut)
            return init(key)
        finally:
            _noise.reset(token)

    return batched


def _draw(key: Array, shape: Sequence[int]) -> jax.Array:
    return jax.random.truncated_normal(key, -2.0, 2.0, tuple(shape), jnp.float32)


_noise: ContextVar[Callable[[Sequence[int]], jax.Array] | None] = ContextVar("noise", default=None)
"""Where ``truncated_normal`` gets its noise of a shape from, instead of its own key."""


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """``x @ kernel`` of [..., in] and [in, out]; on the CPU its weight gradient is a product of a transposed *copy*.

    Where both factors run along the summed axis, as ``x.T @ cotangent`` has it, products of many rows take up to twice
    the time there; the cotangent is the smaller one to copy.
    """
    return x @ kernel


def _product_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x @ kernel, (x, kernel)


def _product_backward(inputs: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = inputs
    rows = x.reshape(-1, x.shape[-1]), cotangent.reshape(-1, cotangent.shape[-1])
    weights = jax.lax.platform_dependent(*rows, cpu=_weights_by_a_copy, default=lambda x, cotangent: x.T @ cotangent)
    return cotangent @ kernel.T, weights


def _weights_by_a_copy(x: jax.Array, cotangent: jax.Array) -> jax.Array:
    # Barriers, or the compiler would fold both transpositions into the product that is to be avoided.
    return jax.lax.optimization_barrier(jax.lax.optimization_barrier(cotangent.T) @ x).T


product.defvjp(_product_forward, _product_backward)


def parameter(module: nn.Module, name: str, init: nn.initializers.Initializer, shape: tuple[int, ...]) -> jax.Array:
    """The float32 parameter ``name`` of ``module``.

    Flax's own ``param`` traces ``init`` whenever the parameter is used, an eighth of the time of tracing an update.

    Raises:
      ValueError: there is none, or it has another shape.
    """
    if module.is_initializing():
        return module.param(name, init, shape, jnp.float32)
    value = module.get_variable("params", name)
    found = None if value is None else value.shape
    if found != shape:
        raise ValueError(f"parameter {'/'.join((*module.path, name))}: got shape {found}, must be {shape}")
    return value


class Dense(nn.Module):
    """``concat(inputs) @ kernel + bias`` without the concatenation: each input meets its own rows."""

    inputs: tuple[int, ...]
    features: int
    scale: float = 1.0
    dtype: Any = jnp.float32
    nets: NetsConfig = NetsConfig()
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer | None = None
    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    def setup(self) -> None:
        width = sum(self.inputs)
        init = self.kernel_init or kernel_init(self.nets, width, self.features, self.scale)
        self.kernel = parameter(self, "kernel", init, (width, self.features))
        if self.use_bias:
            self.bias = parameter(self, "bias", self.bias_init, (self.features,))

    def term(self, index: int, x: jax.Array) -> jax.Array:
        """What input ``index`` adds to the output, without bias."""
        start = sum(self.inputs[:index])
        kernel = self.kernel[start : start + self.inputs[index]]
        return use_weight(product, x.astype(self.dtype), kernel.astype(self.dtype))

    def add_bias(self, x: jax.Array) -> jax.Array:
        """The output, from the sum of all terms."""
        return use_weight(operator.add, x, self.bias.astype(self.dtype)) if self.use_bias else x

    def __call__(self, *xs: jax.Array) -> jax.Array:
        terms = [self.term(index, x) for index, x in enumerate(xs)]
        return self.add_bias(sum(terms[1:], terms[0]))


class RMSNorm(nn.Module):
    """``x / rms(x) * scale`` over the last axis, or over ``axes`` with a scale of that shape. In float32."""

    shape: tuple[int, ...]
    axes: tuple[int, ...] = (-1,)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = parameter(self, "scale", nn.initializers.ones, self.shape)
        wide = x.astype(jnp.float32)
        norm = jax.lax.rsqrt(jnp.square(wide).mean(self.axes, keepdims=True) + 1e-4)
        return use_weight(operator.mul, wide * norm, scale).astype(x.dtype)


class LayerNorm(nn.Module):
    """``(x - mean(x)) / std(x) * scale + shift`` over the last axis, with 1e-3 added to the variance. In float32."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = parameter(self, "scale", nn.initializers.ones, (self.features,))
        shift = parameter(self, "shift", nn.initializers.zeros, (self.features,))
        wide = x.astype(jnp.float32)
        wide = wide - wide.mean(-1, keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + 1e-3)
        return use_weight(operator.add, use_weight(operator.mul, wide, scale), shift).astype(x.dtype)


def make_norm(nets: NetsConfig, features: int) -> Callable[[jax.Array], jax.Array]:
    """A norm over the last axis as ``nets.norm`` says; to be made in ``setup``."""
    match nets.norm:
        case "rms":
            return RMSNorm((features,))
        case "layer":
            return LayerNorm(features)
        case "none":
            return lambda x: x


class Layer(nn.Module):
    """Dense, norm, activation."""

    inputs: tuple[int, ...]
    features: int
    dtype: Any = jnp.float32
    nets: NetsConfig = NetsConfig()

    def setup(self) -> None:
        self.dense = Dense(self.inputs, self.features, dtype=self.dtype, nets=self.nets, use_bias=self.nets.bias)
        self.norm = make_norm(self.nets, self.features)

    def finish(self, x: jax.Array) -> jax.Array:
        """Norm and activation of a pre-activation that was put together from terms."""
        return activate(self.nets.activation, self.norm(x))

    def __call__(self, *xs: jax.Array) -> jax.Array:
        return self.finish(self.dense(*xs))


class MLP(nn.Module):
    """``layers`` times ``Layer``; the first one takes several inputs."""

    inputs: tuple[int, ...]
    layers: int
    units: int
    dtype: Any = jnp.float32
    nets: NetsConfig = NetsConfig()

    def setup(self) -> None:
        widths = [self.inputs] + [(self.units,)] * (self.layers - 1)
        self.hidden = [Layer(width, self.units, self.dtype, self.nets) for width in widths[: self.layers]]

    @property
    def outputs(self) -> tuple[int, ...]:
        """Widths of what ``__call__`` returns, for the layer that follows."""
        return (self.units,) if self.layers else self.inputs

    def __call__(self, *xs: jax.Array) -> tuple[jax.Array, ...]:
        for layer in self.hidden:
            xs = (layer(*xs),)
        return xs
