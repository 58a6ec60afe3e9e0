"""Crafter: an episode depends on its seed alone, death is terminal and time is not, achievements reach the log."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from dreamer_jax.config.schema import EnvConfig
from dreamer_jax.envs.crafter import Crafter, crafter_score
from dreamer_jax.envs.suites import make_env
from dreamer_jax.envs.vector import make_envs

pytest.importorskip("crafter")


def fingerprint(env, seed, steps=60):
    """Of an episode's pictures and rewards."""
    rng, digest = np.random.default_rng(seed), hashlib.md5()
    observation, _ = env.reset(seed=seed)
    assert env.observation_space.contains(observation)
    for _ in range(steps):
        digest.update(observation["image"].tobytes())
        observation, reward, *_ = env.step(rng.integers(17))
        digest.update(np.float32(reward).tobytes())
    return digest.hexdigest()


def test_an_episode_depends_on_its_seed_alone():
    env = Crafter(64)
    other, first = fingerprint(env, 2), fingerprint(env, 1)  # the process below plays it as its first
    assert env.action_space.n == 17 and first != other
    code = "from test_crafter import *\nprint(fingerprint(Crafter(64), 1))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=sys.path[0] or None)
    assert done.stdout.strip() == first, done.stderr


class Backwards(set):
    """A set that lists its members from the newest to the oldest, as addresses in memory might."""

    def __init__(self, members=()):
        self.order = list(members)
        super().__init__(self.order)

    def add(self, member):
        super().add(member)
        self.order.append(member)

    def remove(self, member):
        super().remove(member)
        self.order.remove(member)

    def __iter__(self):
        return reversed(self.order)


class Forwards(Backwards):
    def __iter__(self):
        return iter(self.order)


def test_addresses_in_memory_play_no_part():
    ends = []
    for kind in (Forwards, Backwards):
        env = Crafter(64)
        env.reset(seed=2)
        world = env._world._world
        for key in list(world._chunks):
            world._chunks[key] = kind(obj for obj in world.objects if obj in world._chunks[key])
        for _ in range(60):
            env.step(0)
        ends.append([(type(obj).__name__, *map(int, obj.pos)) for obj in world.objects])
    assert ends[0] == ends[1] and len(ends[0]) > 10


def test_death_terminates_and_time_truncates():
    env = make_env(EnvConfig("crafter/reward"))
    env.reset(seed=0)
    assert env.step(0)[2:4] == (False, False)
    env._world._player.health = 0
    assert env.step(0)[2:4] == (True, False)
    assert env._world._length == 10_000
    env._world._player.health, env._world._step = 9, 9_998
    assert env.step(0)[2:4] == (False, False)
    assert env.step(0)[2:4] == (False, True)


def test_achievements_reach_the_log_and_neither_agent_nor_replay():
    envs = make_envs(EnvConfig("crafter/reward", vectorization="sync"), seed=0, num_envs=1)
    assert list(envs.spec.observation) == ["image"] and envs.spec.observation["image"].nbytes == 64 * 64 * 3
    assert len(envs.log_names) == 22 and "achievement_wake_up" in envs.log_names
    assert list(envs.reset().observation) == ["image"]
    assert not any(value[0] for value in envs.log.values())
    envs._envs.envs[0]._env._world._player.achievements["collect_coal"] = 2
    for _ in range(2):  # it stays unlocked until the episode ends
        envs.step({"action": np.array([0])})
        assert {name: value[0] for name, value in envs.log.items() if value[0]} == {"achievement_collect_coal": 1.0}
    assert not any("log" in name or "achievement" in name for name in envs.state())


def test_score_by_hand():
    assert crafter_score([0.0] * 22) == 0.0
    np.testing.assert_allclose(crafter_score([1.0] * 22), 100.0)
    # (1 + 0) (1 + 3) (1 + 15) = 64, whose third root is 4.
    np.testing.assert_allclose(crafter_score({"a": 0.0, "b": 0.03, "c": 0.15}), 3.0)


def test_a_task_that_does_not_exist():
    with pytest.raises(ValueError, match="crafter has reward"):
        make_env(EnvConfig("crafter/xyz"))
