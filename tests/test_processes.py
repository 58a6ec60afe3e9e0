"""Two processes share a run: as one, and as one when something happens to either."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import test_data_parallel
from agents import many_devices
from test_data_parallel import DEVICES, RATE, ROWS, SURE, assert_close, named
from test_resume import assert_same_run, complete, latest, saved, until
from trainer import PATIENCE, flags, tiny_run, trainer

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.processes import group
from dreamer_jax.runs.checkpoint import read_replays
from dreamer_jax.runs.metrics import read_jsonl

PROCESSES = 2
UPDATE = """
import sys, numpy as np, jax
from dreamer_jax.processes import group
group.start(sys.argv[2], 2, int(sys.argv[3]))
import test_data_parallel
here = group.present(600)
mine = here.local_range(test_data_parallel.ROWS)
found = test_data_parallel.learn(2, slice(mine.start, mine.stop))
found["devices"] = np.array([jax.process_count(), jax.local_device_count(), jax.device_count()])
number = here.process_index
long = {"part": number, "text": "x" * 5000 * (1 + number), "array": np.arange(3), "nothing": None}
for index, message in enumerate(here.all_gather(long)):
    assert message["part"] == index and len(message["text"]) == 5000 * (1 + index), message
    assert message["array"].tolist() == [0, 1, 2] and message["nothing"] is None
