"""The report that a person gets on an environment."""

from dataclasses import replace

import pytest

from dreamer_jax import load_config
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.envs import check
from dreamer_jax.terminal import render

OWN = """
import gymnasium, numpy as np
from gymnasium import spaces

class World(gymnasium.Env):
    observation_space = spaces.Dict({"eye": spaces.Box(0, 255, (16, 16, 3), np.uint8), "x": spaces.Box(-1, 1, (2,)),
                                     "room": spaces.Discrete(3), "nothing": spaces.Box(0, 1, (0,))})
    action_space = spaces.Dict({"arm": spaces.Box(0, 5, (2,)), "key": spaces.Discrete(4, start=2),
                                "leg": spaces.Box(np.float32([0, -1, -1, 10, -np.inf, -np.inf]),
                                                  np.float32([5, 1, 1, np.inf, -5, np.inf]))})
    def reset(self, *, seed=None, options=None):
        self.count = 0
        return self.see(), {}
    def step(self, action):
        self.count += 1
        return self.see(), 1.0, self.count == 5, False, {}
    def see(self): return self.observation_space.sample()

class Odd(World):
    def see(self): return super().see() | {"x": np.array([7.0, -3.0]), "room": 1}

class AsList(World):
    def see(self): return super().see() | {"x": [0.5, 0.5]}

class NotANumber(World):
    def see(self): return super().see() | {"x": np.float32([0, np.nan])}

class NoInfo(World):
    def reset(self, *, seed=None, options=None): return super().reset()[0]

class Missing(World):
    def see(self): return {"x": np.zeros(2, np.float32)}

class Text(World):
    observation_space = spaces.Text(3)

class Second(World):
    opened = 0
    def __init__(self): Second.opened += 1; self.number = Second.opened
    def see(self):
        if self.number > 1: raise RuntimeError("one is enough")
        return super().see()

class Closed(World):
    left = 0
    def __init__(self): Closed.left += 1
    def close(self): Closed.left -= 1
"""


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    (tmp_path / "odd_world.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def check_env(task, steps, **changes):
    config = load_config(overrides=[(name.replace("__", "."), value) for name, value in changes.items()])
    return render(check.check_env(replace(config, env=replace(config.env, task=task)), steps))


def test_a_sound_environment():
    report = check_env("gym/CartPole-v1", 300)
    for words in ("observation  (4,)   float32", "one of 2", "by termination", "steps per second"):
        assert words in report
    assert report.endswith("\n\nno problems found") and "note:" not in report


def test_what_an_agent_sees_and_how_far_its_actions_reach():
    report = check_env("odd_world:World", 50)
    for words in ("int32, 3 classes", "one-hot", " CNN\n", "10 by termination, 0 by a time limit"):
        assert words in report
    rows = [line.split(maxsplit=1) for line in report.splitlines()]
    table = {row[0]: " ".join(row[1].split()) for row in rows if len(row) == 2}
    assert table["arm"] == "(2,) in [-1, 1] [0, 5] [0, 5]"
    assert table["key"] == "() one of 4 starts at 2 2 to 5"
    assert table["leg[0]"] == "(6,) in [-1, 1] [0, 5] [0, 5]"
    assert table["leg[1-2]"] == "(6,) in [-1, 1] [-1, 1] [-1, 1]"
    assert table["leg[3]"] == "(6,) in [-1, 1] [10, inf] [10, 30]"
    assert table["leg[4]"] == "(6,) in [-1, 1] [-inf, -5] [-15, -5]"
    assert table["leg[5]"] == "(6,) in [-1, 1] [-inf, inf] [-1, 1]"
    assert "nothing" not in table
    assert "note: observation 'nothing' has no elements and is left out" in report
    assert "note: one seed gives different episodes" in report  # it samples from its space


def test_what_may_surprise_is_a_note():
    report = check_env("odd_world:Odd", 50)
    for words in (
        "note: observation 'x' comes as float64, its space says float32; it is converted\n",
        "note: observation 'x' is at times below its low, such as -3; it is kept\n",
        "note: observation 'x' is at times above its high, such as 7; it is kept\n",
    ):
        assert report.count(words) == 1
    assert report.endswith("no problems found")
    assert "observation 'x' comes as list, its space says float32" in check_env("odd_world:AsList", 5)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("odd_world:NoInfo", "reset() must return (observation, info), it gave a dict"),
        ("odd_world:Missing", "observation 'eye' is missing"),
        ("odd_world:Text", "Text is not supported"),
        ("odd_world:NotANumber", "observation 'x' is nan somewhere: not a finite float32"),
        (
            "odd_world:Second",
            "environment 0 (odd_world:Second): reset() failed in episode 0: RuntimeError: one is enou",
        ),
    ],
)
def test_what_cannot_work_is_one_line(task, words):
    with pytest.raises(ConfigError) as caught:
        check_env(task, 10)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_what_the_settings_cannot_take_is_refused():
    with pytest.raises(ConfigError, match="decoder.blocks: got 3, for images it must divide 4 x decoder.depth, 16"):
        check_env("worlds:Picture", 10, decoder__blocks=3, rssm__deter=513, rssm__blocks=3)


def test_nothing_is_left_open():
    import odd_world

    check_env("odd_world:Closed", 10)
    assert odd_world.Closed.left == 0
