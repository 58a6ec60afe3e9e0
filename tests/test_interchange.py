"""Episodes that come and go: exported files and datasets of Minari give back what they were made of."""

import gymnasium
import numpy as np
import pytest
from test_datasets import SPEC, episode, written

from dreamer_jax.cli import main
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.datasets.dataset import open_dataset
from dreamer_jax.datasets.minari import read_minari, write_minari
from dreamer_jax.datasets.sources import open_sources

EPISODES = [episode(length, seed) for seed, length in enumerate((5, 30, 2))]


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Minari, with a folder of its own for datasets."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return pytest.importorskip("minari")


def assert_episodes(found, given, actions=slice(None)):
    for mine, theirs in zip(found, given, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine:
            rows = actions if name.startswith("action/") else slice(None)
            np.testing.assert_array_equal(mine[name][rows], theirs[name][rows], err_msg=name)
            assert mine[name].dtype == theirs[name].dtype, name


def test_exported_episodes_are_read_back(tmp_path, capsys):
    facts = {"env": {"task": "a/b", "action_repeat": 4, "made_up": 1}}
    written(tmp_path / "d", EPISODES, **facts).close()
    assert main(["export", str(tmp_path / "d"), "--output", str(tmp_path / "e")]) == 0
    (source,) = open_sources(str(tmp_path / "e"))
    assert (source.spec, source.lengths) == (SPEC, (5, 30, 2))
    assert (source.env.task, source.env.action_repeat, source.env.num_envs) == ("a/b", 4, 1)
    assert_episodes(source.episodes(), EPISODES)


def test_files_that_are_not_exported_episodes(tmp_path):
    np.savez(tmp_path / "x.npz", reward=np.zeros(3), start_missing=np.array(False))
    with pytest.raises(ConfigError, match=r"offline.data: .*x.npz: no episode that export has written"):
        open_sources(str(tmp_path))
    (tmp_path / "y.npz").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"offline.data: .*y.npz: can't be read"):
        open_sources(str(tmp_path))


def test_to_minari_and_back(tmp_path, library, capsys):
    written(tmp_path / "d", EPISODES).close()
    assert main(["export", str(tmp_path / "d"), "--minari", "ours/some-v0"]) == 0
    theirs = library.load_dataset("ours/some-v0")
    assert theirs.total_episodes == 3 and theirs.total_steps == 34
    assert isinstance(theirs.action_space["press"], gymnasium.spaces.Discrete)
    first = next(iter(theirs.iterate_episodes()))
    np.testing.assert_array_equal(first.rewards, EPISODES[0]["reward"][1:])
    assert first.observations["eye"].shape == (5, 16, 16, 3) and not first.truncations.any()
    (source,) = open_sources("minari:ours/some-v0")
    assert (source.spec, source.lengths) == (SPEC, (5, 30, 2))
    assert_without_what_minari_lacks(source)
    assert main(["export", str(tmp_path / "d"), "--minari", "ours/some-v0"]) == 2
    assert "--minari: got 'ours/some-v0'" in capsys.readouterr().err


def assert_without_what_minari_lacks(source):
    """The last record of an episode has no action, and the first no reward."""
    given = [{**each, "reward": np.where(each["is_first"], 0, each["reward"])} for each in EPISODES]
    assert_episodes(source.episodes(), given, actions=slice(None, -1))


def test_their_datasets_become_what_the_environment_is(tmp_path, library):
    """Torques of [-2, 2] are numbers of [-1, 1] here, whoever has played."""
    env = library.DataCollector(gymnasium.make("Pendulum-v1", max_episode_steps=7))
    for seed in range(3):
        env.reset(seed=seed)
        env.action_space.seed(seed)
        ended = False
        while not ended:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            ended = terminated or truncated
    made = env.create_dataset("theirs/pendulum-v0")
    source = read_minari("minari:theirs/pendulum-v0")
    assert source.env.task == "gym/Pendulum-v1" and source.lengths == (8, 8, 8)
    from dreamer_jax.config.loading import load
    from dreamer_jax.training.preflight import env_spec

    assert source.spec == env_spec(load(overrides=[("env.task", "gym/Pendulum-v1")]))
    for mine, theirs in zip(source.episodes(), made.iterate_episodes(), strict=True):
        np.testing.assert_allclose(2 * mine["action/action"][:-1], theirs.actions, rtol=1e-6)
        np.testing.assert_array_equal(mine["observation/observation"], theirs.observations)
        np.testing.assert_allclose(mine["reward"][1:], theirs.rewards, rtol=1e-6)
        assert mine["is_last"].tolist() == [False] * 7 + [True] and not mine["is_terminal"].any()


def test_there_is_no_such_dataset(tmp_path, library):
    with pytest.raises(ConfigError, match="offline.data: minari:no/such-v0: no such dataset of Minari here"):
        open_sources("minari:no/such-v0")
    written(tmp_path / "d", EPISODES).close()
    with pytest.raises(ConfigError, match="--minari: got 'no name'"):
        write_minari(open_dataset(tmp_path / "d"), "no name")


def test_without_the_library(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(ConfigError, match=r'minari: not installed; run: pip install "dreamer-jax\[offline\]"'):
        open_sources("minari:x/y-v0")
