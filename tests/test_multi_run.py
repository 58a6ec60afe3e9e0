"""Runs that learn together are those that they would be alone, whatever happens to one or all of them."""

import errno
import io
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_resume import assert_same_run, complete, latest, saved, until
from trainer import flags, make_toy, tiny_run

from dreamer_jax.cli import main
from dreamer_jax.config.loading import replace
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.processes.lockstep import BrokenRendezvous, Lockstep, ThreadGroup
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.metrics import read_jsonl
from dreamer_jax.runs.progress import SharedProgress
from dreamer_jax.training import multi_run
from dreamer_jax.training.loop import Run, newest_in_common
from dreamer_jax.training.multi_run import Member, MemberFailed, same_checkpoint, train_together
from dreamer_jax.training.train import train

NAME = "probe-continuous_target-dreamer_v3-1m"
SEEDS = ["--seeds", "0..2"]


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(multi_run, "make_agent", make_toy)


def runs(parent, count=3):
    return [parent / f"{NAME}-{seed}" for seed in range(count)]


@pytest.fixture(scope="module")
def alone(process, tmp_path_factory):
    """The three runs of ``tiny_run`` with seeds 0 to 2, each by itself."""
    path = tmp_path_factory.mktemp("alone")
    for seed, run_dir in enumerate(runs(path)):
        assert process.run([*flags(tiny_run(), run_dir), "--seed", str(seed)], path / "log") == 0
    return runs(path)


def told(run_dir):
    """The metrics, less what depends on time."""
    timed = ("seconds", "fps/policy", "fps/train", "updates_per_second")
    return [{k: v for k, v in line.items() if k not in timed} for line in read_jsonl(run_dir / "metrics.jsonl")]


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_each_run_is_as_alone(process, tmp_path, devices):
    log, parent = tmp_path / "log", tmp_path / "all"
    config = tiny_run(
        train__frames=160, train__prefill=20, train__eval_frames=60, train__report_frames=70, train__save_frames=60
    )
    config = replace(config, {"train.batch_size": 4})  # two rows for each device, where they share
    sweep = ["--seeds", "0..1", "--sweep", "optimizer.learning_rate=1e-3,2e-3"]
    command = [*flags(config, parent), "--train.devices", str(devices)]
    if devices == 2:
        killed = process.run([*command, *sweep], tmp_path / "killed", kill_at="envs.vector:VectorEnvs.step:300")
        assert killed == -signal.SIGKILL, (tmp_path / "killed").read_text()
    assert process.run([*command, *sweep], log) == 0, log.read_text()
    lines = log.read_text().splitlines()
    names = [f"{NAME}-{seed}-optimizer.learning_rate={rate}" for rate in ("1e-3", "2e-3") for seed in (0, 1)]
    assert lines[0] == f"dreamer-jax: runs 1, 2, 3, 4 of 4 together, in {parent}: {', '.join(names)}"
    for once in ("parameters on", "an update every"):
        assert sum(once in line for line in lines) == 1
    assert f"on {devices} x cpu, which update 4 runs in one program" in log.read_text()
    returns = lines[-1].removeprefix("160/160 frames (100 %) | returns ").partition(" |")[0].split()
    assert len(returns) == 4 and all("." in number for number in returns)
    metrics = {}
    for name in names:
        seed, rate = name.split("-")[4], name.split("=")[1]
        single = [*flags(config, tmp_path / name), "--seed", seed, "--optimizer.learning_rate", rate]
        assert process.run(single, tmp_path / "single.log") == 0
        assert_same_run(parent / name, tmp_path / name)
        if devices == 1:  # who goes on has not what was measured before the checkpoint and not yet written
            assert told(parent / name) == told(tmp_path / name)
        metrics[name] = told(tmp_path / name)
        assert any("eval/score" in line for line in metrics[name])
    assert len({str(found) for found in metrics.values()}) == 4


REAL = dict(env__task="dmc/cartpole_balance", env__time_limit=25, train__frames=120, train__batch_size=4)


