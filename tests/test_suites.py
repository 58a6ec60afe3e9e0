"""Names of tasks, and what a person reads when one is wrong."""

import subprocess
import sys

import gymnasium
import pytest

from dreamer_jax.config.schema import ConfigError, EnvConfig
from dreamer_jax.envs.suites import make_env

OWN = """
import gymnasium
def make(): return gymnasium.make("CartPole-v1")
def nothing(): return 3
def quits(): raise SystemExit(0)
def broken(): return 1 / 0
number = 3
"""

REGISTERED = """
import gymnasium
from gymnasium import spaces
class Mine(gymnasium.Env):
    observation_space = action_space = spaces.Discrete(2)
    def __init__(self, own): assert own
    def reset(self, *, seed=None, options=None): return 0, {}
    def step(self, action): return 0, 0.0, False, False, {}
class Drawing(Mine):
    metadata = {"render_modes": ["rgb_array"]}
    def __init__(self, own, render_mode=None): self.render_mode = render_mode
def fail(own): raise RuntimeError("no licence\\ntoday")
def quit(own): raise SystemExit
def nested(own): return gymnasium.make("Absent-v0")
entries = {"Mine": Mine, "Drawing": Drawing, "Failing": fail, "Quitting": quit, "Nested": nested}
for name, entry in entries.items():
    gymnasium.register(f"{name}-v0", entry_point=entry, kwargs={"own": True}, max_episode_steps=7)
gymnasium.register("Many-v0", vector_entry_point=Mine, kwargs={"own": True})
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_world.py").write_text(OWN)
    (tmp_path / "own_registered.py").write_text(REGISTERED)
    (tmp_path / "own_needy.py").write_text("import no_such_thing_anywhere")
    (tmp_path / "own_syntax.py").write_text("def")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("own_world", "own_registered", "own_needy", "own_syntax"):
        sys.modules.pop(name, None)
    for name in [name for name, spec in gymnasium.registry.items() if spec.kwargs.get("own")]:
        gymnasium.registry.pop(name)


def test_a_users_own_environment(own):
    env = make_env(EnvConfig("own_world:make"))
    assert isinstance(env, gymnasium.Env)
    env.close()


def test_an_id_is_made_as_gymnasium_makes_it(own):
    """Its module lies in the working directory; one constructor takes no render_mode, another one does."""
    for name, mode in (("Mine", None), ("Drawing", "rgb_array")):
        for render in (False, True):
            env = make_env(EnvConfig(f"gym/own_registered:{name}-v0"), render=render)
            assert env.spec.max_episode_steps == 7
            assert env.render_mode == (mode if render else None)
            assert env.reset(seed=0) == (0, {})
            env.close()


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("walker_walk", "names no suite; did you mean dmc/walker_walk"),
        ("dcm/walker_walk", "unknown suite 'dcm'; did you mean dmc/walker_walk"),
        ("dmc/walker_wlak", "did you mean dmc/walker_walk"),
        ("dmc/", "no such task"),
        ("gym/CartPol-v1", "did you mean gym/CartPole-v1"),
        ("gym/", "gym/"),
        ("probe/memry", "did you mean probe/memory"),
        ("probe/xyz", "probe has constant_reward, "),
        ("atari/pnog", "did you mean atari/pong"),
        ("atari100k/ms_pacmann", "did you mean atari100k/ms_pacman"),
        ("atari/combat", "no such task"),
        ("crafter/", "crafter has reward"),
        ("own_world:mak", "did you mean 'make'"),
        ("own_world:number", "not callable"),
        ("own_world:nothing", "gave a int, not a gymnasium.Env"),
        ("own_world:broken", "ZeroDivisionError"),
        ("own_world:quits", "quits() failed: SystemExit: 0"),
        ("own_registered:Mine-v0", "did you mean gym/own_registered:Mine-v0?"),
        ("gym/own_registered:Mien-v0", "did you mean gym/own_registered:Mine-v0"),
        ("gym/own_registered:Mine-v3", "did you mean gym/own_registered:Mine-v0"),
        ("gym/own_registered:Failing-v0", "it could not be made: RuntimeError: no licence today"),
        ("gym/own_registered:Quitting-v0", "it could not be made: SystemExit"),
        ("gym/own_registered:Nested-v0", "it could not be made: NameNotFound: Environment `Absent`"),
        ("gym/own_registered:Many-v0", "only a vector environment is registered under this id"),
        ("gym/own_absent:Mine-v0", "no module 'own_absent'"),
        ("gym/own_syntax:Mine-v0", "importing own_syntax failed: SyntaxError"),
        ("gym/CartPole-v9", "did you mean gym/CartPole-v1"),
        ("gym/Pendulum-v0", "use `Pendulum-v1` instead"),
        ("gym/ALE/Pong-v5", "use atari/pong"),
        ("gym/ALE/MsPacman-ram-v5", "use atari/ms_pacman"),
        ("own_absent.world:make", "no module 'own_absent'"),
        ("own_needy:make", "no_such_thing_anywhere"),
        ("own_syntax:make", "SyntaxError"),
        ("own_world:", "own_world"),
        (":make", "env.task"),
        ("", "names no suite"),
    ],
)
def test_wrong_names_are_explained_in_one_line(own, task, words):
    with pytest.raises(ConfigError) as caught:
        make_env(EnvConfig(task))
    message = str(caught.value)
    assert words in message and "env.task" in message and task in message and "\n" not in message
    # What failed is not suggested.
    assert task not in message.partition("did you mean")[2].rstrip("?").split()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"task": "probe/memory", "observation": "image"}, "env.observation: got 'image', but 'probe/memory' can't"),
        ({"task": "own_world:make", "image_size": 32}, "env.image_size: got 32, but 'own_world:make' can't use it"),
        ({"task": "gym/CartPole-v1", "sticky": 0.25}, "env.sticky: got 0.25, but 'gym/CartPole-v1' can't use it, only"),
        (
            {"task": "dmc/walker_walk", "grey": True},
            "env.grey: got True, but 'dmc/walker_walk' can't use it, only atari",
        ),
        ({"task": "dmc/walker_walk", "image_size": 32}, "env.image_size: got 32, but env.observation is state"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(own, settings, words):
    with pytest.raises(ConfigError) as caught:
        make_env(EnvConfig(**settings))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch):
    for module, task in (("ale_py", "atari/pong"), ("crafter", "crafter/reward")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ConfigError, match=rf"env.task: '{task}' needs a package: pip install 'dreamer-jax\["):
            make_env(EnvConfig(task))


def test_importing_loads_no_simulator():
    code = "import sys, dreamer_jax.envs.vector, dreamer_jax.envs.check; print([m for m in sys.modules if m in {}])"
    listed = code.format("('dm_control', 'mujoco', 'ale_py', 'crafter', 'pygame')")
    assert subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True).stdout.strip() == "[]"


def test_an_environments_process_imports_no_jax():
    code = "import sys, dreamer_jax.envs.wrappers; print([m for m in sys.modules if m in ('jax', 'flax')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
