"""Other scenes: things that stand about, and a body of another thickness."""

from __future__ import annotations

from typing import Any

import numpy as np

from dreamer_jax.envs.dmc import ControlSuite
from dreamer_jax.envs.shifts.lights import at_rest

SIDES = np.array([(-0.65, 0.35), (0.65, 0.1), (-0.75, -0.15), (0.55, 0.6), (-0.35, 0.7)])
"""Where things stand in the view, from -1 to 1, a little nearer than the body. One more hides part of it."""
NEAR, NEARER = 0.85, 0.6
SIZE = 0.16
"""Half of their side, the view's half being 1."""
HIDDEN = 3
"""The first group of geoms that is not drawn."""


def place_objects(env: ControlSuite, count: float, rng: np.random.Generator) -> None:
    """Draw ``count`` boxes, balls and cylinders of random colours; the sixth stands in front of the body.

    They are in the picture alone, so that nothing can touch them and physics stays the same to the last bit. The
    camera may travel with the body; then each thing stands again wherever the view's width ends.
    """
    import mujoco

    model, camera, rest = env.physics.model, env.camera, at_rest(env.physics.model)
    start, axes = rest.cam_xpos[camera].copy(), rest.cam_xmat[camera].reshape(3, 3).copy()
    distance = float((start - rest.subtree_com[0]) @ axes[:, 2])
    distance = distance if distance > 0 else float(model.stat.extent)
    slope = float(np.tan(np.radians(model.cam_fovy[camera]) / 2))
    views = np.concatenate([rng.permutation(SIDES), rng.uniform(-0.2, 0.2, (1, 2))])
    depths = distance * np.array([NEAR] * len(SIDES) + [NEARER])
    shapes = (mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_SPHERE, mujoco.mjtGeom.mjGEOM_CYLINDER)
    kinds, colours = rng.integers(len(shapes), size=len(views)), rng.uniform(size=(len(views), 3))
    colours[np.arange(len(views)), rng.integers(3, size=len(views))] = 1.0
    places = start + np.column_stack([views * (slope * depths)[:, None], -depths]) @ axes.T
    period = 2 * slope * NEAR * distance

    def draw(physics: Any, scene: Any) -> None:
        travelled = physics.data.cam_xpos[camera] - start
        moved = period * np.rint(travelled / period) * (1, 1, 0)
        for kind, place, depth, colour in list(zip(kinds, places, depths, colours, strict=True))[: int(count)]:
            scene.ngeom += 1  # dm_control shows no more of them than there are
            geom = scene.geoms[-1]
            size = np.full(3, SIZE * slope * depth)
            rgba = np.append(colour, 1).astype(np.float32)
            mujoco.mjv_initGeom(geom, shapes[kind], size, place + moved, np.eye(3).ravel(), rgba)
            geom.category = mujoco.mjtCatBit.mjCAT_STATIC

    env.draw_more = draw


def thicken(env: ControlSuite, factor: float, rng: np.random.Generator) -> None:
    """The heaviest body: its radii, or all sides of boxes and ellipsoids, in pictures and contacts; not its mass."""
    model, most = env.physics.model, 0.0
    body, solids = _heaviest(model)
    for geom, sides in solids.items():
        growth = (factor - 1) * model.geom_size[geom, :sides]
        model.geom_size[geom, :sides] += growth
        grown = float(np.linalg.norm(growth))
        model.geom_rbound[geom] += grown  # what is looked at before contacts are looked for may be too large
        model.geom_aabb[geom, 3:] += grown
        most = max(most, grown)
    first = model.body_bvhadr[body]
    model.bvh_aabb[first : first + model.body_bvhnum[body], 3:] += most


def has_solids(env: Any) -> str:
    return "" if _heaviest(env.physics.model)[1] else "its heaviest body is not drawn as a simple solid"


def _heaviest(model: Any) -> tuple[int, dict[int, int]]:
    """The body, and how many numbers of each of its geoms' size are to be scaled."""
    import mujoco

    kinds = mujoco.mjtGeom
    sides = {
        **dict.fromkeys(map(int, (kinds.mjGEOM_SPHERE, kinds.mjGEOM_CAPSULE, kinds.mjGEOM_CYLINDER)), 1),
        **dict.fromkeys(map(int, (kinds.mjGEOM_ELLIPSOID, kinds.mjGEOM_BOX)), 3),
    }
    body = int(np.argmax(model.body_mass))
    geoms = np.flatnonzero((model.geom_bodyid == body) & (model.geom_group < HIDDEN)).tolist()
    return body, {geom: sides[kind] for geom in geoms if (kind := int(model.geom_type[geom])) in sides}
