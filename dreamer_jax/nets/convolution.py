"""Convolutions on images [N, height, width, channels]; parameters stay float32."""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from dreamer_jax.nets.layers import RMSNorm, truncated_normal

Resample = Literal["none", "pool", "stride", "repeat", "transpose"]
"""How a layer changes height and width: it halves them by ``pool`` or ``stride``, doubles them by ``repeat``
(nearest neighbours, then the convolution) or ``transpose`` (zeros in between, then the convolution)."""


class Conv(nn.Module):
    """A square convolution with SAME padding and a bias."""

    inputs: int
    features: int
    kernel_size: int = 5
    resample: Resample = "none"
    scale: float = 1.0
    dtype: Any = jnp.float32

    def setup(self) -> None:
        size, fan_in = self.kernel_size, self.kernel_size**2 * self.inputs
        shape = (size, size, self.inputs, self.features)
        self.kernel = self.param("kernel", truncated_normal(fan_in, self.scale), shape)
        self.bias = self.param("bias", nn.initializers.zeros, (self.features,))

    def __call__(self, x: jax.Array) -> jax.Array:
        x, kernel = x.astype(self.dtype), self.kernel.astype(self.dtype)
        stride, dilation = 1, 1
        padding: str | tuple[tuple[int, int], ...] = "SAME"
        match self.resample:
            case "stride":
                stride = 2
            case "repeat":
                x = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
            case "transpose":
                # Every pixel but the first of a row follows a zero, and so does the first: as the reference does.
                half = (self.kernel_size - 1) // 2
                dilation, padding = 2, ((half + 1, self.kernel_size - 1 - half),) * 2
        x = jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            padding,
            lhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ) + self.bias.astype(self.dtype)
        return nn.max_pool(x, (2, 2), (2, 2)) if self.resample == "pool" else x


class ConvLayer(nn.Module):
    """Conv, RMSNorm over channels, SiLU."""

    inputs: int
    features: int
    resample: Resample = "none"
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.conv = Conv(self.inputs, self.features, resample=self.resample, dtype=self.dtype)
        self.norm = RMSNorm((self.features,))

    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.silu(self.norm(self.conv(x)))
