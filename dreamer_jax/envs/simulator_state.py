"""All that the next steps of a dm_control environment depend on, as one vector, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from dreamer_jax.config.schema import ConfigError

TARGETS = (
    ("geom", "target", ("geom_pos",)),
    ("site", "target", ("site_pos",)),
    ("light", "target_light", ("light_pos",)),
    *(("body", name, ("body_pos", "body_quat")) for name in ("target", "target_ball", "target_peg", "cup", "slot")),
)
"""What tasks of the suite move in the model itself when an episode begins: kind, name, fields. By name, because a
shifted model may number them otherwise. Beside them there are gains (point_mass_hard) and terrain (quadruped_escape).
"""

COUNTS = ("_step_count", "_reset_next_step")
"""Of a dm_control environment, first in every state: how far its episode is, and whether it has ended."""


def read(env: Any) -> np.ndarray:
    """Of a dm_control environment, float64 [Q].

    Its step count; what the task has changed in the model; MuJoCo's state, with the warm start of its solver; and
    sensors, some of which tell of the step before and can't be measured again. Not the task's random state: it plays
    no part until the next reset.
    """
    return np.concatenate([np.ravel(part) for part in _parts(env)]).astype(np.float64)


def write(env: Any, state: np.ndarray) -> None:
    """Go on from ``state``, whatever came before.

    Raises:
      ConfigError: it has another length than this environment's.
    """
    import mujoco

    ends = np.cumsum([part.size for part in _parts(env)])
    if np.shape(state) != (ends[-1],):
        raise ConfigError(f"simulator state: its shape is {np.shape(state)}, this environment's have ({ends[-1]},)")
    count, *changed, integrated, sensors = np.split(np.asarray(state, np.float64), ends[:-1])
    physics = env.physics
    model, data = physics.model, physics.data
    env._step_count, env._reset_next_step = int(count[0]), bool(count[1])
    for array, values in zip(_changed(model), changed, strict=True):
        array[...] = values.reshape(array.shape)
    if _has_terrain(model) and physics.contexts.mujoco:
        with physics.contexts.gl.make_current() as gl:
            gl.call(mujoco.mjr_uploadHField, model.ptr, physics.contexts.mujoco.ptr, 0)
    physics.set_state(integrated, mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_step1(model.ptr, data.ptr)  # with which dm_control ends its own steps
    data.sensordata[:] = sensors


def far_from_the_limit(states: np.ndarray) -> np.ndarray:
    """The same moments [..., Q] as at the beginning of an episode: its time limit is a whole episode away."""
    found = np.array(states, np.float64)
    found[..., : len(COUNTS)] = 0
    return found


def _parts(env: Any) -> list[np.ndarray]:
    import mujoco

    physics = env.physics
    count = np.array([getattr(env, name) for name in COUNTS], np.float64)
    integrated = physics.get_state(mujoco.mjtState.mjSTATE_INTEGRATION)
    return [count, *_changed(physics.model), integrated, physics.data.sensordata]


def _changed(model: Any) -> list[np.ndarray]:
    """Views into the model."""
    import mujoco

    arrays = [model.wrap_prm]
    for kind, name, fields in TARGETS:
        index = mujoco.mj_name2id(model.ptr, getattr(mujoco.mjtObj, f"mjOBJ_{kind.upper()}"), name)
        arrays += [getattr(model, field)[index] for field in fields if index >= 0]
    return [*arrays, model.hfield_data] if _has_terrain(model) else arrays


def _has_terrain(model: Any) -> bool:
    import mujoco

    return bool((model.geom_type == mujoco.mjtGeom.mjGEOM_HFIELD).any())