@pytest.mark.slow
def test_a_real_agent_learns_as_alone(process, tmp_path):
    log, parent = tmp_path / "log", tmp_path / "all"
    config = tiny_run(**REAL, train__batch_length=8, train__start_windows=16, replay__capacity=1000)
    sweep = ["--sweep", "optimizer.learning_rate=1e-5,1e-4"]
    assert process.run([*flags(config, parent), *sweep], log, toy=False) == 0, log.read_text()
    for rate in ("1e-5", "1e-4"):
        single = [*flags(config, tmp_path / rate), "--optimizer.learning_rate", rate]
        assert process.run(single, log, toy=False) == 0, log.read_text()
        (together,) = parent.glob(f"*-optimizer.learning_rate={rate}")
        assert saved(together)["facts/grad_steps"] == saved(tmp_path / rate)["facts/grad_steps"] > 10
        losses = [
            np.array([line["train/loss/total"] for line in told(path) if "train/loss/total" in line])
            for path in (together, tmp_path / rate)
        ]
        assert np.isfinite(losses[0]).all() and len(losses[0]) == len(losses[1])
        np.testing.assert_allclose(losses[0][0], losses[1][0], rtol=1e-5)
        # A first step is a sign, which rounding decides where a gradient is nearly 0, and that grows.
        np.testing.assert_allclose(losses[0][1:3], losses[1][1:3], rtol=5e-3)
        assert len(read_jsonl(together / "scores.jsonl")) == 2 * (60 // 26)


def test_killed_and_resumed_is_as_never_stopped(process, tmp_path, alone):
    log, parent = tmp_path / "log", tmp_path / "all"
    command = [*flags(tiny_run(), parent), *SEEDS, "--train.save_frames", "80"]
    assert process.run(command, log, kill_at="envs.vector:VectorEnvs.step:235") == -signal.SIGKILL
    newest = {complete(run_dir)[-1] for run_dir in runs(parent)}
    assert newest <= {0, 80}  # on a busy machine those of 80 may not be complete yet
    assert process.run(command, log) == 0, log.read_text()
    assert log.read_text().count(f"resumed at {min(newest)} frames") == (min(newest) > 0)
    for run_dir, single in zip(runs(parent), alone, strict=True):
        assert_same_run(run_dir, single)


AWKWARD = """
runs.directory:replace_file:-3    runs.checkpoint:Checkpoints.save:2
runs.checkpoint:Checkpoints.save:-2   runs.checkpoint:Checkpoints.save:-5
replay.host:Replay.committed:2            replay.host:Replay.snapshot:-5
runs.checkpoint:Checkpoints.drop_after:-2  replay.journal:Journal.undo:-2
replay.host:Replay.committed:5            runs.checkpoint:Checkpoints.save:6
training.learner:Learner._finish:-40        runs.checkpoint:Checkpoints.save:-4
""".split()


def test_killed_at_awkward_moments(process, tmp_path, alone):
    log, parent = tmp_path / "log", tmp_path / "all"
    command = [*flags(tiny_run(), parent), *SEEDS, "--train.save_frames", "20"]
    for place in AWKWARD:
        assert process.run(command, log, kill_at=place) == -signal.SIGKILL, (place, log.read_text())
    assert process.run(command, log) == 0, log.read_text()
    for run_dir, single in zip(runs(parent), alone, strict=True):
        assert_same_run(run_dir, single)


def fail_at(monkeypatch, name, step):
    """The disk is full for one of the runs."""
    save = Checkpoints.save

    def full(self, at, *rest):
        if name in str(self._path) and at == step:
            raise OSError(errno.ENOSPC, "No space left on device", str(self._path))
        save(self, at, *rest)

    monkeypatch.setattr(Checkpoints, "save", full)


def test_one_that_fails_ends_all_and_all_go_back_to_where_all_had_saved(
    process, tmp_path, monkeypatch, capsys, toy, alone
):
    parent = tmp_path / "all"
    config = tiny_run(train__save_frames=80, train__keep_checkpoints=1)  # which is too few for this
    command = [*flags(config, parent), *SEEDS, "--cache", "none"]
    with monkeypatch.context() as patch:
        fail_at(patch, f"{NAME}-1", 160)
        before = threading.active_count()
        assert main(command) == 2
        assert threading.active_count() <= before + 1  # Orbax may keep one
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dreamer-jax: ")]
    victim = runs(parent)[1]
    assert said[1] == (
        f"dreamer-jax: {victim} failed: {victim}/checkpoints: No space left on device "
        "(2 together with it ended, too; --together 1 keeps runs apart)"
    )
    assert said[2].startswith("dreamer-jax: 3 of 3 runs failed")
    newest = [complete(run_dir)[-1] for run_dir in runs(parent)]
    assert newest[1] == 80 and 160 in newest
    assert same_checkpoint(runs(parent)) == [runs(parent)]
    log = tmp_path / "log"
    assert process.run(command, log) == 0, log.read_text()
    assert log.read_text().count("resumed at 80 frames") == 1
    for run_dir, single in zip(runs(parent), alone, strict=True):
        assert_same_run(run_dir, single)


def test_a_failing_environment_is_named(process, tmp_path):
    """With seed 0 a number that is none comes at episode 3, with seed 1 later."""
    log, parent = tmp_path / "log", tmp_path / "all"
    assert process.run([*flags(tiny_run(env__task="worlds:NotANumber"), parent), *SEEDS[:1], "0..1"], log) == 2
    last = [line for line in log.read_text().splitlines() if line.startswith("dreamer-jax: ")][1]
    assert last.startswith(f"dreamer-jax: {parent}/worlds-NotANumber-dreamer_v3-1m-"), last
    assert "failed: " in last and "(1 together with it ended, too" in last


def test_a_signal_saves_and_stops_all(process, tmp_path, alone):
    log, parent = tmp_path / "log", tmp_path / "all"
    command = [*flags(tiny_run(), parent), *SEEDS]
    number = process.start([*command, "--train.frames", "10_000_000"], log)
    until(lambda: latest(runs(parent)[2]) >= 20, "updates")
    os.kill(number, signal.SIGTERM)
    assert process.wait() == 143
    assert log.read_text().endswith("stopped by SIGTERM; the same command goes on from there\n")
    (newest,) = {complete(run_dir)[-1] for run_dir in runs(parent)}
    assert newest > 40 and not same_checkpoint(runs(parent))[1:]
    updates = {int(saved(run_dir)["train_state/step"]) for run_dir in runs(parent)}
    assert len(updates) == 1
    more = ["--train.frames", str(newest + 40)]
    assert process.run([*command, *more], log) == 0, log.read_text()
    assert process.run([*flags(tiny_run(), tmp_path / "one"), "--seed", "1", *more], log) == 0
    assert_same_run(runs(parent)[1], tmp_path / "one")


def test_runs_at_other_places_are_groups_of_their_own(process, tmp_path, alone):
    log, parent = tmp_path / "log", tmp_path / "all"
    config = tiny_run(train__frames=60)
    command = flags(config, parent)
    assert process.run([*command, "--seeds", "0..1", "--together", "1"], log) == 0
    assert log.read_text().count("together") == 0
    log.unlink()
    assert process.run([*command, "--seeds", "0..4", "--train.frames", "240", "--together", "2"], log) == 0
    said = [line for line in log.read_text().splitlines() if line.startswith("dreamer-jax: ")]
    assert [line.split(":")[1].split(",")[0] for line in said] == [" runs 1", " runs 3", " run 5 of 5"]
    for run_dir, single in zip(runs(parent), alone, strict=True):
        assert_same_run(run_dir, single)


def fake(run_dir, *steps, saved_with=()):
    """What ``in_step`` looks at."""
    if steps:
        checkpoints, one = Checkpoints(run_dir, keep=5), np.ones(1)
        for step in steps:
            checkpoints.save(step, {"x": one}, {"x": one}, {"x": one}, {"together": list(saved_with)})
            checkpoints.completed(wait=True)
        checkpoints.close()


def test_what_can_go_on_together(tmp_path):
    paths = a, b, c, d, e, f = [tmp_path / name for name in "abcdef"]
    fake(a, 0, 80)
    fake(b, 0, 80, 160, saved_with="bad")  # was killed before a had saved
    fake(c, 0, 80, 160)  # went on by itself
    fake(d, 0, 80, 160, 240, saved_with="bad")  # two saves ahead: never
    fake(e, 0, saved_with="ef")  # f had not begun
    assert same_checkpoint(paths) == [[a, b], [c], [d], [e, f]]
    assert same_checkpoint([b, c]) == [[b, c]] and same_checkpoint([f, d]) == [[f], [d]]
    config = tiny_run()
    with pytest.raises(ConfigError, match="have no checkpoint in common"):
        train_together([Member(config, a), Member(config, c)])


def test_one_update_is_traced_for_all(tmp_path, monkeypatch):
    traced = []

    def counted(config, spec, **options):
        agent = make_toy(config, spec, **options)

        def update(*arguments):
            traced.append(1)
            return agent.update(*arguments)

        return agent._replace(update=update)

    monkeypatch.setattr(multi_run, "make_agent", counted)
    config = tiny_run(train__frames=60)
    members = [Member(replace(config, {"seed": seed}), tmp_path / str(seed)) for seed in range(3)]
    states = train_together(members, loggers=(), stream=io.StringIO())
    assert len(traced) == 1 and [int(state.step) for state in states] == 3 * [int(states[0].step)] > [10]
    assert {int(saved(path)["facts/grad_steps"]) for _, path in members} == {int(states[0].step)}


def test_what_one_is_refused_for_is_said_as_it_is(tmp_path, toy):
    config = tiny_run(train__frames=40)
    members = [Member(replace(config, {"seed": seed}), tmp_path / str(seed)) for seed in range(2)]
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "letter.txt").touch()
    with pytest.raises(ConfigError) as error:
        train_together(members, loggers=(), stream=io.StringIO())
    assert str(error.value).startswith(f"--run-dir {tmp_path}/1: not empty and not a run")
    assert not (tmp_path / "0" / "config.yaml").exists()


