"""Tasks times seeds: which commands there are, what a failure and a signal lead to, and the page at the end."""

import shlex

import pytest
import suite
from trainer import SETTINGS

TASKS = ["probe/memory", "probe/delayed_reward"]


@pytest.fixture
def ran(monkeypatch):
    """Commands that were run; each ends with the status that is next in ``ends``, or with 0."""
    words, ends = [], []

    def run(command):
        words.append(command)
        return ends.pop(0) if ends else 0

    monkeypatch.setattr(suite, "run", run)
    return words, ends


def test_every_task_and_then_the_page(ran):
    words, _ = ran
    given = ["--config", "a.yaml", "b.yaml", "--tasks", *TASKS, "--seeds", "0..2", "--runs", "x", "--together", "2"]
    assert suite.main([*given, "--", "--train.frames", "100"]) == 0
    assert words[0] == shlex.split(
        "train --config a.yaml b.yaml --run-dir x/probe-memory --seeds 0..2 --together 2 --env.task probe/memory "
        "--train.frames 100"
    )
    assert words[1][words[1].index("--run-dir") + 1] == "x/probe-delayed-reward"
    assert words[2:] == [["report", "x", "--to", "dreamerv3"]]


def test_commands_for_a_scheduler(ran, capsys):
    assert suite.main(["--config", "a.yaml", "--tasks", *TASKS, "--seeds", "3,5", "--print"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("--seeds ")[2].split()[0] for line in lines] == ["3", "5", "3", "5"] and not ran[0]
    assert lines[0].startswith("dreamer-jax train --config a.yaml --run-dir runs/suite/probe-memory")


def test_jobs_of_a_scheduler_come_before_the_page(ran):
    words, _ = ran
    assert suite.main(["--config", "a.yaml", "--tasks", *TASKS, "--", "--launch", "slurm"]) == 0
    assert [one[0] for one in words] == ["train", "train"] and words[0][-2:] == ["--launch", "slurm"]
    assert suite.main(["--config", "a.yaml", "--tasks", *TASKS, "--", "--launch=slurm"]) == 0
    assert [one[0] for one in words] == ["train"] * 4


def test_a_task_that_fails_does_not_stop_the_others(ran, capsys):
    words, ends = ran
    ends += [2]
    assert suite.main(["--config", "a.yaml", "--tasks", *TASKS]) == 1
    assert [one[0] for one in words] == ["train", "train", "report"]
    assert "suite: not complete: probe/memory" in capsys.readouterr().err


def test_a_signal_stops_it(ran):
    words, ends = ran
    ends += [130]
    assert suite.main(["--config", "a.yaml", "--tasks", *TASKS]) == 130 and len(words) == 1
    assert suite.main(["--config", "a.yaml", "--tasks", *TASKS, "--seeds", "5..1"]) == 2


@pytest.mark.slow
def test_it_trains_and_goes_on(tmp_path, capfd):
    """Real runs: the second time nothing is left to be done but the page."""
    config = tmp_path / "small.yaml"
    config.write_text("\n".join(f"{name}: {value}" for name, value in SETTINGS.items()) + "\n")
    words = ["--config", str(config), "--tasks", *TASKS, "--seeds", "0..1", "--runs", str(tmp_path / "runs")]
    for _ in range(2):
        assert suite.main([*words, "--", "--logger", "none"]) == 0
    said = capfd.readouterr()
    assert said.err.count("complete: 240 frames were asked for") == 2 and "report.html" in said.out
    assert len(list((tmp_path / "runs").glob("*/*/scores.jsonl"))) == 4
