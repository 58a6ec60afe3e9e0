"""Named protocols: the published files give the published numbers, runs are measured in their windows."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from test_compare import IMAGES, write_run
from trainer import tiny_run

from dreamer_jax.analysis.protocols import PROTOCOLS, normalised
from dreamer_jax.analysis.score import Method, as_json, describe, draw, read_published, score
from dreamer_jax.cli import main
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.terminal import render

FILES = Path(__file__).parent / "fixtures" / "published_scores"
"""Ends of the files in danijar/dreamerv3 at e3f0224 (MIT licence): what lies in the windows of the protocols."""
ENV = "dmc/cartpole_swingup"


def never(run_dir, protocol):
    raise AssertionError("nothing is to be played")


@pytest.mark.parametrize(
    "file, protocol, mean, median",
    [
        ("atari100k", "atari100k", 1.247, 0.494),
        ("dmc_proprio", "dmc_proprio_500k", 0.7535, 0.8706),
        ("dmc_vision", "dmc_vision_1m", 0.7861, 0.8612),
    ],
)
def test_published_files_give_published_numbers(file, protocol, mean, median):
    methods = score([FILES / f"{file}-dreamerv3.json.gz"], protocol, never)
    numbers = as_json(methods, protocol)["methods"][0]["aggregates"]
    assert numbers["mean"]["value"] == pytest.approx(mean, abs=5e-4)
    assert numbers["median"]["value"] == pytest.approx(median, abs=5e-4)
    assert len(methods[0].tasks) == PROTOCOLS[protocol].tasks


def published(path, rows):
    path.write_bytes(gzip.compress(json.dumps(rows).encode()) if path.suffix == ".gz" else json.dumps(rows).encode())
    return path


def one(task="dmc_cartpole_swingup", method="theirs", seed=0, xs=(470_000, 490_000), ys=(100, 300)):
    return {"task": task, "method": method, "seed": seed, "xs": list(xs), "ys": list(ys)}


def test_episodes_in_the_window_count(tmp_path):
    late = [(460_000, 7), (460_001, 100), (500_000, 200), (500_001, 999)]
    write_run(tmp_path / "zero", late)
    write_run(tmp_path / "one", [(480_000, 350), (510_000, 1)], seed=1)
    write_run(tmp_path / "short", [(480_000, 350)], seed=2)
    sources = [tmp_path / name for name in ("zero", "one", "short")]
    sources.append(published(tmp_path / "theirs.json", [one(), one(seed=1, ys=(None, 500))]))
    ours, theirs = score(sources, "dmc_proprio_500k", never)
    assert ours.tasks == {ENV: {0: 150, 1: 350}}
    assert theirs.tasks == {ENV: {0: 200, 1: 500}}
    (left,) = ours.left_out
    assert left.endswith("seed 2, is at 480,000 of 500,000 frames")
    facts = as_json([ours, theirs], "dmc_proprio_500k")
    assert facts["protocol"] == "dmc_proprio_500k" and facts["methods"][0]["aggregates"]["mean"]["value"] == 0.25
    (pair,) = facts["probability_of_improvement"]
    assert pair["value"] == 0.25  # one of four pairs
    text = render(describe([ours, theirs], "dmc_proprio_500k"))
    assert "250.0 (2 seeds)" in text and "0.350" in text and "1 of the benchmark's 18 tasks" in text
    assert text.count("dmc_proprio_500k") >= 3  # beside every table
    assert draw([ours, theirs], "dmc_proprio_500k", tmp_path / "profile.png").stat().st_size > 1000


def test_evaluation_protocols_play(tmp_path):
    write_run(tmp_path / "run", [(480, 1)])

    def play(run_dir, protocol):
        assert (protocol.episodes, protocol.mode) == (10, "mode")
        return [1.0, 3.0]

    (method,) = score([tmp_path / "run"], "dmc_evaluation", play)
    assert method.tasks == {ENV: {0: 2}}


def test_crafter_scores_are_those_of_all_episodes(tmp_path):
    write_run(tmp_path / "run", [(10, 1), (1_000_000, 2), (1_000_010, 9)], task="crafter/reward", leaf=IMAGES)
    path = tmp_path / "run" / "scores.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row, unlocked in zip(rows, ([0, 1], [0, 0], [1, 1]), strict=True):
        row |= {"achievement_a": unlocked[0], "achievement_b": unlocked[1]}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (method,) = score([tmp_path / "run"], "crafter", never)
    assert method.tasks["crafter/reward"][0] == pytest.approx(np.expm1(np.log1p([0, 50]).mean()))


@pytest.mark.parametrize(
    "sources, protocol, words",
    [
        (["run", "run"], "dmc_proprio_500k", "has seed 0, as has"),
        (["run"], "atari100k", "is of dmc/cartpole_swingup; the protocol is of atari100k"),
        (["pixels"], "dmc_proprio_500k", "sees images"),
        (["short"], "dmc_proprio_500k", "is at 5 of 500,000 frames"),
        (["theirs.json"], "dmc_evaluation", "can't be measured so"),
        (["theirs.json"], "atari100k", "run 0 is of dmc_cartpole_swingup"),
        (["list.json"], "dmc_proprio_500k", "run 0: expected an object with task"),
        (["uneven.json"], "dmc_proprio_500k", "of the same length"),
        (["text.json"], "dmc_proprio_500k", "can't be read as JSON"),
        (["text.json.gz"], "dmc_proprio_500k", "can't be read as JSON"),
    ],
)
def test_what_can_not_be_measured(tmp_path, capsys, sources, protocol, words):
    write_run(tmp_path / "run", [(480_000, 350), (510_000, 1)])
    write_run(tmp_path / "short", [(5, 350)], seed=1)
    write_run(tmp_path / "pixels", [(510_000, 1)], leaf=IMAGES)
    published(tmp_path / "theirs.json", [one()])
    published(tmp_path / "list.json", [3])
    published(tmp_path / "uneven.json", [one(ys=(1,))])
    (tmp_path / "text.json").write_text("no")
    (tmp_path / "text.json.gz").write_text("no")
    assert main(["score", *(str(tmp_path / name) for name in sources), "--protocol", protocol]) == 2
    error = capsys.readouterr().err.strip()
    assert words in error and error.count("\n") == 0


def test_human_scores():
    assert normalised(227.8, "atari/alien", "human-normalised") == 0
    assert normalised(302.8, "atari100k/james_bond", "human-normalised") == pytest.approx(1)
    with pytest.raises(ConfigError, match="no human score is known"):
        normalised(1, "atari/tetris", "human-normalised")


def test_null_points_are_none(tmp_path):
    (run,) = read_published(published(tmp_path / "a.json.gz", [one(ys=(None, 3))]), PROTOCOLS["dmc_proprio_500k"])
    assert run.scores.tolist() == [3] and run.frames.tolist() == [490_000]


def test_evaluate_says_the_protocol(tmp_path, capsys):
    from agents import quickly

    from dreamer_jax.training.train import train

    config = tiny_run(env__task="dmc/pendulum_swingup", train__frames=12, env__time_limit=5)
    with quickly():
        train(config, tmp_path / "run")
        capsys.readouterr()
        assert main(["evaluate", str(tmp_path / "run"), "--protocol", "dmc_evaluation", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["protocol"], found["n"], found["mode"]) == ("dmc_evaluation", 10, "mode")
        assert main(["score", str(tmp_path / "run"), "--protocol", "dmc_evaluation", "--json"]) == 0
        numbers = json.loads(capsys.readouterr().out)
        assert numbers["methods"][0]["tasks"]["dmc/pendulum_swingup"]["score"] == pytest.approx(found["mean"])
    for flags, words in (
        (["--protocol", "dmc_proprio_500k"], "invalid choice"),
        (["--protocol", "atari100k_mode"], "is of atari100k, the run of dmc/pendulum_swingup"),
        (["--protocol", "dmc_evaluation", "--episodes", "3"], "has 10 episodes"),
    ):
        try:
            status = main(["evaluate", str(tmp_path / "run"), *flags])
        except SystemExit as error:
            status = error.code
        assert status == 2 and words in capsys.readouterr().err


def test_methods_without_a_common_task_are_not_compared():
    a, b = (Method(name, {f"dmc/{name}": {0: 1.0}}, []) for name in ("a", "b"))
    assert as_json([a, b], "dmc_proprio_500k")["probability_of_improvement"] == []
