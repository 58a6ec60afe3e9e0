"""Other physics: masses, friction, gravity, damping, strength.

There is no wind: it acts through the density of the air, which is 0 in most tasks, and at the real one's 1.2 kg/m³ a
storm of 10 m/s moves a walker forty times less than the mildest other mass.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dreamer_jax.envs.dmc import ControlSuite


def scale_masses(env: ControlSuite, factor: float, rng: np.random.Generator) -> None:
    """Of all bodies, with their inertia, and what MuJoCo derives from both.

    In a simulation of its own, because ``mj_setConst`` changes the joints of the one it is given. What only pictures
    use stays as it was.
    """
    import mujoco

    model = env.physics.model
    model.body_mass[...] *= factor
    model.body_inertia[...] *= factor
    drawn = [model.cam_pos0, model.cam_poscom0, model.cam_mat0, model.light_pos0, model.light_poscom0, model.light_dir0]
    before = [array.copy() for array in (*drawn, model.stat.center)]
    extent = model.stat.extent
    mujoco.mj_setConst(model.ptr, mujoco.MjData(model.ptr))
    for array, values in zip((*drawn, model.stat.center), before, strict=True):
        array[...] = values
    model.stat.extent = extent


def scale_friction(env: ControlSuite, factor: float, rng: np.random.Generator) -> None:
    env.physics.model.geom_friction[:, 0] *= factor


def scale_gravity(env: ControlSuite, factor: float, rng: np.random.Generator) -> None:
    env.physics.model.opt.gravity[...] *= factor


def scale_damping(env: ControlSuite, factor: float, rng: np.random.Generator) -> None:
    """Of joints, also where a task sets it itself when an episode begins (finger_spin)."""
    damping = env.physics.model.dof_damping
    damping *= factor
    last = damping.copy()

    def again() -> None:
        damping[damping != last] *= factor
        last[...] = damping

    env.after_reset = again


def scale_strength(env: ControlSuite, factor: float, rng: np.random.Generator) -> None:
    """Of actuators."""
    env.physics.model.actuator_gear[:, 0] *= factor


def has_friction(env: Any) -> str:
    import mujoco

    model = env.physics.model
    off = mujoco.mjtDisableBit.mjDSBL_CONTACT | mujoco.mjtDisableBit.mjDSBL_CONSTRAINT
    meet = (model.geom_contype[:, None] & model.geom_conaffinity) != 0
    meet = (meet | meet.T) & (model.geom_bodyid[:, None] != model.geom_bodyid)
    rubs = meet & (np.maximum(model.geom_condim[:, None], model.geom_condim) > 1)
    return "" if not model.opt.disableflags & off and rubs.any() else "nothing in it has friction"


def has_gravity(env: Any) -> str:
    """Whether it acts on any joint, in some pose."""
    import mujoco

    model, rng = env.physics.model, np.random.default_rng(0)
    data = mujoco.MjData(model.ptr)
    for _ in range(8):
        mujoco.mj_integratePos(model.ptr, data.qpos, rng.standard_normal(model.nv), 1.0)
        mujoco.mj_forward(model.ptr, data)
        if np.abs(data.qfrc_bias).max() > 1e-9:
            return ""
    return "gravity acts on none of its joints"


def has_damping(env: Any) -> str:
    return "" if env.physics.model.dof_damping.any() else "its joints have no damping"