np.savez(f"{sys.argv[1]}/{sys.argv[3]}.npz", **found)
"""
WHO = """
from dreamer_jax.processes import group
group.start(None, None, None)
here = group.present(600)
print(here.process_index, here.process_count)
"""
REAL = dict(
    env__task="dmc/cartpole_balance",
    env__time_limit=25,
    train__frames=120,
    train__batch_size=8,
    train__batch_length=8,
    train__start_windows=16,
    train__train_ratio=16.0,
    train__devices=2,
    replay__capacity=1000,
    replay__online=True,
)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


@pytest.fixture(scope="module")
def two():
    with trainer() as one, trainer() as other:
        yield one, other


def start(two, command, logs, **options):
    address = free_port()
    for index, process in enumerate(two):
        shared = ["--coordinator", address, "--processes", "2", "--process", str(index)]
        process.start([*command, *shared], logs[index], **options)


def run(two, command, logs, **options):
    """The exit status of each, and what the first one said."""
    start(two, command, logs, **options)
    return [process.wait() for process in two], logs[0].read_text()


@pytest.fixture
def logs(tmp_path):
    return tmp_path / "log0", tmp_path / "log1"


# The update itself.


@pytest.fixture(scope="module")
def updates(tmp_path_factory):
    """What both processes found in the updates of ``test_data_parallel``, and what one device alone does."""
    path, address = tmp_path_factory.mktemp("updates"), free_port()
    commands = [[sys.executable, "-c", UPDATE, str(path), address, str(index)] for index in range(PROCESSES)]
    running = [subprocess.Popen(command, env=many_devices(2)) for command in commands]
    assert [process.wait(PATIENCE) for process in running] == [0, 0]
    alone = test_data_parallel.learn(1)
    return alone, [dict(np.load(path / f"{index}.npz")) for index in range(PROCESSES)]


def test_four_devices_of_two_processes_update_as_one_device(updates):
    alone, found = updates
    for each in found:
        assert each["devices"].tolist() == [2, 2, 4] and 4 in DEVICES
        # The tolerances are those of as many devices in one process.
        for starts, tolerance in {("0/loss", "0/kl", "0/ret", "0/adv"): 1e-5, ("0/moments",): 1e-5}.items():
            right = named(alone, *starts)
            assert_close({name: each[name] for name in right}, right, rtol=tolerance, atol=tolerance)
        assert_close(named(each, "grads"), named(alone, "grads"), rtol=0, atol=3e-5)
        for name, value in named(alone, "params").items():
            size = np.abs(alone[name.replace("params", "grads")])
            sure = size > SURE * size.max()
            np.testing.assert_allclose(each[name][sure], value[sure], rtol=1e-6, atol=RATE / 100, err_msg=name)


def test_rows_come_back_to_the_process_that_gave_them(updates):
    alone, found = updates
    for name, value in named(alone, "0/latents").items():
        rows = np.concatenate([each[name] for each in found], 1)
        assert rows.shape == value.shape and rows.shape[1] == ROWS
        np.testing.assert_allclose(rows, value, rtol=0, atol=1e-2 * np.abs(value).max())


def test_parameters_stay_identical_everywhere(updates):
    _, (one, other) = updates
    shared = [name for name in one if "latents" not in name]
    assert len(named(one, "params", "grads")) > 100
    for name in shared:
        assert one[name].tobytes() == other[name].tobytes(), name
    assert all(each[name].all() for each in (one, other) for name in each if "replicas" in name or "given" in name)


# Runs.


@pytest.mark.slow
def test_a_real_run_is_shared(tmp_path, two, logs):
    run_dir = tmp_path / "run"
    config = tiny_run(**REAL)
    statuses, text = run(two, flags(config, run_dir), logs, toy=False)
    assert statuses == [0, 0], text + logs[1].read_text()
    assert "2 x cpu in each of 2 processes" in text and "updates" not in logs[1].read_text()
    assert complete(run_dir) == [0, 120]  # saving compares the parameters of all
    arrays = saved(run_dir)
    assert arrays["facts/processes"] == 2 and arrays["facts/grad_steps"] == arrays["train_state/step"] > 20
    assert arrays["arrays/learner/next/index"].shape == (1, 8, 2)  # a batch is theirs together
    assert arrays["arrays/envs/episode"].shape == (2,) == arrays["carry/latent/deter"].shape[:1]
    # Each steps its own environment, and keeps what it saw.
    assert sorted(path.name for path in run_dir.glob("replay*")) == ["replay-0-of-2", "replay-1-of-2"]
    first, second = (ring.column("observation/position", 0, ring.rows) for ring in read_replays(run_dir))
    assert first.shape == second.shape and first.shape[0] == 60 and not np.allclose(first[0], second[0])
    # One writes for all, once.
    scores = read_jsonl(run_dir / "scores.jsonl")
    assert {line["env"] for line in scores} == {0, 1} and len(scores) == 2 * (60 // 26)
    metrics = read_jsonl(run_dir / "metrics.jsonl")
    assert metrics[-1]["env_frames"] == 120 and np.isfinite(metrics[-1]["train/loss/total"])


SHARED = dict(train__frames=240, train__batch_size=4, env__num_envs=4, replay__capacity=120)


def test_killed_and_resumed_is_as_never_stopped(tmp_path, two, logs):
    config = tiny_run(**SHARED)
    reference, run_dir = tmp_path / "reference", tmp_path / "run"
    others = [tmp_path / "reference0", tmp_path / "reference1"]
    assert run(two, flags(config, reference), others)[0] == [0, 0], others[0].read_text()

    command = [*flags(config, run_dir), "--train.save_frames", "80"]
    start(two, command, logs, kill_at="envs.vector:VectorEnvs.step:45")
    assert [process.wait() for process in two] == [-signal.SIGKILL, -signal.SIGKILL]
    assert complete(run_dir)[-1] in (80, 160)
    statuses, text = run(two, command, logs)
    assert statuses == [0, 0] and "resumed at" in text, text
    assert_same_run(run_dir, reference)


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_process_is_named_and_the_other_goes_on_alone(tmp_path, two, logs, victim):
    run_dir = tmp_path / "run"
    config = tiny_run(**SHARED | {"train__frames": 100_000})
    command = [*flags(config, run_dir), "--train.save_frames", "40"]
    start(two, command, logs)
    until(lambda: complete(run_dir)[-1:] > [80], "checkpoints")
    number = json.loads((run_dir / "processes" / f"{victim}.json").read_text())["pid"]
    os.kill(number, signal.SIGKILL)
    assert two[victim].wait() == -signal.SIGKILL and two[1 - victim].wait() == 75
    last = logs[1 - victim].read_text().splitlines()[-1]
    assert re.search(
        rf"process {victim} \({socket.gethostname()}, pid {number}\) has given no sign .* for [5-9] s", last
    )
    begin = complete(run_dir)[-1]
    records = {name: value for name, value in saved(run_dir).items() if name == "arrays/replay/rows"}
    assert records["arrays/replay/rows"] == begin // 4

    rings = read_replays(run_dir)
    before = [ring.column("reward", env, ring.rows) for ring in rings for env in range(ring.num_envs)]
    alone, log = [*command, "--train.frames", str(begin + 4)], tmp_path / "alone"
    # Killed as a stream was dealt out, it begins again.
    assert two[0].run(alone, log, kill_at="replay.host:Replay.fill:-1") == -signal.SIGKILL
    assert two[0].run(alone, log) == 0, log.read_text()
    assert f"of 2 processes: 4 streams of {min(begin // 4, 30)} records are dealt out to one process" in log.read_text()
    assert f"resumed at {begin} frames" in log.read_text()
    (ring,) = read_replays(run_dir)
    kept = min(len(before[0]), 120 // 4) - 1  # one is new
    for env in range(4):
        np.testing.assert_array_equal(ring.column("reward", env, ring.rows)[-kept - 1 : -1], before[env][-kept:])
    # Rings of both processes stay as long as a checkpoint that needs them.
    both = ["replay", "replay-0-of-2", "replay-1-of-2"]
    assert sorted(path.name for path in run_dir.glob("replay*")) == both and begin in complete(run_dir)
    assert two[0].run([*command, "--train.frames", str(begin + 100)], log) == 0, log.read_text()
    assert [path.name for path in run_dir.glob("replay*")] == ["replay"] and begin not in complete(run_dir)


@pytest.mark.slow  # it takes 30 s to be sure
def test_a_process_that_gives_no_sign_is_named(tmp_path, two, logs):
    run_dir = tmp_path / "run"
    start(two, flags(tiny_run(**SHARED | {"train__frames": 100_000}), run_dir), logs)
    until(lambda: latest(run_dir) > 3, "updates")
    number = json.loads((run_dir / "processes" / "1.json").read_text())["pid"]
    os.kill(number, signal.SIGSTOP)
    try:
        assert two[0].wait() == 75
    finally:
        os.kill(number, signal.SIGKILL)
    assert two[1].wait() == -signal.SIGKILL
    last = logs[0].read_text().splitlines()[-1]
    assert f"process 1 ({socket.gethostname()}, pid {number}) has given no sign of life for 30 seconds" in last


WORLDS = dict(train__frames=100_000, train__batch_size=4)
"""Of two environments; 1 is the first in which something happens."""


def test_a_process_that_hangs_is_named(tmp_path, two, logs):
    config = tiny_run(env__task="worlds:Sleepy", **WORLDS)
    statuses, text = run(two, [*flags(config, tmp_path / "run"), "--timeout", "4"], logs)
    assert statuses == [75, 75]
    for log in logs:
        last = log.read_text().splitlines()[-1]
        assert "process 1 (" in last and "stands still since 4 seconds" in last, text


@pytest.mark.slow
def test_an_environment_that_fails_in_one_process_ends_both_saved(tmp_path, two, logs):
    settings = dict(env__task="worlds:Mendable", train__frames=100, train__batch_size=4)
    command, reference = flags(tiny_run(**settings), tmp_path / "run"), tmp_path / "reference"
    statuses, text = run(two, command, logs)
    assert statuses == [2, 2], text
    for log in logs:
        last = log.read_text().splitlines()[-1]
        assert last.endswith("environment 1 (worlds:Mendable): step() failed in episode 3: ValueError: not yet mended")
    assert complete(tmp_path / "run") == [0, 68]
    (tmp_path / "mended").touch()
    # One process alone takes the action again in one environment, and goes on with the record of the other.
    shutil.copytree(tmp_path / "run", tmp_path / "alone")
    assert two[0].run(flags(tiny_run(**settings), tmp_path / "alone"), tmp_path / "log") == 0
    assert run(two, command, logs)[0] == [0, 0]
    assert run(two, flags(tiny_run(**settings), reference), logs)[0] == [0, 0]
    assert_same_run(tmp_path / "run", reference)
    alone, shared = read_replays(tmp_path / "alone")[0], read_replays(reference)
    for name in ("observation/observation", "is_last"):
        for env in range(2):
            found, right = alone.column(name, env, alone.rows), shared[env].column(name, 0, shared[env].rows)
            assert len(found) and found.tobytes() == right[-len(found) :].tobytes()


@pytest.mark.parametrize("culprit", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_program_that_fails_waits_for_nobody(tmp_path, culprit):
    """As a user starts it."""
    config = tiny_run(env__task="worlds:Unwilling", seed=3 if culprit else 7, train__train_ratio=0.0, **WORLDS)
    command = [sys.executable, "-m", "dreamer_jax", *flags(config, tmp_path / "run"), "--coordinator", free_port()]
    running = [
        subprocess.Popen(
            [*command, "--processes", "2", "--process", str(index)],
            env=many_devices(1),
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(PROCESSES)
    ]
    texts = [process.communicate(timeout=100)[1] for process in running]
    assert [process.returncode for process in running] == ([2, 75] if culprit == 0 else [75, 2]), texts
    assert "not today" in texts[culprit].splitlines()[-1]
    last = texts[1 - culprit].splitlines()[-1]
    assert f"process {culprit} (" in last and f"has ended: environment {culprit}" in last, texts


LATE = """
import sys, time
from dreamer_jax.cli import main
from dreamer_jax.training.learner import Learner
prepare = Learner.prepare
def slowly(self, *args):
    trial = prepare(self, *args)
    time.sleep(40 if sys.argv[-1] == "1" else 0)
    return trial
