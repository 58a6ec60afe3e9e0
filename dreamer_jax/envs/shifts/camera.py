"""The camera moved around what it looks at, rolled, or with a wider view."""

from __future__ import annotations

import numpy as np

from dreamer_jax.envs.dmc import ControlSuite
from dreamer_jax.envs.shifts.lights import at_rest, rotation

POSE = ("cam_pos", "cam_quat", "cam_pos0", "cam_poscom0", "cam_mat0")
ZOOM = ("cam_fovy",)


def turn(env: ControlSuite, scale: float, rng: np.random.Generator) -> None:
    """Azimuth, elevation and roll by up to ±90° times ``scale``, at least half of it, the distance kept.

    As the Distracting Control Suite (arXiv 2101.02722), but never lower than it was, where floors hide the scene.
    """
    import mujoco

    signs, sizes = rng.choice((-1.0, 1.0), 2), rng.uniform(0.5, 1, 3) * np.pi / 2 * scale
    yaw, pitch, roll = signs[0] * sizes[0], -sizes[1], signs[1] * sizes[2]
    x, y, z = np.eye(3)
    turned = rotation(y, yaw) @ rotation(x, pitch) @ rotation(z, roll)  # in the camera's own axes; it looks along -z
    model, camera, rest = env.physics.model, env.camera, at_rest(env.physics.model)
    modes = mujoco.mjtCamLight
    mode = model.cam_mode[camera]
    tracked = model.cam_bodyid[camera] if mode == modes.mjCAMLIGHT_TRACKCOM else 0
    world = rest.cam_xmat[camera].reshape(3, 3)
    distance = float((rest.cam_xpos[camera] - rest.subtree_com[tracked]) @ world[:, 2])
    distance = distance if distance > 0 else float(model.stat.extent)
    match mode:
        case modes.mjCAMLIGHT_FIXED:
            place, flat, quaternion = model.cam_pos[camera], np.empty(9), np.empty(4)
            mujoco.mju_quat2Mat(flat, model.cam_quat[camera])
            axes = flat.reshape(3, 3)
            mujoco.mju_mat2Quat(quaternion, turned.ravel())
            mujoco.mju_mulQuat(model.cam_quat[camera], model.cam_quat[camera].copy(), quaternion)
        case modes.mjCAMLIGHT_TRACK | modes.mjCAMLIGHT_TRACKCOM:
            tracks_com = mode == modes.mjCAMLIGHT_TRACKCOM
            place = (model.cam_poscom0 if tracks_com else model.cam_pos0)[camera]
            axes = model.cam_mat0[camera].reshape(3, 3).copy()
            model.cam_mat0[camera] = (axes @ turned).ravel()
        case _:  # it looks at a body, wherever it stands
            place, axes = model.cam_pos[camera], world
    place += distance * axes @ (turned - np.eye(3))[:, 2]


def widen(env: ControlSuite, scale: float, rng: np.random.Generator) -> None:
    """The angle of view times 1 + 1.5 ``scale``, the widest zoom of the Distracting Control Suite."""
    env.physics.model.cam_fovy[env.camera] *= 1 + 1.5 * scale
