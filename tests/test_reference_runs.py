"""Runs of the reference into the files that ours are compared with, from log directories made by hand."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import reference_runs
import yaml
from parity.comparison import read

from dreamer_jax.analysis import published
from dreamer_jax.config.loading import load

FIXTURE = Path(__file__).parent / "fixtures" / "train-proprio_rc1.npz"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Both files, without a run."""
    for name, content in (
        ("SCORES", published.reference_small()),
        ("METRICS", json.loads(reference_runs.METRICS.read_text())),
    ):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content | {"tasks": {}}))
        monkeypatch.setattr(reference_runs, name, path)
    return reference_runs.SCORES, reference_runs.METRICS


def logdir(path, episodes, metrics=None, *, task="dmc_walker_walk", seed=0, **env):
    """As the reference leaves it behind; its settings are those of a recorded update."""
    path.mkdir()
    agent = read(str(FIXTURE))[1]["agent_config"]
    agent["opt"] |= {"warmup": 7, "eps": "1e-19"}  # to YAML 1.1, such a number is text
    config = {"task": task, "seed": seed, "agent": agent, "batch_size": 4, "batch_length": 8}
    config |= {"run": {"envs": 2, "train_ratio": 32.0}, "env": {task.partition("_")[0]: env} if env else {}}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [{"step": frames, "episode/score": score} for frames, score in episodes]
    for name, lines in (("scores", rows), ("metrics", metrics or [LINE])):
        (path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def add(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["reference_runs", *map(str, arguments)])
    reference_runs.main()


STATES = dict(image=False, size=[64, 64], repeat=2)
EPISODES = [(998, 1.23456789), (1000, 2), (1998, 3), (2000, 4), (2998, 5), (3000, 6)]
LINE = {
    "train/opt/updates": np.mean(range(1, 501)),
    "train/opt/loss": 1.234567,
    "train/val": 2.0,
    "train/opt/param_count": 9,
}
PLACE = "dmc/walker_walk from states"


def test_a_run_is_added(tmp_path, files, monkeypatch, capsys):
    runs = [logdir(tmp_path / str(seed), EPISODES, [LINE], seed=seed, **STATES) for seed in (10, 2)]
    add(monkeypatch, *runs)
    assert json.loads(capsys.readouterr().out) == {PLACE: ["2", "10"]}
    scores, metrics = (json.loads(path.read_text()) for path in files)
    entry = scores["tasks"][PLACE]
    assert entry["group_frames"] == 1000 and entry["seeds"]["2"][:2] == [[998, 1.23457], [1000, 2.0]]
    assert metrics["tasks"][PLACE]["10"] == {
        "loss/total": [1.235, 1.235],
        "val": [2.0, 2.0],
    }
    expected = {"env.num_envs": 2, "env.action_repeat": 2, "train.batch_size": 4, "train.batch_length": 8}
    expected |= {"train.train_ratio": 32.0, "train.start_windows": 32, "optimizer.warmup": 7, "optimizer.eps": 1e-19}
    expected |= {"rssm.deter": 64, "rssm.stoch": 8, "value.units": 16}
    assert expected.items() <= entry["settings"].items() and "dtype" not in entry["settings"]
    config = published.recorded_runs(PLACE, entry).settings
    assert config == load(
        overrides=[("env.task", "dmc/walker_walk"), *((k, str(v)) for k, v in entry["settings"].items())]
    )
    assert [line.partition(":")[0] for line in files[0].read_text().splitlines()[1:]] == [
        '"10"'
    ]  # the first is on the line of its task

    again = logdir(tmp_path / "again", [(1000, 7), (1000, 9), (2000, 8), (2000, 6)], seed=2, **STATES)
    (again / "metrics.jsonl").unlink()
    add(monkeypatch, again)
    after = json.loads(files[0].read_text())["tasks"][PLACE]["seeds"]
    assert after == {"2": [[1000, 7.0], [1000, 9.0], [2000, 8.0], [2000, 6.0]], "10": entry["seeds"]["10"]}
    assert json.loads(files[1].read_text()) == metrics


@pytest.mark.parametrize(
    ("task", "env", "place", "settings"),
    [
        ("gym_CartPole-v1", {}, "gym/CartPole-v1 from states", {}),
        ("dmc_cup_catch", STATES | {"image": True}, "dmc/cup_catch from images", {"env.observation": "image"}),
        (
            "atari100k_pong",
            dict(size=[32, 32], repeat=4, gray=True, sticky=True, noops=5, actions="all"),
            "atari100k/pong from images",
            {"env.image_size": 32, "env.grey": True, "env.sticky": 0.25, "env.noops": 5, "env.actions": "all"}
            | {"env.timeouts_terminate": True, "env.action_repeat": 4},
        ),
    ],
)
def test_tasks_and_what_is_seen_of_them(tmp_path, files, monkeypatch, task, env, place, settings):
    add(monkeypatch, logdir(tmp_path / "run", EPISODES, task=task, **env))
    (found,) = json.loads(files[0].read_text())["tasks"].items()
    assert found[0] == place
    mine = {name: value for name, value in found[1]["settings"].items() if name.startswith("env.")}
    assert mine == {"env.num_envs": 2, **({"env.action_repeat": 2} if task.startswith("dmc") else {}), **settings}


def test_episodes_that_do_not_end_together_need_a_width(tmp_path, files, monkeypatch):
    run = logdir(tmp_path / "run", [(17, 17), (30, 13), (55, 38)], task="gym_CartPole-v1")
    before = [path.read_bytes() for path in files]
    with pytest.raises(SystemExit, match="do not end together"):
        add(monkeypatch, run)
    assert [path.read_bytes() for path in files] == before
    add(monkeypatch, run, "--group-frames", 50)
    assert json.loads(files[0].read_text())["tasks"]["gym/CartPole-v1 from states"]["group_frames"] == 50


def test_a_task_of_gymnasium_may_show_images(tmp_path, files, monkeypatch):
    add(monkeypatch, logdir(tmp_path / "run", EPISODES, task="gym_catch:Catch-v0"), "--images")
    assert list(json.loads(files[0].read_text())["tasks"]) == ["gym/catch:Catch-v0 from images"]


def test_a_run_with_other_settings_is_refused(tmp_path, files, monkeypatch):
    add(monkeypatch, logdir(tmp_path / "one", EPISODES, **STATES))
    before = [path.read_bytes() for path in files]
    with pytest.raises(SystemExit, match="dmc/walker_walk from states is there with groups of 1000 frames"):
        add(monkeypatch, logdir(tmp_path / "two", EPISODES, seed=1, **STATES | {"repeat": 4}))
    assert [path.read_bytes() for path in files] == before
