"""A background that moves on its own, behind whatever the scene shows."""

from __future__ import annotations

import numpy as np

from dreamer_jax.envs.dmc import ControlSuite

CELLS = 8
"""Patches of the noise on a side of the picture, before they are smoothed."""
LAYERS = ((0.5, 0.0), (-0.2, 0.3))
"""Of the noise, each going its own way: pictures a second to the left, and upwards."""


def move_sky(env: ControlSuite, share: float, rng: np.random.Generator) -> None:
    """Mix smooth coloured noise into the sky. Where it is follows from the simulator's time, so from the state."""
    cells = rng.integers(256, size=(len(LAYERS), CELLS, CELLS, 3)).astype(np.float64)
    if not share:
        return

    def compose(picture: np.ndarray) -> np.ndarray:
        size = picture.shape[0]
        sky = env.physics.render(size, size, camera_id=env.camera, segmentation=True)[..., 0] < 0
        noise = np.mean([_seen(*layer, size, env.physics.data.time) for layer in zip(cells, LAYERS, strict=True)], 0)
        mixed = (1 - share) * picture + share * noise
        return np.where(sky[..., None], np.rint(mixed), picture).astype(np.uint8)

    env.after_drawing = compose


def _seen(cells: np.ndarray, speed: tuple[float, float], size: int, time: float) -> np.ndarray:
    """One layer at a time, [size, size, 3]: linear between its cells, and without a border."""
    for axis, pace in zip((1, 0), speed, strict=True):
        place = CELLS * (np.arange(size) / size + pace * time)
        cell, share = np.floor(place).astype(int), np.expand_dims(place % 1, (0, 2) if axis else (1, 2))
        here, there = (np.take(cells, (cell + step) % CELLS, axis) for step in (0, 1))
        cells = (1 - share) * here + share * there
    return cells
