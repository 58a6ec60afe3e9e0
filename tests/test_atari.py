"""Atari against an emulator driven by hand: pictures, rewards, no-ops, sticky actions, ends, repeatability."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from dreamer_jax.config.schema import EnvConfig
from dreamer_jax.envs import atari
from dreamer_jax.envs.suites import make_env
from dreamer_jax.envs.vector import make_envs
from dreamer_jax.envs.wrappers import open_stream

ale_py = pytest.importorskip("ale_py")


def config(game, suite="atari", **changes):
    return EnvConfig(f"{suite}/{game}", **({"action_repeat": 4, "noops": 0, "vectorization": "sync"} | changes))


def emulator(game):
    """The bare emulator at the start of a game."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(atari.games()[game])
    ale.reset_game()
    return ale


def smaller(frame, size):
    """Averages under a triangle of twice the step between new pixels, one axis after the other."""

    def axis(array):
        scale = len(array) / size
        centre = (np.arange(size) + 0.5) * scale
        weight = np.maximum(0, 1 - abs(np.arange(len(array)) + 0.5 - centre[:, None]) / scale)
        return np.tensordot(weight / weight.sum(1, keepdims=True), array, 1)

    return axis(axis(frame.astype(float)).swapaxes(0, 1)).swapaxes(0, 1)


@pytest.mark.parametrize("grey", [False, True])
def test_pictures_and_rewards_are_those_of_the_emulator(grey):
    env, ale = make_env(config("boxing", grey=grey, image_size=80)), emulator("boxing")
    rng, total, flicker = np.random.default_rng(0), 0.0, 0

    def compare(observation, frame):
        want = smaller(frame, 80)
        want = want @ np.array([[0.299], [0.587], [0.114]]) if grey else want
        assert env.observation_space.contains(observation)
        assert np.abs(observation["image"] - want).max() <= 1.5  # rounded after each axis, and cut off if grey

    compare(env.reset(seed=0)[0], ale.getScreenRGB())
    for _ in range(60):
        action = int(rng.integers(env.action_space.n))
        frames, reward = [], 0.0
        for _ in range(4):
            reward += ale.act(ale.getMinimalActionSet()[action])
            frames.append(ale.getScreenRGB())
        observation, got, terminated, truncated, _ = env.step(action)
        assert (got, terminated, truncated) == (reward, False, False)
        compare(observation, np.maximum(frames[2], frames[3]))
        total, flicker = total + abs(reward), flicker + (frames[2] != frames[3]).any()
    assert total > 0 and flicker > 30


def test_noops_are_uniform_and_inclusive():
    env, ale = make_env(config("ms_pacman", noops=3, image_size=80)), emulator("ms_pacman")
    frames = [ale.getScreenRGB()]
    for _ in range(3):
        ale.act(0)
        frames.append(ale.getScreenRGB())
    begin = env._ale.getEpisodeFrameNumber()
    counts = np.zeros(4, int)
    for seed in range(120):
        observation, _ = env.reset(seed=seed)
        count = env._ale.getEpisodeFrameNumber() - begin
        counts[count] += 1
        if seed < 8:  # the frame after the no-ops alone, nothing of the episode before
            assert np.abs(observation["image"] - smaller(frames[count], 80)).max() <= 1.5
        env.step(1)
    assert counts.sum() == 120 and counts.min() > 15


class Listening:
    """Passes everything on to an emulator and notes its actions."""

    def __init__(self, ale):
        self.ale, self.actions = ale, []

    def act(self, action):
        self.actions.append(getattr(action, "value", action))
        return self.ale.act(action)

    def __getattr__(self, name):
        return getattr(self.ale, name)


def test_sticky_actions_repeat_the_frame_before():
    env, ale = make_env(config("pong", sticky=0.25, image_size=16)), emulator("pong")
    env.reset(seed=0)
    env._ale = heard = Listening(env._ale)
    wanted = [action for step in range(500) for action in [1 + step % 5] * 4]
    pictures = [env.step(action)[0]["image"] for action in wanted[::4]]
    minimal = [action.value for action in ale.getMinimalActionSet()]
    before = [0, *heard.actions]
    late = 0
    for frame, action in enumerate(wanted):
        assert heard.actions[frame] in (minimal[action], before[frame])
        late += frame % 4 == 0 and heard.actions[frame] != minimal[action]
    assert abs(late / 500 - 0.25) < 0.06  # three standard deviations
    # Held over frames, not over decisions: so late that a whole decision is lost once in 256.
    assert 0 < sum(heard.actions[k + 3] != minimal[wanted[k]] for k in range(0, 2000, 4)) < 10
    for action in heard.actions:
        ale.act(action)
    assert np.abs(pictures[-1] - smaller(ale.getScreenRGB(), 16)).max() <= 16  # the ball moved by a frame

    env, ale = make_env(config("pong", sticky=1.0, image_size=16)), emulator("pong")
    env.reset(seed=0)
    env._ale = heard = Listening(env._ale)
    env.step(3)
    assert heard.actions == [0] * 4


