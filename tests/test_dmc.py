"""DeepMind Control: states only, no time-out is terminal, an episode depends on its seed alone."""

import os
import subprocess
import sys

import numpy as np
import pytest

from dreamer_jax.envs import dmc


@pytest.mark.parametrize("name", dmc.PROPRIO_TASKS)
def test_an_episode_depends_on_its_seed_alone(name):
    fresh, used = dmc.make(name), dmc.make(name)
    rng = np.random.default_rng(0)
    used.reset(seed=5)
    for _ in range(7):
        used.step(rng.uniform(-1, 1, used.action_space.shape))
    (first, _), (second, _) = fresh.reset(seed=3), used.reset(seed=3)
    for step in range(25):
        assert fresh.observation_space.contains(first)
        for key in first:
            np.testing.assert_array_equal(first[key], second[key], err_msg=f"{key} at step {step}")
        action = rng.uniform(-1, 1, fresh.action_space.shape)
        first, reward_1, *_ = fresh.step(action)
        second, reward_2, *_ = used.step(action)
        assert reward_1 == reward_2
    other, _ = fresh.reset(seed=4)
    again, _ = used.reset(seed=3)
    assert any(not np.array_equal(other[key], again[key]) for key in other)


def test_observations_are_vectors_and_time_is_no_death():
    env = dmc.make("pendulum_swingup")
    observation, info = env.reset(seed=0)
    assert info == {} and {key: value.shape for key, value in observation.items()} == {
        "orientation": (2,),
        "velocity": (1,),
    }
    ends = [env.step(np.zeros(1))[2:4] for _ in range(1000)]
    assert ends[:-1] == [(False, False)] * 999 and ends[-1] == (False, True)


def test_names_and_short_forms():
    assert set(dmc.PROPRIO_TASKS) <= set(dmc.task_names()) and len(dmc.PROPRIO_TASKS) == 18
    assert set(dmc.make("cup_catch").reset(seed=0)[0]) == {"position", "velocity"}


def test_discount_zero_is_terminal():
    import dm_env

    env = dmc.make("cartpole_balance")
    observation, _ = env.reset(seed=0)

    class Dying:
        def step(self, action):
            return dm_env.termination(1.0, observation)

    env._env = Dying()
    assert env.step(np.zeros(1))[2:4] == (True, False)


@pytest.mark.parametrize("setting", [None, "egl"])
def test_states_never_touch_opengl(setting):
    code = """
import os, sys
import numpy as np
from dreamer_jax.config.schema import EnvConfig
from dreamer_jax.envs.vector import make_envs
envs = make_envs(EnvConfig("dmc/cartpole_balance", vectorization="sync"), seed=0, num_envs=1)
from dm_control.mujoco import engine
def no(*args, **kwargs): raise AssertionError("rendered")
engine.Physics.render = engine.Physics._make_rendering_contexts = no
envs.reset()
envs.step({"action": np.zeros((1, 1), np.float32)})
print([name for name in sys.modules if name.split(".")[0].lower() in ("opengl", "glfw", "pyglet", "glfw_renderer")
       or "egl" in name.lower().split(".")[-1]], os.environ.get("MUJOCO_GL"))
"""
    variables = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"}
    variables |= {"MUJOCO_GL": setting} if setting else {}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables)
    assert result.stdout.strip() == f"[] {setting}", result.stderr
