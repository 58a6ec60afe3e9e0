"""benchmarks/research.py: what is trained, what is gone on with, and what is said of an option."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import research
from agents import quickly
from trainer import SETTINGS

from dreamer_jax.cli import main
from dreamer_jax.config.loading import dump, replace
from dreamer_jax.config.schema import Config


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """One task of 60 frames and two options; runs are trained in this process."""
    config = replace(Config(), {name: value for name, value in SETTINGS.items() if name != "env.task"})
    (tmp_path / "task.yaml").write_text(dump(config))
    settings = {"env.task": "probe/action_reward", "env.num_envs": "2", "train.frames": "60", "train.train_ratio": "1"}
    task = research.Task(tmp_path / "task.yaml", settings, 30, pictures=False)
    monkeypatch.setattr(research, "TASKS", {"probe": task})
    options = {"default": {}, "slow": {"optimizer.learning_rate": "0"}, "pictures alone": {"encoder.shift": "3"}}
    monkeypatch.setattr(research, "OPTIONS", options)
    monkeypatch.setattr(research, "PICTURES", {"pictures alone"})
    started = []

    def run(words):
        started.append(words[words.index("--run-dir") + 1].rpartition("/")[2])
        with quickly():
            return subprocess.CompletedProcess(words, main(words[3:]))

    monkeypatch.setattr(research, "subprocess", SimpleNamespace(run=run))  # its own: Matplotlib lists fonts by another

    def start(*words):
        monkeypatch.setattr(sys, "argv", ["research.py", "--runs", str(tmp_path / "runs"), *words])
        return research.main()

    return start, started, tmp_path


@pytest.mark.slow
def test_what_is_complete_is_not_trained_again(lab, capsys):
    start, started, folder = lab
    assert start("--seeds", "0", "--options", "default") == 0
    assert started == ["probe-default-0"]
    assert start("--seeds", "0,1", "--report", str(folder / "out"), "--repeats", "1") == 0
    assert started[1:] == ["probe-slow-0", "probe-default-1", "probe-slow-1"]
    table = capsys.readouterr().out
    rows = json.loads((folder / "out.json").read_text())["rows"]
    assert [(row["option"], len(row["areas"])) for row in rows] == [("default", 2), ("slow", 2)]
    assert rows[1]["difference"] == pytest.approx(rows[1]["mean"] - rows[0]["mean"], abs=0.02)
    assert "verdict" not in rows[0] and rows[1]["verdict"] in ("better", "worse", "no difference seen")
    assert all(row["update_ms"] > 0 and row["compiled_memory_mb"] > 0 for row in rows)
    assert research.as_table(rows) in table and research.as_table(rows) in (folder / "out.md").read_text()
    assert (folder / "out.png").stat().st_size > 1000
    assert research.curves(folder / "runs", "probe", "default", [0, 1, 2]).shape == (2, 2)


@pytest.mark.parametrize(
    "theirs, words", [([5, 6, 7, 6, 5], "better"), ([-5, -6, -7, -6, -5], "worse"), ([0, 1, -1, 0.5, -0.5], "no diff")]
)
def test_an_option_is_judged_by_the_interval_of_the_difference(lab, monkeypatch, theirs, words):
    monkeypatch.setattr(research, "update_speed", lambda *_: {"update_ms": 1, "compiled_memory_mb": 1, "parameters": 1})
    default = np.array([[0.0], [1], [-1], [0.2], [-0.3]])
    rows = research.rows_of("probe", {"default": default, "slow": np.array(theirs, float)[:, None]}, 1)
    assert rows[1]["verdict"].startswith(words)
    assert rows[1]["ci95"][0] <= rows[1]["difference"] <= rows[1]["ci95"][1]


def test_every_option_is_one():
    for task in research.TASKS.values():
        for option in research.options_of(task):
            research.config_of(task, option)