def test_a_fault_is_a_cause(tmp_path, monkeypatch, toy):
    config = tiny_run(train__frames=40)
    members = [Member(replace(config, {"seed": seed}), tmp_path / str(seed)) for seed in range(2)]
    fail_at(monkeypatch, "/1/", 0)
    with pytest.raises(MemberFailed) as error:
        train_together(members, loggers=(), stream=io.StringIO())
    assert error.value.run_dir == tmp_path / "1" and isinstance(error.value.__cause__, OSError)
    monkeypatch.undo()
    monkeypatch.setattr("dreamer_jax.training.train.make_agent", make_toy)
    train(members[0].config, tmp_path / "0", loggers=(), stream=io.StringIO())


# What they are made of.


def test_the_way_back_is_given_up_when_all_have_saved():
    given_up = []
    replay = SimpleNamespace(committed=given_up.append)
    run = SimpleNamespace(_committed=80, replay=replay, group=SimpleNamespace(is_primary=False))
    for said in ([80, 80], [160, 80], [80, 160]):
        Run._commit(run, said)
    assert given_up == []
    for said in ([160, 160], [160, 160], [None, 240]):  # a process that writes none says nothing
        Run._commit(run, said)
    assert given_up == [160, 240]
    assert newest_in_common([[0, 80, 160], [0, 80], None]) == 80 and newest_in_common([[0], []]) is None


