"""DeepMind Control: no time-out is terminal, an episode depends on its seed alone, states need no OpenGL."""

import os
import subprocess
import sys

import numpy as np
import pytest

from dreamer_jax.config.schema import ConfigError, EnvConfig
from dreamer_jax.envs import dmc, rendering
from dreamer_jax.envs.suites import make_env
from dreamer_jax.envs.vector import make_envs


def can_draw():
    try:
        rendering.start()
    except ConfigError as error:
        return str(error)
    return ""


NO_OPENGL = can_draw()
draws = pytest.mark.skipif(bool(NO_OPENGL), reason=NO_OPENGL)


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


def test_an_action_lasts_many_frames_and_stops_at_the_end():
    once, twice = dmc.make("cartpole_balance"), dmc.make("cartpole_balance", action_repeat=3)
    once.reset(seed=0), twice.reset(seed=0)
    action = np.array([0.3])
    for decision in range(334):
        observation, reward, _, truncated, _ = twice.step(action)
        frames = [once.step(action) for _ in range(3 if decision < 333 else 1)]
        assert reward == sum(frame[1] for frame in frames) and truncated == (decision == 333)
        np.testing.assert_array_equal(observation["position"], frames[-1][0]["position"])


@pytest.mark.parametrize(
    "task",
    (
        "cartpole_swingup reacher_easy finger_turn_hard walker_walk ball_in_cup_catch hopper_hop swimmer_swimmer6 "
        "point_mass_hard manipulator_insert_peg quadruped_walk"
    ).split(),
)
def test_an_episode_goes_on_from_the_middle_of_another(task):
    """To the last bit: what is seen in a state, all that follows the same actions, and the model itself."""
    one, other = dmc.make(task, action_repeat=2), dmc.make(task, action_repeat=2)
    actions = np.random.default_rng(0).uniform(-1, 1, (30, *one.action_space.shape))
    one.reset(seed=1), other.reset(seed=2)
    for action in actions[:20]:
        seen = one.step(action)[0]
    for action in actions[:7]:
        other.step(-action)
    state = one.simulator_state()
    assert state.dtype == np.float64 and not np.array_equal(state, other.simulator_state())
    restored = other.restore(state)
    for key in seen:
        np.testing.assert_array_equal(restored[key], seen[key], err_msg=key)
    for name in dir(one.physics.model.ptr):
        array = getattr(one.physics.model.ptr, name, None)
        if isinstance(array, np.ndarray):
            np.testing.assert_array_equal(array, getattr(other.physics.model.ptr, name), err_msg=name)
    for action in actions[20:]:
        (seen, reward, *_), (again, reward_again, *_) = one.step(action), other.step(action)
        assert reward == reward_again
        for key in seen:
            np.testing.assert_array_equal(again[key], seen[key], err_msg=key)
    np.testing.assert_array_equal(one.simulator_state(), other.simulator_state())
    np.testing.assert_array_equal(other.simulate(state, actions[20]), one.simulate(state, actions[20]))


def test_the_first_state_and_the_time_that_is_left_are_restored():
    one, other = dmc.make("walker_walk"), dmc.make("walker_walk")
    first, _ = one.reset(seed=1)
    other.reset(seed=2)
    for key, value in other.restore(one.simulator_state()).items():
        np.testing.assert_array_equal(value, first[key])
    for env in (one, other):  # the touch of sensors and the solver's start are those of the reset
        env.step(np.ones(6))
    np.testing.assert_array_equal(one.simulator_state(), other.simulator_state())
    for _ in range(998):
        one.step(np.zeros(6))
    other.restore(one.simulator_state())
    assert other.step(np.zeros(6))[3]  # the thousandth
    other.restore(one.simulator_state())  # an episode that has ended goes on where the time is not yet up
    assert other.step(np.zeros(6))[3]


def test_a_state_of_another_task_is_refused():
    env = dmc.make("cartpole_swingup")
    with pytest.raises(ConfigError, match=r"simulator state: its shape is \(96,\), this environment's have \(30,\)"):
        env.restore(dmc.make("walker_walk").simulator_state())