Learner.prepare = slowly
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_one_may_compile_for_longer_than_programs_wait_for_each_other(tmp_path):
    """Which is 30 seconds, where each process has several devices."""
    command = [sys.executable, "-c", LATE, *flags(tiny_run(**REAL), tmp_path / "run"), "--coordinator", free_port()]
    running = [
        subprocess.Popen([*command, "--processes", "2", "--process", str(index)], env=many_devices(2))
        for index in range(PROCESSES)
    ]
    assert [process.wait(300) for process in running] == [0, 0]


@pytest.mark.parametrize("error", [ValueError("UNKNOWN: Gloo AllGather failed"), RuntimeError("socket closed")])
def test_one_that_is_gone_before_all_have_met_is_no_fault_of_ours(monkeypatch, error):
    """Once they watch each other, that says who was lost; the connection's own error is left to it."""

    def lost(data):
        raise error

    monkeypatch.setattr(group, "_gather", lost)
    here = group.DistributedGroup(1.0)
    with pytest.raises(ConfigError, match="^another process has ended before all had met$"):
        here.all_gather(None)
    here.watched = True
    with pytest.raises(type(error), match="failed|closed"):
        here.all_gather(None)


def test_slurm_says_who_is_who(tmp_path):
    slurm = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    running = []
    for index in range(PROCESSES):
        mine = {"SLURM_PROCID": str(index), "SLURM_LOCALID": str(index), "SLURM_STEP_NUM_NODES": "1"}
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", WHO], env=many_devices(1) | slurm | mine, stdout=subprocess.PIPE, text=True
            )
        )
    assert [process.communicate(timeout=PATIENCE)[0].split() for process in running] == [["0", "2"], ["1", "2"]]


