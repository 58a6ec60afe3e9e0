"""Bodies and floors of other colours, floors and skies of other patterns."""

from __future__ import annotations

from typing import Any

import numpy as np

from dreamer_jax.envs.dmc import ControlSuite

BODIES = ("mat_rgba", "geom_rgba")
FLOOR = ("mat_rgba",)
TEXTURES = ("tex_data",)
CELL = 100
"""Pixels of a patch in the sky, of 800 on a side."""
SEEN = 0.02
"""A surface that covers a smaller share of the first picture is not there."""


def colour_bodies(env: ControlSuite, largest: float, rng: np.random.Generator) -> None:
    """Add up to ±``largest``, at least half of it, to red, green and blue of whatever moves, each material alike.

    Within [0, 1], so that a change has the other sign where it would lead out of it.
    """
    model = env.physics.model
    steps = rng.choice((-1.0, 1.0), (model.nmat + 1, 3)) * rng.uniform(0.5, 1, (model.nmat + 1, 3)) * largest
    moving = model.geom_bodyid > 0
    for material in np.unique(model.geom_matid[moving]):
        bare = moving & (model.geom_matid < 0)
        colours = model.mat_rgba[material, :3] if material >= 0 else model.geom_rgba[bare, :3]
        moved = colours + steps[material]
        moved = np.where((moved < 0) | (moved > 1), colours - steps[material], moved)
        if material >= 0:
            model.mat_rgba[material, :3] = moved
        else:
            model.geom_rgba[bare, :3] = moved


def tint_floor(env: ControlSuite, share: float, rng: np.random.Generator) -> None:
    """Mix a pure colour into what the floor's texture is multiplied by."""
    model, tint = env.physics.model, np.roll((1.0, rng.uniform(0, 0.5), 0.0), rng.integers(3))
    for material in np.unique(model.geom_matid[floors(env)]):
        model.mat_rgba[material, :3] = (1 - share) * model.mat_rgba[material, :3] + share * tint


def pattern_floor(env: ControlSuite, share: float, rng: np.random.Generator) -> None:
    """Mix a checker of two other colours and another size into the floor's texture."""
    model = env.physics.model
    cell, colours = int(rng.integers(20, 60)), rng.integers(256, size=(2, 3))
    for material in np.unique(model.geom_matid[floors(env)]):
        image = texture(model, int(model.mat_texid[material].max()))
        row, column = np.indices(image.shape[:2]) // cell
        _mix(image, colours[(row + column) % 2], share)


def pattern_sky(env: ControlSuite, share: float, rng: np.random.Generator) -> None:
    """Mix a patchwork of random colours into the sky."""
    model = env.physics.model
    for number in _skies(model):
        image = texture(model, number)
        patches = rng.integers(256, size=(*(-(-side // CELL) for side in image.shape[:2]), 3))
        patchwork = patches.repeat(CELL, 0).repeat(CELL, 1)[: image.shape[0], : image.shape[1]]
        _mix(image, patchwork, share)


def floor_seen(env: Any) -> str:
    wanted = floors(env)
    geoms = _drawn(env)
    share = np.isin(geoms, np.flatnonzero(wanted)).mean() if wanted.any() else 0
    return "" if share > SEEN else "no floor with a texture is seen"


def sky_seen(env: Any) -> str:
    return "" if _skies(env.physics.model) and (_drawn(env) < 0).mean() > SEEN else "no sky is seen"


def floors(env: Any) -> np.ndarray:
    """Which geoms are planes of the world with a texture."""
    import mujoco

    model = env.physics.model
    textured = (model.geom_matid >= 0) & (model.mat_texid[model.geom_matid].max(1) >= 0)
    return (model.geom_bodyid == 0) & (model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE) & textured


def texture(model: Any, number: int) -> np.ndarray:
    """A view into the model, [height, width, channels]."""
    shape = model.tex_height[number], model.tex_width[number], model.tex_nchannel[number]
    begin = model.tex_adr[number]
    return model.tex_data[begin : begin + int(np.prod(shape))].reshape(shape)


def _skies(model: Any) -> list[int]:
    import mujoco

    return np.flatnonzero(model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX).tolist()


def _mix(image: np.ndarray, other: np.ndarray, share: float) -> None:
    image[..., :3] = np.rint((1 - share) * image[..., :3].astype(np.float32) + share * other.astype(np.float32))


def _drawn(env: Any) -> np.ndarray:
    """Which geom is seen in each pixel, -1 where none is."""
    import mujoco

    size = env.observation_space["image"].shape[0]
    number, kind = np.moveaxis(env.physics.render(size, size, camera_id=env.camera, segmentation=True), -1, 0)
    return np.where((kind == mujoco.mjtObj.mjOBJ_GEOM) | (number < 0), number, np.iinfo(np.int32).max)
