"""Episodes that come and go: exported files and datasets of other projects give back what they were made of."""

import sys

import gymnasium
import numpy as np
import pytest
from test_datasets import SPEC, episode, written

from dreamer_jax.cli import main
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.datasets.dataset import open_dataset, write_dataset
from dreamer_jax.datasets.minari import read_minari, write_minari
from dreamer_jax.datasets.sources import open_sources
from dreamer_jax.datasets.stable_worldmodel import write_stable_worldmodel
from dreamer_jax.specs import ArraySpec, EnvSpec

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
    assert_without_what_others_lack(source)
    assert main(["export", str(tmp_path / "d"), "--minari", "ours/some-v0"]) == 2
    assert "--minari: got 'ours/some-v0'" in capsys.readouterr().err


def assert_without_what_others_lack(source):
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
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(ConfigError, match=r'minari: not installed; run: pip install "dreamer-jax\[offline\]"'):
        open_sources("minari:x/y-v0")


@pytest.fixture
def h5py():
    return pytest.importorskip("h5py")


def theirs(h5py, path, lengths, **columns):
    """A file with columns as another program would have written them."""
    with h5py.File(path, "w") as file:
        file["ep_len"], file["ep_offset"] = np.int32(lengths), np.cumsum([0, *lengths[:-1]])
        for name, values in columns.items():
            file[name] = values
    return f"stable-worldmodel:{path}"


def test_to_stable_worldmodel_and_back(tmp_path, h5py, capsys):
    written(tmp_path / "d", EPISODES, env={"task": "a/b", "action_repeat": 4}).close()
    path = tmp_path / "d.h5"
    assert main(["export", str(tmp_path / "d"), "--stable-worldmodel", str(path)]) == 0
    assert f"3 episodes in stable-worldmodel:{path}" in capsys.readouterr().out
    with h5py.File(path, swmr=True) as file:
        assert file["ep_len"][:].tolist() == [5, 30, 2] and file["ep_offset"][:].tolist() == [0, 5, 35]
        np.testing.assert_array_equal(file["pixels"][5:35], EPISODES[1]["observation/eye"])
        np.testing.assert_array_equal(file["observation"][:], file["x"][:])
        np.testing.assert_array_equal(file["action"][0, :2], EPISODES[0]["action/move"][0])
        np.testing.assert_array_equal(file["action"][:4, 2], EPISODES[0]["action/press"][:-1])
        assert np.isnan(file["action"][:]).all(1).nonzero()[0].tolist() == [4, 34, 36]
        assert np.isnan(file["reward"][:]).nonzero()[0].tolist() == [0, 5, 35]
        assert file["terminated"][:].nonzero()[0].tolist() == [4, 36]
        assert file["truncated"][:].nonzero()[0].tolist() == [34]
        assert file["episode_idx"][[0, 4, 5, 36]].tolist() == [0, 0, 1, 2] and file["step_idx"][35:].tolist() == [0, 1]
    (source,) = open_sources(f"stable-worldmodel:{path}")
    assert (source.spec, source.lengths) == (SPEC, (5, 30, 2))
    assert (source.env.task, source.env.action_repeat, source.env.num_envs) == ("a/b", 4, 1)
    assert_without_what_others_lack(source)
    assert main(["export", str(tmp_path / "d"), "--stable-worldmodel", str(path)]) == 2
    assert "something is there already" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "d"), "--stable-worldmodel", str(tmp_path / "d.lance")]) == 2
    assert "ends in .h5 or .hdf5" in capsys.readouterr().err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["d", "d.h5"]


