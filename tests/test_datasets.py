"""Datasets: what is collected is what environments gave, whole and in order; coverage; damage; the command."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from agents import tiny_config

from dreamer_jax.agent import make_agent
from dreamer_jax.cli import main
from dreamer_jax.config.loading import load as load_config
from dreamer_jax.config.loading import replace
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.datasets import coverage
from dreamer_jax.datasets.collect import collect, of_agent, ornstein_uhlenbeck
from dreamer_jax.datasets.dataset import open_dataset, write_dataset
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.training.preflight import env_spec
from dreamer_jax.training.train import begin
from dreamer_jax.types import PolicyCarry, TimeStep

SPEC = EnvSpec(
    {"x": ArraySpec((2,), "float32"), "eye": ArraySpec((16, 16, 3), "uint8")},
    {"move": ArraySpec((2,), "float32"), "press": ArraySpec((), "int32", 3)},
)


def episode(length, seed=0, points=None):
    rng = np.random.default_rng(seed)
    place = np.arange(length)
    x = rng.normal(size=(length, 2)) if points is None else points
    return {
        "observation/x": x.astype(np.float32),
        "observation/eye": rng.integers(0, 256, (length, 16, 16, 3)).astype(np.uint8),
        "action/move": rng.uniform(-1, 1, (length, 2)).astype(np.float32),
        "action/press": rng.integers(0, 3, length).astype(np.int32),
        "reward": rng.normal(size=length).astype(np.float32),
        "is_first": place == 0,
        "is_last": place == length - 1,
        "is_terminal": (place == length - 1) & (seed % 2 == 0),
    }


def written(folder, episodes, **facts):
    with write_dataset(folder, SPEC, {"task": "a/b", "policy": "hand", **facts}) as writer:
        for each in episodes:
            writer.append(each)
    return open_dataset(folder)


def settings(task="probe/action_reward", **changes):
    return replace(load_config(overrides=[("env.task", task)]), {"env.num_envs": 3, **changes})


def test_what_is_written_is_read(tmp_path):
    given = [episode(length, seed) for seed, length in enumerate((2, 300, 1, 40))]
    given[2] |= {"is_last": np.array([True])}
    dataset = written(tmp_path / "d", given)
    assert (dataset.facts["episodes"], dataset.facts["records"], dataset.spec) == (4, 343, SPEC)
    for mine, theirs in zip(dataset, given, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine:
            np.testing.assert_array_equal(mine[name], theirs[name])
            assert mine[name].dtype == theirs[name].dtype
    assert sum(path.stat().st_size for path in (tmp_path / "d").rglob("*")) < 512 * 900  # two blocks of 256 records
    windows, index = open_dataset(tmp_path / "d", batch_length=4).replay.sample(8, 0)
    assert windows.reward.shape == (8, 4) and (index[:, 0] == 0).all()


def test_a_hash_says_what_it_holds(tmp_path):
    given = [episode(5, 0), episode(6, 1)]
    first = written(tmp_path / "a", given).facts["hash"]
    assert written(tmp_path / "b", given, note="another place").facts["hash"] == first
    given[1]["reward"][3] += 1e-6
    assert written(tmp_path / "c", given).facts["hash"] != first


@pytest.mark.parametrize("wrong", [slice(1, None), slice(0, -1)])
def test_only_whole_episodes(tmp_path, wrong):
    with pytest.raises(ValueError, match="an episode begins with"):
        written(tmp_path / "d", [episode(4), {name: x[wrong] for name, x in episode(5).items()}])
    assert list(tmp_path.iterdir()) == []


def test_collected_episodes_are_the_environments_own(tmp_path):
    """Whole ones, with the rewards of just these actions, the same at every call, others with another seed."""
    counts = []
    collect(settings(), tmp_path / "d", policy="random", noise=0, episodes=7, after_episode=lambda *x: counts.append(x))
    dataset = open_dataset(tmp_path / "d")
    assert dataset.facts["episodes"] == 7 and [count for count, _ in counts] == list(range(1, 8))
    actions = []
    for each, (_, score) in zip(dataset, counts, strict=True):
        assert len(each["reward"]) == 11 and each["is_terminal"][-1]
        expected = each["action/action"][:-1] == each["observation/observation"][:-1, 0]
        np.testing.assert_array_equal(each["reward"][1:], expected)
        assert each["reward"].sum() == score
        actions.append(each["action/action"])
    assert {tuple(x) for x in actions}.__len__() == 7 and 0.3 < np.mean(actions) < 0.7
    for name, seed, same in (("again", 0, True), ("other", 1, False)):
        collect(settings(seed=seed), tmp_path / name, policy="random", noise=0, episodes=7)
        assert (open_dataset(tmp_path / name).facts["hash"] == dataset.facts["hash"]) == same


def test_an_environment_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(count, score):
        raise RuntimeError("here")

    with pytest.raises(RuntimeError, match="here"):
        collect(settings(), tmp_path / "d", policy="random", noise=0, episodes=3, after_episode=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_noise_that_follows_itself():
    """Numbers with a correlation of 0.85 from step to step, choices that stay; both begin anew with an episode."""
    count, steps = 50, 400
    act = ornstein_uhlenbeck(SPEC, count, np.random.default_rng(0), 0.1)

    def timestep(first):
        return TimeStep({}, None, np.full(count, first), None, None)

    taken = [act(timestep(step == 0)) for step in range(steps)]
    x = np.stack([each["move"][:, 0] for each in taken])
    assert abs(np.corrcoef(x[100:-1].ravel(), x[101:].ravel())[0, 1] - 0.85) < 0.02
    np.testing.assert_allclose(x[100:].std(), 0.1 / np.sqrt(1 - 0.85**2), rtol=0.05)
    presses = np.stack([each["press"] for each in taken])
    np.testing.assert_allclose((presses[1:] != presses[:-1]).mean(), 0.15 * 2 / 3, atol=0.01)
    assert np.abs(act(timestep(True))["move"]).max() < 0.5  # a first step, of the noise alone


def test_a_runs_agent_plays(tmp_path):
    config = replace(tiny_config(), {"env.task": "probe/action_reward", "env.num_envs": 2})
    spec = env_spec(config)
    begin(config, tmp_path / "run", make_agent(config, spec).init(jax.random.key(0)))
    found = []
    for noise in (0.0, 0.9):
        folder = tmp_path / f"d{noise}"
        collect(config, folder, policy=str(tmp_path / "run"), noise=noise, episodes=4)
        found.append(open_dataset(folder))
    assert found[0].facts["episodes"] == 4 and found[0].facts["hash"] != found[1].facts["hash"]
    with pytest.raises(ConfigError, match=r"--policy: .* other observations or actions than this environment's"):
        collect(settings("probe/echo"), tmp_path / "e", policy=str(tmp_path / "run"), noise=0, episodes=1)
    assert not (tmp_path / "e").exists()


def test_a_disturbed_agent_knows_what_was_done():
    told = []

    def act(params, root, step, carry, timestep):
        told.append(carry.prev_action)
        action = {"move": np.zeros((3, 2), np.float32), "press": np.zeros(3, np.int32)}
        return carry.replace(prev_action=action), action, {}

    rng = np.random.default_rng(0)
    actor = of_agent(act, lambda *_: PolicyCarry({}, {}), None, SPEC, 3, rng, seed=0, noise=0.5)
    done = [actor(TimeStep({}, np.zeros(3), *np.zeros((3, 3), bool))) for _ in range(3)]
    assert np.abs(done[0]["move"]).max() > 0
    for taken, heard in zip(done, told[1:], strict=False):
        np.testing.assert_array_equal(taken["move"], heard["move"])
        np.testing.assert_array_equal(taken["press"], heard["press"])


def test_coverage_by_hand(tmp_path, monkeypatch):
    """Two numbers: a grid of 10 x 10 cells between the lowest and the highest."""
    spec = EnvSpec({"x": SPEC.observation["x"]}, SPEC.action)
    monkeypatch.setitem(globals(), "SPEC", spec)
    corners = np.array([[0, 0], [1, 1], [0.05, 0.05], [0.55, 0.35]])

    def points(x):
        each = episode(len(x), points=np.array(x))
        return {name: value for name, value in each.items() if name != "observation/eye"}

    some, more = written(tmp_path / "a", [points(corners)]), written(tmp_path / "b", [points([[0, 1], *corners[:2]])])
    assert coverage.volume(some, some) == (0.03, "grid of 10^2 cells")
    assert coverage.volume(more, some)[0] == pytest.approx(2 / 3)
    assert coverage.volume(some, more)[0] == pytest.approx(2 / 3)
    row = coverage._row("x", np.array([0.0, 0.5, 1.0, 1.0]))
    assert row[:4] == ("x", "0", "0.625", "1") and row[4][-1] == "█" and len(row[4]) == 10


@pytest.mark.parametrize("file", ["dataset.json", "state.npz", "replay/layout.json", "replay/reward.bin"])
@pytest.mark.parametrize("how", ["removed", "changed", "cut"])
def test_damage_is_told(tmp_path, file, how):
    written(tmp_path / "d", [episode(20)]).close()
    path = tmp_path / "d" / file
    content = bytearray(path.read_bytes())
    match how:
        case "removed":
            path.unlink()
        case "changed":
            content[len(content) // 2 if file.endswith(("json", "npz")) else 3] ^= 8
            path.write_bytes(content)
        case "cut":
            path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ConfigError) as caught:
        list(open_dataset(tmp_path / "d"))
    assert Path(file).name in str(caught.value) or str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command(tmp_path, capsys):
    words = ["collect", "--env.task", "probe/memory", "--env.num_envs", "2", "--episodes", "4"]
    assert main([*words, "--out", str(tmp_path / "a")]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path / 'a'}: 4 episodes, 20 records of probe/memory, by random" in said
    assert "of the box that its states span has been visited (grid of 10^2 cells)" in said
    words += ["--policy", "ou", "--seed", "3", "--out", str(tmp_path / "b"), "--against", str(tmp_path / "a"), "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seed"] == 3 and found["policy"] == "ou" and 0 < found["in_other"] <= 1
    assert main(words) == 2
    assert "something is there already" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words[:5], "--episodes", "2", "--noise", "2", "--out", str(tmp_path / "c")])
    assert "expected a number from 0 to 1" in capsys.readouterr().err and not (tmp_path / "c").exists()


def test_a_dataset_is_exported_like_a_run(tmp_path, capsys):
    written(tmp_path / "d", [episode(4), episode(7, 1)]).close()
    assert main(["export", str(tmp_path / "d"), "--output", str(tmp_path / "e")]) == 0
    assert "2 episodes in" in capsys.readouterr().out
    with np.load(tmp_path / "e" / "env000-episode000001.npz") as file:
        np.testing.assert_array_equal(file["reward"], episode(7, 1)["reward"])
        assert not file["start_missing"] and not file["end_missing"]
