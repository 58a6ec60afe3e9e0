"""Predicted images: PSNR, SSIM, and errors of what moves. Images are [..., H, W, C] with values in [0, 1]."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.types import Array

WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03
"""Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity", section III."""
MOVED = 0.05
"""A pixel has moved if a channel of it differs by more from what was seen last."""
LEAST_ERROR = 1e-10
"""Equal images have a PSNR of 100 dB instead of infinity."""
AT_ONCE = 256


class ImageScores(NamedTuple):
    """Of each image [...]; of moving pixels NaN where none moves."""

    mse: np.ndarray
    psnr: np.ndarray
    ssim: np.ndarray
    moving_mse: np.ndarray
    moving_ssim: np.ndarray
    moving_share: np.ndarray  # of the pixels


def score_images(predicted: Array, truth: Array, last: Array) -> ImageScores:
    """Of ``predicted`` beside ``truth``, both [..., H, W, C].

    A whole frame mostly says how well a background is remembered that never changes.

    Args:
      last: what was seen last, with the same leading axes or such as broadcast; where ``truth`` differs from it,
        pixels move.
    """
    shape = np.shape(truth)
    if min(shape[-3:-1]) < WINDOW:
        raise ValueError(f"images: got {shape[-3]} x {shape[-2]} pixels; SSIM takes {WINDOW} x {WINDOW} or more")
    images = [np.broadcast_to(np.asarray(x, np.float32), shape).reshape(-1, *shape[-3:]) for x in (predicted, truth)]
    images.append(np.broadcast_to(np.asarray(last, np.float32), shape).reshape(-1, *shape[-3:]))
    scores = [_score(*(x[start : start + AT_ONCE] for x in images)) for start in range(0, len(images[0]), AT_ONCE)]
    return ImageScores(*(np.concatenate(each).reshape(shape[:-3]) for each in zip(*scores, strict=True)))


@jax.jit
@jax.vmap
def _score(predicted: Array, truth: Array, last: Array) -> tuple[jax.Array, ...]:
    square = jnp.square(predicted - truth).mean(-1)
    similar = ssim_map(predicted, truth).mean(-1)
    moving = moving_pixels(truth, last)
    edge = WINDOW // 2
    inner = moving[edge:-edge, edge:-edge]
    error = square.mean()
    return (
        error,
        psnr(error),
        similar.mean(),
        jnp.where(moving, square, 0).sum() / moving.sum(),
        jnp.where(inner, similar, 0).sum() / inner.sum(),
        moving.mean(),
    )


def psnr(mse: Array) -> jax.Array:
    """``10 log10(1 / MSE)``, in decibels, at most 100."""
    return -10 * jnp.log10(jnp.maximum(mse, LEAST_ERROR))


def moving_pixels(truth: Array, last: Array) -> jax.Array:
    """[..., H, W]: where what moves was, or is now."""
    return (jnp.abs(truth - last) > MOVED).any(-1)


def ssim_map(x: Array, y: Array) -> jax.Array:
    """``(2 mx my + c1) (2 sxy + c2) / ((mx^2 + my^2 + c1) (sx^2 + sy^2 + c2))`` (Wang et al. 2004, eq. 13).

    Means, variances and the covariance are under a Gaussian window around each pixel for which it lies within the
    image: [H - 10, W - 10, C] of images [H, W, C].
    """
    blur = partial(jnp.einsum, "ih,hwc,jw->ijc", _windows(x.shape[0]), precision="highest")

    def smooth(image: Array) -> jax.Array:
        return blur(image, _windows(x.shape[1]))

    mean_x, mean_y = smooth(x), smooth(y)
    variance_x, variance_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    covariance = smooth(x * y) - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    likeness = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return likeness * (2 * covariance + c2) / (variance_x + variance_y + c2)


def _windows(size: int) -> np.ndarray:
    """[size - 10, size]: each row a Gaussian window one further, of sum 1."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    window = np.exp(-0.5 * (offsets / SIGMA) ** 2)
    rows = np.zeros((size - WINDOW + 1, size), np.float32)
    for place in range(len(rows)):
        rows[place, place : place + WINDOW] = window / window.sum()
    return rows
