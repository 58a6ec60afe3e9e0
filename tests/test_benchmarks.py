"""The programs in benchmarks/ whose figures nothing else holds: that they are there, and how they come about."""

import json
import subprocess
import sys
from pathlib import Path

import device_replay
import jax
import loop
import numpy as np
import on_device_peer
import planner
import pytest
import replay
from trainer import make_toy

from dreamer_jax.config.loading import load
from dreamer_jax.envs.pure import probes as pure_probes
from dreamer_jax.training import train as training
from dreamer_jax.training.learner import Learner

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
FOLDERS = sorted(path.parent for path in BENCHMARKS.glob("*/__main__.py"))
FILES = sorted(path for path in BENCHMARKS.glob("*.py") if "argparse" in path.read_text())
MACHINE = {"versions", "device", "backend", "cores", "processor", "load"}


@pytest.mark.parametrize(
    "program", [*FOLDERS, *(pytest.param(file, marks=pytest.mark.slow) for file in FILES)], ids=lambda path: path.name
)
def test_every_program_starts_as_its_pages_start_it(program):
    """By its place alone: modules beside it must not stand for those of the library."""
    ended = subprocess.run([sys.executable, program, "--help"], capture_output=True, text=True, cwd="/")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("usage: ")


def line(program, monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", [program.__name__, *map(str, arguments)])
    program.main()
    return json.loads(capsys.readouterr().out)


def test_device_replay(monkeypatch, capsys):
    pytest.importorskip("flashbax")
    monkeypatch.setattr(device_replay, "INNER", 2)
    found = line(device_replay, monkeypatch, capsys, "--capacity", 1600, "--repeats", 2)
    assert found["ours_bytes"] == pytest.approx(found["flashbax_bytes"], rel=0.01)
    assert all(found[f"{who}_{what}_us"] > 0 for who in ("ours", "flashbax") for what in ("append", "sample"))
    assert found.keys() >= MACHINE


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
def test_replay(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(replay, "COLD", 1)
    monkeypatch.setattr(replay, "UPDATE_SECONDS", 0)
    found = line(replay, monkeypatch, capsys, "--records", 3200, 6400, "--repeats", 3, "--directory", tmp_path)
    assert (found["benchmark"], found["unit"], found["record_bytes"]) == ("replay", "ms", 1191)
    assert [size["records"] for size in found["sizes"]] == [3200, 6400]
    for size in found["sizes"]:
        rows = -(-size["records"] // replay.ENVS // 256) * 256
        assert size["file_mb"] == pytest.approx(rows * replay.ENVS * 1191 / 1e6, abs=0.1)
        for operation in ("sample", "append", "write_back"):
            for kind in (operation, f"{operation}_logged", f"{operation}_cold", f"{operation}_fresh"):
                if kind in size:
                    median, slow, cpu = size[kind]
                    assert 0 < median <= slow and cpu > 0
        assert size.keys() >= {"sample_cold", "write_back_cold", "append_logged", "write_back_logged"}
        assert {"anonymous_mb", "mapped_mb", "undo_mb", "read_kb_cold", "fill_s"} <= size.keys()
    assert list(tmp_path.iterdir()) == []


def test_loop(monkeypatch, capsys):
    monkeypatch.setattr(training, "make_agent", make_toy)
    prepare = Learner.prepare
    sizes = ("--batch-size", 2, "--batch-length", 4, "--num-envs", 2, "--train-ratio", 4)
    found = line(loop, monkeypatch, capsys, "--task", "probe/echo", *sizes, "--seconds", 0.2)
    assert (found["benchmark"], found["task"], found["num_envs"]) == ("loop", "probe/echo", 2)
    assert found["updates"] > 0 and found["seconds"] >= 0.2
    assert found["frames_per_s"] == pytest.approx(2 * found["updates_per_s"], rel=0.1)
    assert 0 < found["update_share"] <= 1
    assert found.keys() >= MACHINE | {"update_ms", "idle_ms", "peak_rss_mb"}
    assert Learner.prepare is prepare


def test_planner(monkeypatch, capsys):
    sizes = ("--preset", "dreamer_v3", "--candidates", 30, "--set", "planner.iterations=2", "planner.horizon=3")
    found = line(planner, monkeypatch, capsys, *sizes, "--observation", "proprio", "--num-envs", 2, "--repeats", 3)
    assert (found["benchmark"], found["num_envs"], found["repeats"]) == ("planner", 2, 3)
    assert (found["candidates"], found["elites"], found["iterations"], found["horizon"]) == (30, 3, 2, 3)
    assert len(found["decide_ms_each"]) == 3 and found["decide_ms"] > 0 < found["cpu_ms"]
    assert found["decisions_per_s"] == pytest.approx(2e3 / found["decide_ms"], rel=0.01)
    assert found.keys() >= MACHINE | {"compile_s", "dtype", "preset", "size", "set", "peak_rss_mb"}


def test_an_update_runs_from_its_dispatch_or_from_the_end_of_the_one_before():
    watch = loop.Watch(0)
    watch.close()
    # Two that follow upon each other, a pause of 2 seconds, one that goes on when counting ends.
    watch.spans = [(-1.0, 1.0), (0.5, 3.0), (5.0, 9.0), (6.0, 12.0)]
    watch.logged = [(0.0, {"grad_steps": 7, "env_frames": 70}), (10.0, {"grad_steps": 10, "env_frames": 100})]
    found = watch.result()
    assert found["update_share"] == 0.8
    assert (found["updates"], found["updates_per_s"], found["frames_per_s"]) == (3, 0.3, 3.0)
    assert found["update_ms"] == np.round(8000 / 3, 2) and found["idle_ms"] == np.round(2000 / 3, 2)


def test_an_environment_as_a_peer_asks_for_it():
    env = on_device_peer.Wrapped(pure_probes.make("memory"))
    assert env.num_actions() == env._env.spec.action["action"].classes > 1
    state, shown = env.reset(jax.random.key(0))
    assert (env.get_observation(state) == shown).all()
    ended = []
    for index in range(40):
        state, shown, reward, terminal, log = env.step(jax.random.key(index), state, 0)
        assert (env.get_observation(state) == shown).all() and np.ndim(reward) == 0 and log == {}
        ended.append(bool(terminal))
    assert any(ended)


def test_settings_of_a_peer_are_those_of_ours():
    config = load(files=[on_device_peer.CONFIG])
    found = on_device_peer.settings(config, 200)
    replayed = found["batch_size"] * found["sequence_length"] / found["train_frequency"]
    assert replayed == config.train.train_ratio
    assert (found["rollout_length"], found["num_hidden_units"]) == (10, config.rssm.deter)
