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
def broken(): return 1 / 0
number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_world.py").write_text(OWN)
    (tmp_path / "own_needy.py").write_text("import no_such_thing_anywhere")
    (tmp_path / "own_syntax.py").write_text("def")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("own_world", "own_needy", "own_syntax"):
        sys.modules.pop(name, None)


def test_a_users_own_environment(own):
    env = make_env(EnvConfig("own_world:make"))
    assert isinstance(env, gymnasium.Env)
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