@draws
def test_a_restored_state_is_drawn_as_it_was():
    one, other = dmc.make("quadruped_escape", image_size=32), dmc.make("quadruped_escape", image_size=32)
    one.reset(seed=1), other.reset(seed=2)
    seen = one.step(np.ones(one.action_space.shape))[0]["image"]
    np.testing.assert_array_equal(other.restore(one.simulator_state())["image"], seen)


@draws
@pytest.mark.parametrize(("task", "size", "camera"), [("walker_walk", 64, 0), ("quadruped_walk", 48, 2)])
def test_pictures(task, size, camera):
    """The picture that dm_control draws, nothing beside it, the same in two environments of one seed."""
    settings = EnvConfig(f"dmc/{task}", observation="image", image_size=size, action_repeat=2)
    fresh, used = make_env(settings), make_env(settings)
    used.reset(seed=1)
    used.step(used.action_space.sample())
    (first, _), (second, _) = fresh.reset(seed=0), used.reset(seed=0)
    pictures = [first["image"]]
    action = np.full(fresh.action_space.shape, 0.5)
    for _ in range(3):
        assert list(first) == ["image"] and fresh.observation_space.contains(first)
        assert first["image"].shape == (size, size, 3) and first["image"].std() > 5
        np.testing.assert_array_equal(first["image"], second["image"])
        np.testing.assert_array_equal(first["image"], fresh._env.physics.render(size, size, camera_id=camera))
        first, second = fresh.step(action)[0], used.step(action)[0]
        pictures.append(first["image"])
    assert (pictures[0] != pictures[-1]).any()
    other = fresh._env.physics.render(size, size, camera_id=1 - camera // 2)
    assert (pictures[-1] != other).any()
    fresh.close(), used.close()


@draws
def test_a_picture_is_drawn_once_an_action(monkeypatch):
    env = make_env(EnvConfig("dmc/cartpole_balance", observation="image", action_repeat=4))
    env.reset(seed=0)
    physics, drawn = env._env.physics, []
    monkeypatch.setattr(type(physics), "render", lambda *_, **__: drawn.append(1) or np.zeros((64, 64, 3), np.uint8))
    env.step(np.zeros(1))
    assert len(drawn) == 1


@draws
def test_processes_draw_the_same_pictures():
    records = []
    for kind in ("sync", "async"):
        settings = EnvConfig("dmc/cartpole_balance", observation="image", vectorization=kind)
        envs = make_envs(settings, seed=0, num_envs=2)
        records.append([envs.reset().observation, envs.step({"action": np.ones((2, 1))}).observation])
        envs.close()
    for one, other in zip(*records, strict=True):
        assert list(one) == ["image"] and one["image"].shape == (2, 64, 64, 3) and one["image"].dtype == np.uint8
        np.testing.assert_array_equal(one["image"], other["image"])


def refusal(**variables):
    """The line with which a process says that it can't draw."""
    arguments = ["check-env", "dmc/walker_walk", "--env.observation", "image"]
    variables = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"} | variables
    done = subprocess.run(
        [sys.executable, "-m", "dreamer_jax", *arguments], capture_output=True, text=True, env=variables
    )
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert "libegl1 libgl1-mesa-dri" in done.stderr and "libosmesa6" in done.stderr
    return done.stderr


def test_who_cannot_draw_is_told_what_was_tried():
    assert "MUJOCO_GL=disable fails with" in refusal(MUJOCO_GL="disable")
    assert "MUJOCO_GL=nonsense fails with" in refusal(MUJOCO_GL="nonsense")
    assert "MUJOCO_GL=egl fails with" in refusal(MUJOCO_GL="egl", PYOPENGL_PLATFORM="osmesa")


@draws
def test_the_next_library_is_tried(monkeypatch):
    """EGL works after another library has failed, although PyOpenGL binds itself to the first one."""
    code = """
import os
from dreamer_jax.envs import dmc, rendering
rendering.HEADLESS = ("osmesa", "egl")  # where OSMesa is installed it is the one that draws
print(dmc.make("cartpole_balance", image_size=64).reset(seed=0)[0]["image"].shape, os.environ.get("MUJOCO_GL"))
"""
    variables = {key: value for key, value in os.environ.items() if key not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables)
    assert done.stdout.strip() == "(64, 64, 3) None", done.stderr
