"""``train`` with several runs: the commands that it prints, what it runs, and what a failed run does to the others."""

import os
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest
from trainer import flags, tiny_run

from dreamer_jax.cli import main
from dreamer_jax.config.loading import dump, load, replace
from dreamer_jax.runs.metrics import read_jsonl

NAME = "probe-continuous_target-dreamer_v3-1m"


@pytest.fixture(autouse=True)
def _(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # worlds:...


def printed(capsys, *arguments):
    assert main(["train", *arguments, "--print"]) == 0
    return [shlex.split(line) for line in capsys.readouterr().out.splitlines()]


def test_commands_for_a_scheduler(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a b.yaml").write_text("kl:\n  dyn: 0.5\n")
    given = ["--config", "a b.yaml", "--size", "12m", "--env.task", "dmc/walker_run", "--env.num_envs", "3"]
    given += ["--logger", "none", "--profile", "--cache", "none"]
    lines = printed(capsys, *given, "--sweep", "kl.rep=0.1,0.3", "--seeds", "0..1", "--run-dir", "my runs")
    name = "my runs/dmc-walker_run-dreamer_v3-12m-1-kl.rep=0.3"
    assert len(lines) == 4 and lines[-1] == [
        "dreamer-jax", "train", "--config=a b.yaml", "--size=12m", "--env.task=dmc/walker_run", "--env.num_envs=3",
        "--kl.rep=0.3", "--seed=1", "--logger=none", "--cache=none", f"--run-dir={name}", "--profile",
    ]  # fmt: skip
    assert not [path for path in tmp_path.iterdir() if path.name != "a b.yaml"]
    # A printed line means itself, and the settings of the point.
    again = printed(capsys, *lines[-1][2:])
    assert [sorted(words) for words in again] == [sorted(lines[-1])]
    main(
        [
            "config",
            *[word for word in lines[-1][2:] if word.split("=")[0] not in ("--logger", "--cache", "--run-dir")][:-1],
        ]
    )
    (tmp_path / "c.yaml").write_text(capsys.readouterr().out)
    right = {"kl.dyn": 0.5, "kl.rep": 0.3, "seed": 1, "env.num_envs": 3, "env.task": "dmc/walker_run"}
    assert load(files=["c.yaml"]) == replace(load(size="12m"), right)


def test_seeds_alone_are_where_single_runs_would_be(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    single = printed(capsys, "--env.task", "probe/echo", "--seed", "3")
    (words,) = printed(capsys, "--env.task", "probe/echo", "--seeds", "3")
    assert sorted(words) == sorted(single[0])
    assert single[0][-1] == "--run-dir=runs/probe-echo-dreamer_v3-1m-3"
    assert printed(capsys, "--run-dir", "here", "--seed", "3")[0][-1] == "--run-dir=here"


def test_printing_imports_nothing_heavy(monkeypatch, capsys):
    for name in ("jax", "dreamer_jax.training.train"):
        monkeypatch.setitem(sys.modules, name, None)
    assert len(printed(capsys, "--seeds", "0..1")) == 2


def test_seeds_one_after_another_are_the_runs_of_those_seeds(process, tmp_path):
    config, log = tiny_run(train__frames=60), tmp_path / "log"
    alone = flags(config, tmp_path / "alone")
    assert process.run([*alone, "--seed", "2"], tmp_path / "alone.log") == 0
    several = [*flags(config, tmp_path / "all"), "--seeds", "1..2", "--together", "1"]
    assert process.run(several, log) == 0
    lines = log.read_text().splitlines()
    starts = [line for line in lines if line.startswith("dreamer-jax: ")]
    assert starts == [f"dreamer-jax: run {i} of 2: {tmp_path}/all/{NAME}-{i}" for i in (1, 2)]
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == [f"{NAME}-1", f"{NAME}-2"]
    scores = [read_jsonl(path / "scores.jsonl") for path in (tmp_path / "alone", tmp_path / "all" / f"{NAME}-2")]
    assert scores[0] == scores[1] != read_jsonl(tmp_path / "all" / f"{NAME}-1" / "scores.jsonl")
    # The same command goes on with both.
    assert process.run([*several, "--train.frames", "80"], log) == 0
    assert log.read_text().count("resumed at 60 frames") == 2


def test_a_failed_run_does_not_stop_the_others(process, tmp_path):
    log, parent = tmp_path / "log", tmp_path / "all"
    command = flags(tiny_run(), parent)
    command += ["--sweep", "env.task=worlds:Raising,probe/continuous_target"]
    assert process.run(command, log) == 2
    said = [line for line in log.read_text().splitlines() if line.startswith("dreamer-jax: ")]
    failed = parent / "worlds-Raising-dreamer_v3-1m-0"
    assert said[0] == f"dreamer-jax: run 1 of 2: {failed}"
    assert said[1].startswith(f"dreamer-jax: {failed} failed: environment 1 (worlds:Raising): step() failed in episode")
    assert said[2] == f"dreamer-jax: run 2 of 2: {parent}/{NAME}-0"
    assert said[3:] == [f"dreamer-jax: 1 of 2 runs failed, the others are complete: {failed}"]
    assert read_jsonl(parent / f"{NAME}-0" / "metrics.jsonl")[-1]["env_frames"] == 240


def test_a_stop_stops_all(process, tmp_path):
    log = tmp_path / "log"
    number = process.start(
        [*flags(tiny_run(train__frames=10_000_000), tmp_path / "all"), "--seeds", "0..1", "--together", "1"], log
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / "all" / f"{NAME}-0" / "scores.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(number, signal.SIGTERM)
    assert process.wait() == 143
    assert log.read_text().splitlines()[-1].endswith("the same command goes on from there")
    assert not (tmp_path / "all" / f"{NAME}-1").exists()


def test_what_the_last_run_is_refused_for_is_said_before_the_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    last = Path("runs/probe-echo-dreamer_v3-1m-1")
    last.mkdir(parents=True)
    (last / "config.yaml").write_text(
        dump(load(overrides=[("env.task", "probe/echo"), ("seed", "1"), ("kl.rep", "0.2")]))
    )
    command = ["train", "--env.task", "probe/echo", "--train.frames", "32", "--seeds", "0..1"]
    assert main(command) == 2
    assert (
        "runs/probe-echo-dreamer_v3-1m-1/config.yaml: a run with other settings: kl.rep is" in capsys.readouterr().err
    )
    assert [path.name for path in Path("runs").iterdir()] == [last.name]
    (last / "config.yaml").unlink()
    assert main([*command, "--sweep", "train.devices=1,2"]) == 2
    assert "train.devices: got 2, JAX finds 1" in capsys.readouterr().err
    assert [path.name for path in Path("runs").iterdir()] == [last.name]