def test_nobody_waits_for_one_that_has_left():
    threads, found, told = Lockstep(["a", "b", "c"]), [], threading.Semaphore(0)

    def wait(index):
        group = ThreadGroup(threads, index)
        said = [group.all_gather((turn, index)) for turn in range(50)]
        assert said == [[(turn, 0), (turn, 1), (turn, 2)] for turn in range(50)]
        told.release()
        try:
            group.all_gather("alone")
        except BrokenRendezvous:
            found.append(index)

    waiting = [threading.Thread(target=wait, args=(index,)) for index in range(2)]
    [thread.start() for thread in waiting]
    for turn in range(50):
        ThreadGroup(threads, 2).all_gather((turn, 2))
    assert told.acquire(timeout=60) and told.acquire(timeout=60)
    threads.leave()
    [thread.join(60) for thread in waiting]
    assert sorted(found) == [0, 1]
    with pytest.raises(BrokenRendezvous):
        ThreadGroup(threads, 0).all_gather("late")


def test_the_first_compiles_before_the_others():
    threads, order = Lockstep(["a", "b"]), []

    def run(index):
        assert ThreadGroup(threads, index).primary_first(lambda: order.append(index) or index) == index

    other = threading.Thread(target=run, args=(1,))
    other.start()
    run(0)
    other.join(60)
    assert order == [0, 1]


def test_one_line_for_all():
    stream = io.StringIO()
    joint = SharedProgress(1000, ["a", "b", "c"], stream=stream)
    parts = [joint.of(index) for index in range(3)]
    for index, part in enumerate(parts):
        part.note("all say so")
        part.note(f"resumed at {min(index, 1)}")
    joint.flush()
    assert stream.getvalue() == "all say so\na: resumed at 0\nb: resumed at 1\nc: resumed at 1\n"
    counters = {"env_frames": 500, "grad_steps": 7}
    assert joint.line() == ""
    for index in (2, 1, 0):
        parts[index].update(counters, (1.5 * index, index))
    assert joint.line().startswith("500/1,000 frames (50 %) | returns – 1.5 3.0 | 7 updates")
    parts[0].state("looking …")
    parts[1].state("not said")
    assert joint.line().endswith("| looking …") and "not said" not in stream.getvalue()
    parts[1].close()
    many = SharedProgress(1000, "abcdefgh", stream=io.StringIO())
    for index in range(8):
        many.of(index).update(counters, (float(index), index))
    many.of(0).update(counters)
    assert "| return 4.0 (1.0 to 7.0 in 7 runs) | 7 updates" in many.line()


def test_a_run_directory_has_no_other_names(tmp_path):
    assert same_checkpoint([Path(tmp_path / "none")]) == [[tmp_path / "none"]]