def test_the_end_of_a_game_terminates_and_a_time_limit_truncates(monkeypatch):
    env, ale = make_env(config("qbert", image_size=16)), emulator("qbert")
    env.reset(seed=0)
    env._ale, rng, lives = Listening(env._ale), np.random.default_rng(1), set()
    while not ale.game_over():
        action = int(rng.integers(6))
        for _ in range(4):
            ale.act(ale.getMinimalActionSet()[action])
            if ale.game_over():
                break
        lives.add(ale.lives())
        assert env.step(action)[2:4] == (ale.game_over(), False)
    assert len(lives) > 2  # and losing one of them means nothing
    assert ale.getEpisodeFrameNumber() == env._ale.getEpisodeFrameNumber()

    monkeypatch.setattr(atari, "MAX_FRAMES", 10)
    env = make_env(config("qbert", image_size=16, noops=30))
    env.reset(seed=0)
    env._ale = heard = Listening(env._ale)
    assert [env.step(0)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]
    assert len(heard.actions) == 10
    for terminate in (False, True):
        stream = open_stream(config("qbert", timeouts_terminate=terminate), seed=0, purpose=0, index=0)
        stream.reset()
        records = [stream.step({"action": np.int32(0)})[0] for _ in range(3)]
        assert [bool(record["is_last"]) for record in records] == [False, False, True]
        assert [bool(record["is_terminal"]) for record in records] == [False, False, terminate]


def test_a_decision_is_four_frames_and_not_sixteen():
    stream = open_stream(config("pong"), seed=0, purpose=0, index=0)
    stream.reset()
    begin = stream._env._ale.getEpisodeFrameNumber()
    for _ in range(5):
        stream.step({"action": np.int32(0)})
    assert stream._env._ale.getEpisodeFrameNumber() - begin == 20


def fingerprint(env, seed, steps=40):
    """Of an episode's pictures and rewards."""
    rng, digest = np.random.default_rng(seed), hashlib.md5()
    digest.update(env.reset(seed=seed)[0]["image"].tobytes())
    for _ in range(steps):
        observation, reward, terminated, *_ = env.step(rng.integers(env.action_space.n))
        digest.update(observation["image"].tobytes() + np.float32(reward).tobytes())
        if terminated:
            break
    return digest.hexdigest()


# In all but the first two the emulator's own reset keeps something of the episode before.
@pytest.mark.parametrize("game", ["pong", "seaquest", "assault", "backgammon", "beam_rider", "berzerk"])
def test_an_episode_depends_on_its_seed_alone(game):
    settings = config(game, noops=30, sticky=0.25)
    fresh, used = make_env(settings), make_env(settings)
    fingerprint(used, 1, steps=100)
    prints = [fingerprint(fresh, 2), fingerprint(used, 2), fingerprint(used, 2)]
    assert len(set(prints)) == 1


def test_it_repeats_in_another_process():
    code = (
        "from test_atari import *\n"
        "print(fingerprint(make_env(config('ms_pacman', suite='atari100k', noops=30, sticky=0.25)), 7))"
    )
    here = fingerprint(make_env(config("ms_pacman", noops=30, sticky=0.25)), 7)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=sys.path[0] or None)
    assert done.stdout.strip() == here, done.stderr


def test_a_saved_state_brings_back_the_last_records(caplog):
    settings = config("breakout", noops=30, sticky=0.25)
    envs = make_envs(settings, seed=3, num_envs=2)
    envs.reset()
    for step in range(20):
        last = envs.step({"action": np.array([step % 4, 1])})
    again = make_envs(settings, seed=3, num_envs=2, state=envs.state())
    np.testing.assert_array_equal(again.reset().observation["image"], last.observation["image"])
    for step in range(20):
        actions = {"action": np.array([1, step % 4])}
        np.testing.assert_array_equal(again.step(actions).observation["image"], envs.step(actions).observation["image"])
    assert not caplog.records


def test_games_and_actions():
    assert len(atari.games()) == 104 and {"pong", "ms_pacman", "jamesbond", "up_n_down"} <= set(atari.games())
    assert make_env(config("james_bond")).action_space.n == 18
    assert make_env(config("pong", suite="atari100k")).action_space.n == 6
    assert make_env(config("pong", actions="all")).action_space.n == 18
    assert "combat" not in atari.games()  # for two players; loading it would end the process
