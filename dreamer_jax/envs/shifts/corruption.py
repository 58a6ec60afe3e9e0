"""Pictures spoilt after they were drawn: noise, blur, a patch without a picture, less colour."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from dreamer_jax.envs.dmc import ControlSuite

Spoil = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def spoiling(spoil: Spoil) -> Callable[[ControlSuite, float, np.random.Generator], None]:
    """As an edit of a task. ``spoil`` draws the same for every picture."""

    def edit(env: ControlSuite, amount: float, rng: np.random.Generator) -> None:
        seed = int(rng.integers(2**32))
        env.after_drawing = lambda picture: spoil(picture, amount, np.random.default_rng(seed))

    return edit


def add_noise(picture: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian, of so many of 255 levels; other pictures get other noise, the same picture always the same."""
    own = np.random.default_rng([int(rng.integers(2**32)), zlib.crc32(picture.tobytes())])
    noisy = picture + deviation * own.standard_normal(picture.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def blur(picture: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian, of so many pixels in a picture of 64."""
    radius = deviation * picture.shape[0] / 64
    return np.array(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


def cut_out(picture: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A black square of so much of the area, always at the same place."""
    height, width = picture.shape[:2]
    centre, half = rng.uniform(0.35, 0.65, 2), np.sqrt(share) / 2
    (top, left), (bottom, right) = ((centre + side).clip(0, 1) * (height, width) for side in (-half, half))
    spoilt = picture.copy()
    spoilt[round(top) : round(bottom), round(left) : round(right)] = 0
    return spoilt


def fade(picture: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Mix with its own grey, the mean of the three colours."""
    faded = (1 - share) * picture + share * picture.mean(-1, keepdims=True)
    return np.rint(faded).astype(np.uint8)
