"""Lights that are dimmer, or stand elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np

from dreamer_jax.envs.dmc import ControlSuite

INTENSITY = tuple(
    f"{light}{part}" for light in ("light_", "vis.headlight.") for part in ("ambient", "diffuse", "specular")
)
DIRECTION = ("light_pos", "light_dir", "light_pos0", "light_poscom0", "light_dir0")


def dim(env: ControlSuite, factor: float, rng: np.random.Generator) -> None:
    """Every light, and the one at the camera."""
    model = env.physics.model
    for light in (model, model.vis.headlight):
        prefix = "light_" if light is model else ""
        for part in ("ambient", "diffuse", "specular"):
            getattr(light, prefix + part)[...] *= factor


def tilt(env: ControlSuite, degrees: float, rng: np.random.Generator) -> None:
    """Move every light around what it shines on, about a horizontal axis, and let it look there still.

    A light that follows a body ignores ``light_pos`` and ``light_dir``: MuJoCo has its place relative to the body, and
    its direction, in fields of their own.
    """
    import mujoco

    angle = rng.uniform(0, 2 * np.pi)
    turn = rotation(np.array([np.cos(angle), np.sin(angle), 0.0]), np.radians(degrees))
    model = env.physics.model
    centre = at_rest(model)
    for light, mode in enumerate(model.light_mode):
        match mode:
            case mujoco.mjtCamLight.mjCAMLIGHT_TRACK:
                place, direction, pivot = model.light_pos0[light], model.light_dir0[light], np.zeros(3)
            case mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM:
                place, direction, pivot = model.light_poscom0[light], model.light_dir0[light], np.zeros(3)
            case _:
                place, direction = model.light_pos[light], model.light_dir[light]
                towards = centre.light_xdir[light]
                distance = max(float((centre.subtree_com[0] - centre.light_xpos[light]) @ towards), 0.0)
                pivot = place + distance * direction
        place += (turn - np.eye(3)) @ (place - pivot)  # exactly nothing where nothing is turned
        direction[...] = turn @ direction


def has_lights(env: Any) -> str:
    return "" if env.physics.model.nlight else "its model has no light"


def at_rest(model: Any) -> Any:
    """MuJoCo's data in the pose of the model's file: what is measured there does not depend on the episode."""
    import mujoco

    data = mujoco.MjData(model.ptr)
    mujoco.mj_fwdPosition(model.ptr, data)
    return data


def rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rodrigues' formula for a unit vector, [3, 3]; exactly the identity for angle 0."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
