"""Runs as jobs of a scheduler, tried with submitit's local one: they save, leave, and come back."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from trainer import PATIENCE, flags, tiny_run

from dreamer_jax.cli import main
from dreamer_jax.cli.launch import DEFAULTS, Job, launch, parameters
from dreamer_jax.config.schema import ConfigError

SCRIPT = """
import os, signal, sys, time
def save(*_):
    print("saved", flush=True)
    sys.exit(143)
if "saved" not in open({log!r}).read():
    signal.signal(signal.SIGTERM, save)
    print("begun", flush=True)
    time.sleep(600)
print("went on", flush=True)
"""


def until(condition):
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def read(path):
    return path.read_text() if path.exists() else ""


def controller(job_id):
    """Of a local job, which is gone once it is done; as a child of this process it has to be waited for."""
    process = psutil.Process(int(job_id))
    return process if process.status() != psutil.STATUS_ZOMBIE else None


def test_parameters_are_those_of_submitit():
    assert parameters([]) == DEFAULTS
    words = ["timeout_min=240", "slurm_partition=gpu", "slurm_additional_parameters={qos: high}", "name=12:30"]
    found = {"timeout_min": 240, "slurm_partition": "gpu", "slurm_additional_parameters": {"qos": "high"}}
    assert {name: parameters(words)[name] for name in found} == found


@pytest.mark.parametrize("word", ["x", "=3", "timeout_min=", "", "="])
def test_other_words_are_refused(word):
    with pytest.raises(ConfigError, match="--job .*: must be NAME=VALUE"):
        parameters([word])


def test_a_job_that_must_leave_saves_and_comes_back(tmp_path):
    pytest.importorskip("submitit")
    logs = [tmp_path / f"run{number}" / "job.log" for number in range(2)]
    jobs = [Job([sys.executable, "-c", SCRIPT.format(log=str(log))], log) for log in logs]
    ids = launch("local", jobs, tmp_path / "jobs", [])
    for log, job_id in zip(logs, ids, strict=True):
        until(lambda log=log: read(log) == "begun\n")
        (task,) = controller(job_id).children()
        for process in (*task.children(), task):  # as a scheduler may, to the run as well, which it must not end
            process.send_signal(signal.SIGUSR2)
    for log in logs:
        until(lambda log=log: read(log) == "begun\nsaved\nwent on\n")
    for job_id in ids:
        until(lambda job_id=job_id: controller(job_id) is None)


def test_a_job_that_is_told_to_end_ends_its_run(tmp_path):
    log = tmp_path / "run" / "job.log"
    job = Job([sys.executable, "-c", SCRIPT.format(log=str(log))], log)
    program = (
        f"from dreamer_jax.cli.launch import Job; from pathlib import Path; Job({job.command!r}, Path({str(log)!r}))()"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    until(lambda: read(log) == "begun\n")
    process.send_signal(signal.SIGTERM)
    assert "exit status 143; see" in process.communicate(timeout=PATIENCE)[1]
    assert read(log) == "begun\nsaved\n"


def refused(capsys, *words):
    status = main(["train", *words])
    printed = capsys.readouterr()
    assert (status, printed.out) == (2, "") and printed.err.count("\n") == 1
    return printed.err


def test_what_is_refused(tmp_path, capsys, monkeypatch):
    run = flags(tiny_run(), tmp_path / "run")[1:]
    local = [*run, "--launch", "local"]
    assert "a job is one process" in refused(capsys, *local, "--distributed")
    assert "--job x: must be NAME=VALUE" in refused(capsys, *local, "--job", "x")
    pytest.importorskip("submitit")
    assert "--launch local: " in refused(capsys, *local, "--job", "colour=red")
    assert "--launch slurm: " in refused(capsys, *run, "--launch", "slurm")  # there is none here
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert "needs submitit; pip install 'dreamer_jax[slurm]'" in refused(capsys, *local)
    assert "--job x=1: goes with --launch" in refused(capsys, *run, "--job", "x=1")
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("")
    assert "not empty and not a run" in refused(capsys, *local)


@pytest.mark.slow
def test_real_runs(tmp_path, capsys):
    pytest.importorskip("submitit")
    command = flags(tiny_run(train__frames=160), tmp_path / "runs")
    assert main([*command, "--seeds", "0..1", "--launch", "local"]) == 0
    lines = capsys.readouterr().out.splitlines()
    run_dirs = [Path(line.partition(": ")[2]) for line in lines]
    assert [run_dir.name[-2:] for run_dir in run_dirs] == ["-0", "-1"]
    ids = [line.partition(":")[0] for line in lines]
    for run_dir, job_id in zip(run_dirs, ids, strict=True):
        until(lambda job_id=job_id: controller(job_id) is None)
        assert "160/160 frames" in read(run_dir / "job.log") and os.listdir(run_dir / "checkpoints")