def test_processes_that_come_apart_save_nothing(tmp_path, two, logs):
    run_dir = tmp_path / "run"
    statuses, text = run(two, flags(tiny_run(**SHARED), run_dir), logs, toy="apart")
    assert statuses[0] == 2 and "process 1 has come to other parameters than process 0; not saved" in text
    assert complete(run_dir) == [0]


def test_a_signal_to_one_saves_and_stops_both(tmp_path, two, logs):
    run_dir = tmp_path / "run"
    start(two, flags(tiny_run(**SHARED | {"train__frames": 100_000}), run_dir), logs)
    until(lambda: latest(run_dir) > 3, "updates")
    os.kill(json.loads((run_dir / "processes" / "1.json").read_text())["pid"], signal.SIGTERM)
    assert [process.wait() for process in two] == [143, 143]
    for log in logs:
        assert log.read_text().endswith("stopped by SIGTERM; the same command goes on from there\n")
    assert complete(run_dir)[-1] > 0


def test_what_one_refuses_all_refuse(tmp_path, two, logs):
    command = flags(tiny_run(**SHARED), tmp_path / "run")
    for wrong, line in {
        ("--env.num_envs", "3"): "env.num_envs: got 3, must be a multiple of the number of processes, 2",
        ("--train.batch_size", "2"): "2 devices, which leaves 1 of train.batch_size 2 windows to each",
        ("--env.task", "probe/none"): "env.task",
    }.items():
        statuses, _ = run(two, [*command, *wrong], logs)
        assert statuses == [2, 2]
        assert all(line in log.read_text().splitlines()[-1] for log in logs), logs[0].read_text()
    assert not (tmp_path / "run").exists()


def test_processes_with_other_settings_are_refused(tmp_path, two, logs):
    address = free_port()
    for index, process in enumerate(two):
        command = [*flags(tiny_run(**SHARED), tmp_path / "run"), "--train.frames", str(100 + 4 * index)]
        process.start([*command, "--coordinator", address, "--processes", "2", "--process", str(index)], logs[index])
    assert [process.wait() for process in two] == [2, 2]
    for log in logs:
        assert "train.frames: process 0 was started with 100, process 1 with 104" in log.read_text()


def test_one_that_waits_for_the_others_hears_a_signal(tmp_path):
    """Not after JAX's five minutes; there is nothing to save yet."""
    words = ["train", "--env.task", "probe/echo", "--run-dir", str(tmp_path / "run"), "--coordinator", free_port()]
    words += ["--processes", "2", "--process", "1"]
    waiting = subprocess.Popen([sys.executable, "-m", "dreamer_jax", *words], stderr=subprocess.PIPE, text=True)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(8)
    waiting.send_signal(signal.SIGTERM)
    assert waiting.wait(PATIENCE) == 128 + signal.SIGTERM
    assert waiting.stderr.read().endswith("dreamer-jax: stopped by SIGTERM\n")
