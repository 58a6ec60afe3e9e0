"""Convolutions against loops over pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.nets import convolution
from dreamer_jax.nets.convolution import (
    FEW_CHANNELS,
    Conv,
    ConvLayer,
    convolve,
    convolve_same,
    kernel_gradient,
    largest,
    pool_convolve,
    repeat_convolve,
)


def plain(x, kernel, bias):
    """SAME padding, one pixel at a time."""
    half, (height, width, _) = kernel.shape[0] // 2, x.shape
    out = np.zeros((height, width, len(bias)))
    for row in range(height):
        for column in range(width):
            out[row, column] = bias
            for i in range(-half, half + 1):
                for j in range(-half, half + 1):
                    if 0 <= row + i < height and 0 <= column + j < width:
                        out[row, column] += x[row + i, column + j] @ kernel[i + half, j + half]
    return out


def dilated(x):
    """Zeros before every pixel, of rows and columns."""
    out = np.zeros((2 * x.shape[0], 2 * x.shape[1], x.shape[2]))
    out[1::2, 1::2] = x
    return out


EXPECTED = {
    "none": plain,
    # SAME padding of a stride of two over an even size leaves out one pixel less at the upper left.
    "stride": lambda x, kernel, bias: plain(x, kernel, bias)[1::2, 1::2],
    "pool": lambda x, kernel, bias: plain(x, kernel, bias).reshape(2, 2, 3, 2, 4).max((1, 3)),
    "repeat": lambda x, kernel, bias: plain(x.repeat(2, 0).repeat(2, 1), kernel, bias),
    "transpose": lambda x, kernel, bias: plain(dilated(x), kernel, bias),
}


@pytest.mark.parametrize("resample", EXPECTED)
def test_a_convolution_is_a_sum_over_neighbours(resample):
    rng = np.random.default_rng(0)
    x, kernel, bias = rng.normal(size=(4, 6, 2)), rng.normal(size=(5, 5, 2, 4)), rng.normal(size=4)
    out = Conv(2, 4, 5, resample).apply({"params": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}, x[None])
    np.testing.assert_allclose(out[0], EXPECTED[resample](x, kernel, bias), rtol=1e-4, atol=1e-4)


def pooled(x, kernel):
    rows, height, width, _ = x.shape
    return convolve(x, kernel).reshape(rows, height // 2, 2, width // 2, 2, -1).max((2, 4))


def repeated(x, kernel):
    return convolve(x.repeat(2, 1).repeat(2, 2), kernel)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize(("channels", "features"), [(1, 3), (FEW_CHANNELS, 3), (2 * FEW_CHANNELS, FEW_CHANNELS + 1)])
@pytest.mark.parametrize(
    ("quick", "plain"), [(pool_convolve, pooled), (repeat_convolve, repeated), (convolve_same, convolve)]
)
def test_the_quick_form_of_a_convolution_equals_the_plain_one(quick, plain, channels, features, size):
    rng = np.random.default_rng(size)
    x, kernel = rng.normal(size=(2, 4, 6, channels)), rng.normal(size=(size, size, channels, features))
    weight = rng.normal(size=jax.eval_shape(plain, x, kernel).shape)

    def value_and_grads(f):
        return jax.value_and_grad(lambda x, kernel: ((out := f(x, kernel)) * weight).sum() + (out**2).sum(), (0, 1))(
            jnp.float32(x), jnp.float32(kernel)
        )

    for found, expected in zip(*map(jax.tree.leaves, map(value_and_grads, (quick, plain))), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("size", "chunk", "products"), [(3, 48, 3), (4, 48, 3), (5, 24, 6), (5, 1, 6)])
def test_a_kernel_gradient_is_summed_over_chunks_of_images(size, chunk, products, monkeypatch):
    monkeypatch.setattr(convolution, "CHUNK_PIXELS", chunk)
    rng = np.random.default_rng(size)
    x, cotangent = (rng.normal(size=(6, 4, 6, channels)).astype(np.float32) for channels in (2, 3))
    kernel = jnp.zeros((size, size, 2, 3))
    (expected,) = jax.vjp(lambda kernel: convolve(x, kernel), kernel)[1](cotangent)
    found = kernel_gradient(x, cotangent, size=size)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    jaxpr = str(jax.make_jaxpr(lambda x: kernel_gradient(x, cotangent, size=size))(x))
    assert f"length={products}\n" in jaxpr  # each image has 24 pixels


def test_the_norm_is_over_channels():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 4, 4, 3)).astype(np.float32)
    kernel, scale = np.zeros((5, 5, 3, 3), np.float32), np.float32([1, 2, 3])
    kernel[2, 2] = np.eye(3)
    params = {"conv": {"kernel": kernel, "bias": np.zeros(3, np.float32)}, "norm": {"scale": scale}}
    out = ConvLayer(3, 3).apply({"params": params}, x)
    normed = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-4) * scale
    np.testing.assert_allclose(out, normed / (1 + np.exp(-normed)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("shape", "axes"), [((2, 3, 2, 4, 2, 5), (2, 4)), ((3, 2, 4, 7), (2,))])
def test_the_largest_shares_its_gradient_where_several_are(shape, axes):
    x = np.random.default_rng(0).integers(3, size=shape).astype(np.float32)  # of four, some are equal
    weight = np.random.default_rng(1).normal(size=x.max(axes).shape)
    mine, numpys = (
        jax.value_and_grad(lambda x, f=f: (f(x) * weight).sum())(jnp.asarray(x))
        for f in (lambda x: largest(x, axes), lambda x: x.max(axes))
    )
    np.testing.assert_allclose(mine[0], numpys[0], rtol=1e-6)
    np.testing.assert_allclose(mine[1], numpys[1], rtol=1e-6)


def test_the_largest_keeps_a_byte_of_every_four():
    x = jnp.zeros((4, 8, 4, 16))
    _, pull = jax.vjp(lambda x: largest(x, (2,)), x)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(pull)) == x.size / 4
