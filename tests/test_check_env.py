"""The report that a person gets on an environment."""

import pytest

from dreamer_jax.config.schema import ConfigError, EnvConfig
from dreamer_jax.envs.check import check_env

OWN = """
import gymnasium, numpy as np
from gymnasium import spaces

class World(gymnasium.Env):
    observation_space = spaces.Dict({"eye": spaces.Box(0, 255, (4, 4, 3), np.uint8), "x": spaces.Box(-1, 1, (2,)),
                                     "room": spaces.Discrete(3)})
    action_space = spaces.Dict({"arm": spaces.Box(0, 5, (2,)), "key": spaces.Discrete(4)})
    def reset(self, *, seed=None, options=None):
        self.count = 0
        return self.see(), {}
    def step(self, action):
        self.count += 1
        return self.see(), self.reward(), self.count == 5, False, {}
    def reward(self): return 1.0
    def see(self): return self.observation_space.sample()

class Bad(World):
    def reward(self): return float("nan")
    def see(self): return super().see() | {"x": np.array([7.0, np.nan])}

class NoInfo(World):
    def reset(self, *, seed=None, options=None): return super().reset()[0]

class Missing(World):
    def see(self): return {"x": np.zeros(2, np.float32)}

class Text(World):
    observation_space = spaces.Text(3)
"""


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    (tmp_path / "odd_world.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_sound_environment():
    report = check_env(EnvConfig("gym/CartPole-v1"), steps=300)
    for words in ("observation  (4,)   float32", "one of 2", "by termination", "steps per second", "no problems found"):
        assert words in report


def test_everything_odd_is_listed():
    report = check_env(EnvConfig("odd_world:World"), steps=50)
    for words in ("int32, 3 classes", "one-hot", " CNN\n"):
        assert words in report
    assert "not supported" not in report
    assert "10 by termination, 0 by a time limit" in report and "[0, 5]" in report and "one of 4" in report
    assert "one seed gives different episodes" in report  # it samples from its space
    report = check_env(EnvConfig("odd_world:Bad"), steps=50)
    for words in ("'x' holds NaN", "a reward is NaN", "gives x as float64, its space says float32"):
        assert words in report


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("odd_world:NoInfo", "reset() must return (observation, info)"),
        ("odd_world:Missing", "observation 'eye' is missing"),
        ("odd_world:Text", "Text is not supported"),
    ],
)
def test_what_cannot_work_is_one_line(task, words):
    with pytest.raises(ConfigError) as caught:
        check_env(EnvConfig(task), steps=10)
    assert words in str(caught.value) and "\n" not in str(caught.value)