def test_files_of_stable_worldmodel_from_elsewhere(tmp_path, h5py):
    rng = np.random.default_rng(0)
    pixels, action = rng.integers(0, 256, (5, 8, 8, 3), np.uint8), rng.uniform(-1, 1, (5, 2))
    action[1] = np.nan
    reward, terminated = np.array([9, 1, np.nan, 2, 3.0]), np.arange(5) == 4
    given = {"pixels": pixels, "proprio": rng.normal(size=5), "state": rng.normal(size=(5, 9)), "action": action}
    name = theirs(h5py, tmp_path / "x.h5", [2, 3], reward=reward, terminated=terminated, **given)
    (source,) = open_sources(name)
    numbers = ArraySpec((1,), "float32")
    assert source.spec == EnvSpec(
        {"pixels": ArraySpec((8, 8, 3), "uint8"), "proprio": numbers}, {"action": ArraySpec((2,), "float32")}
    )
    first, second = source.episodes()
    np.testing.assert_array_equal(second["observation/pixels"], pixels[2:])
    np.testing.assert_allclose(first["observation/proprio"][:, 0], given["proprio"][:2], rtol=1e-6)
    assert not first["action/action"][1].any() and not second["action/action"][2].any()
    np.testing.assert_allclose(second["action/action"][:2], action[2:4], rtol=1e-6)
    assert first["reward"].tolist() == [0, 1] and second["reward"].tolist() == [0, 2, 3]
    assert not first["is_terminal"].any() and second["is_terminal"].tolist() == [False, False, True]
    chosen = {"observation": np.zeros((2, 3)), "reward": np.zeros(2), "action": np.array([[3], [1]])}
    (source,) = open_sources(theirs(h5py, tmp_path / "choices.h5", [2], **chosen))
    assert source.spec.action == {"action": ArraySpec((), "int32", 4)}
    assert next(source.episodes())["action/action"].tolist() == [3, 0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"action": np.full((2, 1), 1.5)}, r"action is float64 beyond \[-1, 1\]; scale it to that before"),
        ({"action": np.full((2, 1), -1)}, "action has -1; choices are counted from 0"),
        ({"observation": None}, "none of pixels, observation, proprio among its columns: action, ep_len, "),
        ({"pixels": np.zeros((2, 3, 8, 8), np.float32)}, r"pixels is float32 \(3, 8, 8\); images are bytes"),
        ({"reward": None}, "holds no reward"),
        ({"ep_offset": None}, r"no dataset of stable-worldmodel \(no ep_len, ep_offset\)"),
    ],
)
def test_files_of_stable_worldmodel_that_can_not_be_used(tmp_path, h5py, changes, reason):
    columns = {"observation": np.zeros((2, 3)), "reward": np.zeros(2), "action": np.zeros((2, 1))}
    name = theirs(h5py, tmp_path / "x.h5", [2], **columns)
    with h5py.File(tmp_path / "x.h5", "a") as file:
        for column, values in changes.items():
            if column in file:
                del file[column]
            if values is not None:
                file[column] = values
    with pytest.raises(ConfigError, match=f"offline.data: {name}.*{reason}"):
        open_sources(name)


def test_what_is_no_file_of_stable_worldmodel(tmp_path, h5py, monkeypatch):
    (tmp_path / "x.h5").write_bytes(b"nothing")
    for name in ("x.h5", "y.h5"):
        with pytest.raises(ConfigError, match=f"offline.data: .*{name}: can't be read"):
            open_sources(f"stable-worldmodel:{tmp_path / name}")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ConfigError, match=r'h5py: not installed; run: pip install "dreamer-jax\[offline\]"'):
        open_sources(f"stable-worldmodel:{tmp_path / 'x.h5'}")


def test_their_own_reader_finds_the_same(tmp_path, h5py):
    """Both ways through stable-worldmodel itself: its reader, its conversion to another format and back."""
    library = pytest.importorskip("stable_worldmodel.data")
    spec = EnvSpec(SPEC.observation, {"move": SPEC.action["move"]})
    with write_dataset(tmp_path / "d", spec, {}) as writer:
        for each in EPISODES:
            writer.append({name: values for name, values in each.items() if name != "action/press"})
    write_stable_worldmodel(open_dataset(tmp_path / "d"), tmp_path / "d.h5")
    found = library.load_dataset(str(tmp_path / "d.h5"), num_steps=3)
    assert len(found) == 3 + 28 and found.lengths.tolist() == [5, 30, 2]
    clip = found[3 + 7]  # of the second episode, from its record 7
    np.testing.assert_array_equal(clip["pixels"].permute(0, 2, 3, 1), EPISODES[1]["observation/eye"][7:10])
    np.testing.assert_array_equal(clip["action"], EPISODES[1]["action/move"][7:10])
    np.testing.assert_array_equal(clip["reward"], EPISODES[1]["reward"][7:10])
    library.convert(str(tmp_path / "d.h5"), str(tmp_path / "d.lance"), progress=False)
    library.convert(str(tmp_path / "d.lance"), str(tmp_path / "e.h5"), dest_format="hdf5", progress=False)
    (source,) = open_sources(f"stable-worldmodel:{tmp_path / 'e.h5'}")
    assert source.lengths == (5, 30, 2) and sorted(source.spec.observation) == ["observation", "pixels"]
    for mine, given in zip(source.episodes(), EPISODES, strict=True):
        np.testing.assert_array_equal(mine["observation/observation"], given["observation/x"])
        np.testing.assert_array_equal(mine["action/action"][:-1], given["action/move"][:-1])
        np.testing.assert_array_equal(mine["reward"][1:], given["reward"][1:])
        np.testing.assert_array_equal(mine["is_terminal"], given["is_terminal"])
