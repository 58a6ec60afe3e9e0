"""What ``dreamer-jax bench`` measures and says. Figures are never asserted, only that they are there."""

import json
import os
import subprocess
import sys

import acting
import jax
import pytest
import train_step

from dreamer_jax.cli import main
from dreamer_jax.config.loading import load
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.profiling import bench as module
from dreamer_jax.profiling.bench import bench, describe
from dreamer_jax.profiling.speed import SPECS, update_work
from dreamer_jax.terminal import render

QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
MACHINE = {"versions", "device", "backend", "cores", "processor", "load"}


@pytest.fixture(scope="module")
def measured():
    """The records of a whole run of the smallest agent, and its progress."""
    command = "-m dreamer_jax bench --json --repeats 2 --batch-size 2 --batch-length 4 --num-envs 2 1 --dtype bfloat16"
    done = subprocess.run(
        [sys.executable, *command.split()], env={**os.environ, "XLA_FLAGS": QUICK}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_every_record_has_its_figures_and_the_machine(measured):
    (update, *acting), _ = measured
    assert [record["num_envs"] for record in acting] == [2, 1]
    for record in (update, *acting):
        assert record.keys() >= MACHINE | {"benchmark", "preset", "size", "observation", "dtype", "repeats"}
        assert (record["dtype"], record["size"], record["observation"]) == ("bfloat16", "1m", "proprio")
    assert (update["batch_size"], update["batch_length"], update["repeats"]) == (2, 4, 2)
    assert (update["parameters"], update["replay_bytes_per_step"]) == (640_867, 1191)
    for name in "update_ms cpu_ms first_update_ms transitions_per_s init_s trace_s compiled_memory_mb".split():
        assert update[name] > 0, name
    spec = SPECS["proprio"]
    small = load(overrides=[("train.batch_size", "2"), ("train.batch_length", "4")])
    assert update["update_gflop"] == pytest.approx(update_work(small, spec).flops / 1e9, abs=1e-3)
    assert update["gflop_per_s"] == pytest.approx(1e3 * update["update_gflop"] / update["update_ms"], abs=0.01)
    assert update["share_of_peak"] == pytest.approx(update["gflop_per_s"] / update["peak_gflop_per_s"], rel=0.02)
    assert update["from_cache"] in (True, False)
    for record in acting:
        assert (record["task"], record["repeats"]) == ("dmc/walker_walk", 200)
        assert record["env_frames_per_s"] > record["frames_per_s"] > 0 < record["policy_ms"]


def test_progress_is_shown_apart(measured):
    for words in ("compiling the update", "measuring 2 updates", "starting 2 environments", "measuring 200 steps"):
        assert f"proprio: {words}\n" in measured[1]


def test_a_person_gets_tables(measured):
    records = measured[0]
    left_out = {**records[1], "observation": "atari", "skipped": "pip install it"}
    lines = render(describe([*records, left_out])).splitlines()
    assert records[0]["processor"] in lines[0] and f"jax {records[0]['versions']['jax']}" in lines[1]
    assert lines[2:5] == ["dreamer_v3, size 1m, bfloat16", "", "updates of 2 x 4 records"]
    assert "update ms" in lines[5] and "640,867" in lines[6] and len(lines[5]) == len(lines[6])
    assert lines[8].startswith("matrix products of an update") and "share of peak" in lines[9]
    assert lines[10].split()[:2] == ["proprio", f"{records[0]['update_gflop']:,}"]
    assert lines[12] == "acting" and [line.split()[:3] for line in lines[14:16]] == [
        ["proprio", "2", records[1]["vectorization"]],
        ["proprio", "1", records[2]["vectorization"]],
    ]
    assert lines[16:] == ["", "no acting from atari: pip install it"]


def test_an_environment_that_is_not_there_is_left_out(monkeypatch):
    asked = []

    def update_speed(config, spec, repeats, note):
        asked.append((config.env.task, config.env.observation, config.train.batch_size, spec, repeats))
        return {"update_ms": 1.0}

    def acting_speed(config, num_envs, repeats, note):
        note("trying")
        raise ConfigError(f"no {config.env.task} for {num_envs}")

    monkeypatch.setattr(module, "update_speed", update_speed)
    monkeypatch.setattr(module, "acting_speed", acting_speed)
    notes = []
    records = list(bench(["vision", "atari"], [3], 7, {"train.batch_size": "2", "dtype": "float32"}, notes.append))
    assert asked == [
        ("dmc/walker_walk", "image", 2, SPECS["vision"], 7),
        ("atari100k/pong", "state", 2, SPECS["atari"], 7),
    ]
    assert [(record["observation"], record.get("skipped")) for record in records] == [
        ("vision", None),
        ("vision", "no dmc/walker_walk for 3"),
        ("atari", None),
        ("atari", "no atari100k/pong for 3"),
    ]
    assert notes == ["vision: trying", "atari: trying"]


def test_flags_reach_the_benchmarks(monkeypatch, capsys):
    records, asked = [{"n": 1}, {"n": 2}], []
    monkeypatch.setattr(module, "bench", lambda *given: asked.append(given) or iter(records))
    command = "bench --json --size 12m --observation vision atari --num-envs 3 4 --repeats 7 --batch-size 8"
    assert main([*command.split(), "--batch-length", "9", "--dtype", "float32"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == records
    ((observations, num_envs, repeats, settings, note),) = asked
    assert (observations, num_envs, repeats) == (["vision", "atari"], [3, 4], 7)
    assert settings == {
        "preset": "dreamer_v3",
        "size": "12m",
        "dtype": "float32",
        "train.batch_size": "8",
        "train.batch_length": "9",
    }
    note("working")
    assert capsys.readouterr().err == "working\n"


@pytest.mark.parametrize("name", SPECS)
def test_every_kind_of_observation_can_be_asked_for(name, monkeypatch):
    monkeypatch.setattr(module, "bench", lambda *given: iter(()))
    assert main(["bench", "--json", "--observation", name]) == 0


def test_the_benchmark_programs_keep_their_flags(monkeypatch, capsys, tmp_path):
    asked = []
    monkeypatch.setattr(train_step, "update_speed", lambda *given: asked.append(given) or {"update_ms": 1.0})
    command = "train_step.py --size 12m --observation vision --batch-size 4 --batch-length 9 --imagination-length 3"
    command += f" --dtype bfloat16 --rematerialize --chunk-rows 512 --repeats 2 --cache {tmp_path}"
    command += " --updates-per-dispatch 4"
    monkeypatch.setattr(sys, "argv", command.split())
    train_step.main()
    record = json.loads(capsys.readouterr().out)
    ((config, spec, repeats),) = asked
    assert (config.size, config.dtype, config.rematerialize) == ("12m", "bfloat16", True)
    assert (config.behavior.chunk_rows, config.train.updates_per_dispatch) == (512, 4)
    assert (spec, repeats) == (SPECS["vision"], 2)
    assert (config.train.batch_size, config.train.batch_length, config.behavior.imagination_length) == (4, 9, 3)
    named = "benchmark preset size observation batch_size batch_length imagination_length dtype rematerialize"
    named += " chunk_rows devices repeats program commit updates_per_dispatch xla_flags"
    assert record.keys() == {*named.split(), "cache", "update_ms", *MACHINE}

    monkeypatch.setattr(acting, "acting_speed", lambda config, count, repeats: {"num_envs": count, "of": repeats})
    monkeypatch.setattr(sys, "argv", "acting.py --num-envs 1 2 --repeats 3 --task probe/echo".split())
    kept = jax.config.jax_enable_compilation_cache
    acting.main()
    assert not jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", kept)
    record = json.loads(capsys.readouterr().out)
    assert record["results"] == [{"num_envs": 1, "of": 3}, {"num_envs": 2, "of": 3}]
    named = "benchmark preset size task dtype repeats results peak_rss_mb"
    assert record.keys() == {*named.split(), *MACHINE}
