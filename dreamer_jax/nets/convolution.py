"""Convolutions on images [N, height, width, channels]; parameters stay float32."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.config.schema import NetsConfig
from dreamer_jax.nets.layers import activate, kernel_init, make_norm, parameter

Resample = Literal["none", "pool", "stride", "repeat", "transpose", "valid", "valid_transpose"]
"""How a layer changes height and width: it halves them by ``pool`` or ``stride``, doubles them by ``repeat``
(nearest neighbours, then the convolution) or ``transpose`` (zeros in between, then the convolution). ``valid`` is
``stride`` without padding, and ``valid_transpose`` its reverse, from n to 2 (n - 1) + kernel pixels."""

FEW_CHANNELS = 4
"""Up to so many channels ``pool_convolve`` works on pairs of pixels."""
CHUNK_PIXELS = 2048
"""Of the sum over pixels in ``kernel_gradient``: what stays in a core's cache with its shifted copies."""


class Conv(nn.Module):
    """A square convolution, with SAME padding but where ``resample`` says otherwise."""

    inputs: int
    features: int
    kernel_size: int = 5
    resample: Resample = "none"
    scale: float = 1.0
    dtype: Any = jnp.float32
    nets: NetsConfig = NetsConfig()
    use_bias: bool = True

    def setup(self) -> None:
        size, area = self.kernel_size, self.kernel_size**2
        init = kernel_init(self.nets, area * self.inputs, area * self.features, self.scale)
        self.kernel = parameter(self, "kernel", init, (size, size, self.inputs, self.features))
        if self.use_bias:
            self.bias = parameter(self, "bias", nn.initializers.zeros, (self.features,))

    def __call__(self, x: jax.Array) -> jax.Array:
        x, kernel = x.astype(self.dtype), self.kernel.astype(self.dtype)
        match self.resample:
            case "none":
                x = convolve_same(x, kernel)
            case "pool":
                x = pool_convolve(x, kernel)
            case "stride":
                x = convolve(x, kernel, stride=2)
            case "repeat":
                x = repeat_convolve(x, kernel)
            case "transpose":
                # Every pixel but the first of a row follows a zero, and so does the first: as the reference does.
                half = (self.kernel_size - 1) // 2
                x = convolve(x, kernel, ((half + 1, self.kernel_size - 1 - half),) * 2, dilation=2)
            case "valid":
                x = convolve(x, kernel, "VALID", stride=2)
            case "valid_transpose":
                # The gradient of a convolution meets its kernel the other way round.
                x = convolve(x, kernel[::-1, ::-1], ((self.kernel_size - 1,) * 2,) * 2, dilation=2)
        return x + self.bias.astype(self.dtype) if self.use_bias else x


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    padding: str | tuple[tuple[int, int], ...] = "SAME",
    *,
    stride: int = 1,
    dilation: int = 1,
) -> jax.Array:
    """Images [N, height, width, C] with a kernel [k, k, C, F]; ``dilation`` puts zeros between pixels first."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        lhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@jax.custom_vjp
def convolve_same(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """``convolve`` whose kernel gradient is ``kernel_gradient``."""
    return convolve(x, kernel)


def _convolve_same_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolve(x, kernel), (x, kernel)


def _convolve_same_backward(inputs: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = inputs
    (x_gradient,) = jax.vjp(lambda x: convolve(x, kernel), x)[1](cotangent)

    def plain(x: jax.Array, cotangent: jax.Array) -> jax.Array:
        return jax.vjp(lambda kernel: convolve(x, kernel), kernel)[1](cotangent)[0]

    # Only on the CPU does XLA make of it a convolution with a kernel of the size of the image.
    in_chunks = partial(kernel_gradient, size=len(kernel))
    return x_gradient, jax.lax.platform_dependent(x, cotangent, cpu=in_chunks, default=plain)


convolve_same.defvjp(_convolve_same_forward, _convolve_same_backward)


def kernel_gradient(x: jax.Array, cotangent: jax.Array, *, size: int) -> jax.Array:
    """Gradient [size, size, C, F] of ``convolve``'s kernel from images and the gradient of what came out.

    A product of images shifted by every row of the kernel with gradients shifted by every column of it, summed over
    pixels; a few images at a time, because all the shifted copies at once would not fit into any cache.
    """
    before, after = (size - 1) // 2, size // 2  # what SAME padding adds
    (rows, height, width, channels), features = x.shape, cotangent.shape[-1]
    count = max(
        n for n in range(1, rows + 1) if rows % n == 0 and n * height * width <= max(CHUNK_PIXELS, height * width)
    )

    def add(total: jax.Array, images: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        x, cotangent = images
        x = jnp.pad(x, ((0, 0), (before, after), (0, 0), (0, 0)))
        cotangent = jnp.pad(cotangent, ((0, 0), (0, 0), (after, before), (0, 0)))
        down = jnp.concatenate([x[:, i : i + height] for i in range(size)], -1)
        right = jnp.concatenate([cotangent[:, :, i : i + width] for i in reversed(range(size))], -1)
        flat = down.reshape(-1, size * channels), right.reshape(-1, size * features)
        return total + jnp.einsum("pc,pf->cf", *flat, preferred_element_type=jnp.float32), None

    chunks = jax.tree.map(lambda a: a.reshape(-1, count, *a.shape[1:]), (x, cotangent))
    total = jnp.zeros((size * channels, size * features), jnp.float32)
    total, _ = jax.lax.scan(add, total, chunks)
    return total.reshape(size, channels, size, features).swapaxes(1, 2).astype(x.dtype)


def pool_convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The largest of every 2 x 2 pixels of ``convolve``, [N, height / 2, width / 2, F].

    Of few channels, 2 x 2 pixels become one with four times as many, in and out: such products are faster.
    """
    rows, height, width, channels = x.shape
    half, features = (height // 2, width // 2), kernel.shape[-1]
    if channels > FEW_CHANNELS:
        return largest(convolve_same(x, kernel).reshape(rows, half[0], 2, half[1], 2, features), (2, 4))
    taps = _taps(kernel.shape[0]).astype(kernel.dtype)
    wide = jnp.einsum("apsd,bqte,decf->abstcpqf", taps, taps, kernel)
    x = x.reshape(rows, half[0], 2, half[1], 2, channels).swapaxes(2, 3).reshape(rows, *half, 4 * channels)
    x = convolve_same(x, wide.reshape(len(taps), len(taps), 4 * channels, 4 * features))
    return largest(x.reshape(rows, *half, 4, features), (3,))


def largest(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """``x.max(axes)`` of up to eight elements, of each of which the gradient keeps a bit instead of a number."""
    lengths = [length if axis in axes else 1 for axis, length in enumerate(x.shape)]
    places = (1 << np.arange(math.prod(lengths), dtype=np.uint8)).reshape(lengths)

    @jax.custom_vjp
    def call(x: jax.Array) -> jax.Array:
        return x.max(axes)

    def forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        most = x.max(axes, keepdims=True)
        return most.squeeze(axes), jnp.where(x == most, places, 0).sum(axes, dtype=jnp.uint8, keepdims=True)

    def backward(bits: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
        share = jnp.expand_dims(cotangent, axes) / jax.lax.population_count(bits).astype(cotangent.dtype)
        return (jnp.where(bits & places != 0, share, 0),)

    call.defvjp(forward, backward)
    return call(x)


def repeat_convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """``convolve`` of every pixel of ``x`` repeated 2 x 2 times, [N, 2 height, 2 width, F].

    Works on the small image: the taps that fall on copies of one pixel are added up first, and each of the four
    phases of the output is then a channel of a convolution with a kernel of about half the size.
    """
    rows, height, width, channels = x.shape
    taps, features = _taps(kernel.shape[0]).sum(2).astype(kernel.dtype), kernel.shape[-1]
    small = jnp.einsum("apd,bqe,decf->abcpqf", taps, taps, kernel)
    x = convolve_same(x, small.reshape(len(taps), len(taps), channels, 4 * features))
    return x.reshape(rows, height, width, 2, 2, features).swapaxes(2, 3).reshape(rows, 2 * height, 2 * width, features)


def _taps(size: int) -> np.ndarray:
    """[pair, p, s, tap]: 1 where that tap of an odd kernel around pixel p of a pair sees pixel s of a pair."""
    reach = (size // 2 + 1) // 2
    place = np.arange(2)[:, None] + np.arange(size) - size // 2
    pairs = place // 2 == np.arange(-reach, reach + 1)[:, None, None]
    return (pairs[:, :, None] & (place % 2 == np.arange(2)[:, None, None]).swapaxes(0, 1)).astype(np.float32)


class ConvLayer(nn.Module):
    """Conv, norm over channels, activation."""

    inputs: int
    features: int
    resample: Resample = "none"
    dtype: Any = jnp.float32
    kernel_size: int = 5
    nets: NetsConfig = NetsConfig()

    def setup(self) -> None:
        named = dict(resample=self.resample, dtype=self.dtype, nets=self.nets, use_bias=self.nets.bias)
        self.conv = Conv(self.inputs, self.features, self.kernel_size, **named)
        self.norm = make_norm(self.nets, self.features)

    def __call__(self, x: jax.Array) -> jax.Array:
        return activate(self.nets.cnn_activation, self.norm(self.conv(x)))
