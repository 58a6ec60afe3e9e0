"""A run that was stopped, killed or extended ends bit for bit as one that never stopped."""

import json
import os
import re
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from trainer import PATIENCE, flags, helpers, tiny_run, trainer

from dreamer_jax.config.loading import RESUMABLE, dump, replace
from dreamer_jax.config.schema import FIELDS, ConfigError, flatten
from dreamer_jax.runs.directory import check_run
from dreamer_jax.runs.metrics import read_jsonl

KILLED = -signal.SIGKILL
CONTINUOUS = dict(env__task="probe/continuous_target", train__updates_per_dispatch=1)
DISCRETE = dict(env__task="probe/memory", train__updates_per_dispatch=2, train__train_ratio=12.0)


@pytest.fixture(scope="module")
def first():
    with trainer() as one:
        yield one


@pytest.fixture(scope="module")
def second():
    with trainer() as one:
        yield one


def complete(run_dir):
    """The complete checkpoints of a run, oldest first."""
    return sorted(int(path.name) for path in (run_dir / "checkpoints").glob("*") if path.name.isdigit())


def saved(run_dir):
    """Every array of the newest checkpoint, and which it is."""
    step = complete(run_dir)[-1]
    handler, arrays = ocp.StandardCheckpointer(), {}
    for item in ("train_state", "carry", "arrays"):
        tree = handler.restore(run_dir.absolute() / "checkpoints" / str(step) / item)
        for path, leaf in ocp.tree.to_flat_dict(tree, sep="/").items():
            arrays[f"{item}/{path}"] = np.asarray(leaf)
    handler.close()
    facts = json.loads((run_dir / "checkpoints" / str(step) / "facts" / "metadata").read_text())["facts"]
    less = ("seconds", "files", "together")  # how it came about
    plain = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in facts.items()}
    return arrays | {f"facts/{name}": np.asarray(value) for name, value in plain.items() if name not in less}


def ring(run_dir):
    """Every file of the replay, less the undo log; they belong to the newest checkpoint of a run that ended."""
    files = run_dir.glob("replay*/*")
    found = {path.relative_to(run_dir): path.read_bytes() for path in files if not path.name.startswith("undo-")}
    assert len(found) > 8
    return found


def assert_same_run(run_dir, reference):
    mine, theirs = saved(run_dir), saved(reference)
    assert mine.keys() == theirs.keys()
    kinds = {"train_state/params", "train_state/opt_state", "carry/latent", "arrays/replay", "arrays/learner"}
    assert all(any(name.startswith(kind) for name in mine) for kind in kinds)
    for name in mine:
        assert mine[name].dtype == theirs[name].dtype, name
        assert mine[name].tobytes() == theirs[name].tobytes(), name
    assert ring(run_dir) == ring(reference)
    # Each episode is written down exactly once.
    scores = read_jsonl(run_dir / "scores.jsonl")
    assert scores == read_jsonl(reference / "scores.jsonl")
    assert [line["episode"] for line in scores] == list(range(len(scores)))
    steps = [line["agent_steps"] for line in read_jsonl(run_dir / "metrics.jsonl")]
    assert steps == sorted(steps)
    assert not list((run_dir / "checkpoints").glob("*tmp*"))


def latest(run_dir, counter="grad_steps"):
    """A counter according to the metrics, which are written at every step."""
    try:
        return json.loads((run_dir / "metrics.jsonl").read_bytes().splitlines()[-2])[counter]
    except (OSError, IndexError):
        return -1


def until(condition, what):
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < PATIENCE, f"waited in vain: {what}"
        time.sleep(0.002)


def updates_at(run_dir, step):
    facts = json.loads((run_dir / "checkpoints" / str(step) / "facts" / "metadata").read_text())["facts"]
    return facts["grad_steps"]


@pytest.mark.parametrize("toy", [True, False], ids=["toy agent", "DreamerV3"])
@pytest.mark.parametrize("task", [CONTINUOUS, DISCRETE], ids=["continuous, 1 a dispatch", "discrete, 2 a dispatch"])
def test_killed_and_resumed_is_as_never_stopped(tmp_path, first, second, task, toy):
    config = tiny_run(**task, train__frames=300)
    reference, run_dir, log = tmp_path / "reference", tmp_path / "run", tmp_path / "log"
    second.start(flags(config, reference), tmp_path / "reference.log", toy=toy)

    command = flags(replace(config, {"train.save_frames": 150}), run_dir)
    process = first.start(command, log, toy=toy)
    until(lambda: 150 in complete(run_dir), "a checkpoint")
    begin = updates_at(run_dir, 150)
    until(lambda: latest(run_dir) >= begin + 20, "20 updates after it")
    until(lambda: latest(run_dir, "agent_steps") >= 176, "the end of an episode after it")
    os.kill(process, signal.SIGKILL)
    assert first.wait() == KILLED
    assert complete(run_dir) == [0, 150]
    assert begin >= 30
    lived = len(read_jsonl(run_dir / "scores.jsonl"))

    assert first.run(command, log, toy=toy) == 0, log.read_text()
    assert f"resumed at 150 frames, {begin} updates" in log.read_text()
    assert second.wait() == 0, (tmp_path / "reference.log").read_text()
    assert_same_run(run_dir, reference)
    # What was lived twice is kept aside.
    aside = [json.loads(line) for line in (run_dir / "scores.superseded.jsonl").read_text().splitlines()]
    again = [line for line in read_jsonl(run_dir / "scores.jsonl") if line["agent_steps"] > 150]
    assert 0 < len(aside) <= lived
    assert aside == again[: len(aside)]
    assert len(read_jsonl(run_dir / "metrics.superseded.jsonl")) >= 10
    assert updates_at(run_dir, 300) == updates_at(reference, 300) > 100


AWKWARD = """
runs.directory:replace_file:-1    runs.checkpoint:Checkpoints.save:1
runs.checkpoint:Checkpoints.save:-1   replay.storage:clear:-1
replay.host:Replay.committed:1            replay.host:Replay.snapshot:-3
runs.checkpoint:Checkpoints.save:-2   replay.host:Replay.committed:2
replay.journal:Journal.undo:-1            replay.journal:Journal.resume:-1
replay.host:Replay.append:-25             runs.metrics:rewind_jsonl:-1
training.learner:Learner._finish:-24        runs.checkpoint:Checkpoints.save:-2
""".split()


def test_killed_at_awkward_moments(tmp_path, first, second):
    config = tiny_run(train__frames=300, train__save_frames=20)
    reference, run_dir, log = tmp_path / "reference", tmp_path / "run", tmp_path / "log"
    second.start(flags(replace(config, {"train.save_frames": 0}), reference), tmp_path / "reference.log")
    command, half_saved = flags(config, run_dir), 0
    for place in AWKWARD:
        assert first.run(command, log, kill_at=place) == KILLED, (place, log.read_text())
        half_saved += bool(list((run_dir / "checkpoints").glob("*tmp*")))
    assert half_saved
    assert first.run(command, log) == 0, log.read_text()
    assert second.wait() == 0
    assert_same_run(run_dir, reference)


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_random_moments(tmp_path, first, kills):
    rng = np.random.default_rng(kills)
    run_dir, log, frames, done = tmp_path / "run", tmp_path / "log", 300, 0
    half_saved = 0
    while done < kills:
        log.unlink(missing_ok=True)
        config = tiny_run(train__frames=frames, train__save_frames=10)
        process = first.start(flags(config, run_dir), log)
        if done % 3:  # else already while it starts
            until(lambda: log.exists() and re.search("agent steps|complete:", log.read_text()), "the start")
        time.sleep(rng.uniform(0, 0.4 if done % 3 else 1.0))
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        status = first.wait()
        assert status in (KILLED, 0), log.read_text()
        done += status == KILLED
        frames += 200 * (status == 0)  # a fast machine gets more to do
        half_saved += bool(list((run_dir / "checkpoints").glob("*tmp*")))
        if complete(run_dir):
            assert saved(run_dir)
    config = tiny_run(train__frames=frames)
    assert first.run(flags(config, run_dir), log) == 0, log.read_text()
    assert first.run(flags(config, tmp_path / "reference"), log) == 0
    assert_same_run(run_dir, tmp_path / "reference")
    assert half_saved or kills < 100


@pytest.mark.parametrize(
    "number, vectorization", [(signal.SIGINT, "sync"), (signal.SIGTERM, "async")], ids=["SIGINT", "SIGTERM async"]
)
def test_a_signal_saves_and_stops(tmp_path, first, second, number, vectorization):
    run_dir, log = tmp_path / "run", tmp_path / "log"
    config = tiny_run(env__task="worlds:Announced", train__frames=100_000, env__vectorization=vectorization)
    process = first.start(flags(config, run_dir), log)
    until(lambda: latest(run_dir) >= 20, "updates")
    assert vectorization == "sync" or len(helpers(log)) >= 2

    before = {path: path.read_bytes() for path in (run_dir / "config.yaml", run_dir / "env.json")}
    other = tmp_path / "other.log"
    assert second.run(flags(config, run_dir), other) == 2
    assert f"--run-dir {run_dir}: another process is training there" in other.read_text()
    assert all(path.read_bytes() == text for path, text in before.items())

    # A scheduler that ends a job sends its signal to all processes, those of environments included.
    os.kill(process, number) if vectorization == "sync" else os.killpg(process, number)
    assert first.wait() == 128 + number
    assert f"{number.name}: saving a checkpoint" in log.read_text()
    assert log.read_text().endswith(f"stopped by {number.name}; the same command goes on from there\n")
    until(lambda: not helpers(log), "the end of the environments' processes")
    assert log.read_text().partition("saving a checkpoint")[2].count("a world is closed") >= 2
    last = complete(run_dir)[-1]
    assert 0 < last < 100_000
    assert last == read_jsonl(run_dir / "metrics.jsonl")[-1]["agent_steps"]

    config = replace(config, {"train.frames": last + 100, "env.vectorization": "sync"})
    assert first.run(flags(config, run_dir), log) == 0, log.read_text()
    assert "changed since the run began: train.frames: 100000 before" in log.read_text()
    assert first.run(flags(config, tmp_path / "reference"), log) == 0
    assert_same_run(run_dir, tmp_path / "reference")


def test_a_second_signal_stops_at_once(tmp_path, first):
    run_dir, log = tmp_path / "run", tmp_path / "log"
    config = tiny_run(env__task="worlds:Sleepy", train__frames=1000)
    process = first.start(flags(config, run_dir), log)
    scores = run_dir / "scores.jsonl"
    until(lambda: scores.exists() and len(read_jsonl(scores)) >= 6, "the third episode's end")
    time.sleep(0.5)
    os.kill(process, signal.SIGINT)
    until(lambda: "once more to stop at once" in log.read_text(), "an answer to the first signal")
    os.kill(process, signal.SIGTERM)
    assert first.wait() == 128 + signal.SIGTERM
    assert complete(run_dir) == [0]


def test_processes_of_environments_end_with_a_killed_run(tmp_path, first):
    run_dir, log = tmp_path / "run", tmp_path / "log"
    config = tiny_run(env__task="worlds:Sleepy", env__vectorization="async", train__frames=100_000)
    process = first.start(flags(config, run_dir), log)
    scores = run_dir / "scores.jsonl"
    until(lambda: scores.exists() and len(read_jsonl(scores)) >= 6, "the third episode's end")
    time.sleep(0.5)  # one of them is in the middle of a step
    assert len(helpers(log)) >= 2
    os.kill(process, signal.SIGKILL)
    assert first.wait() == KILLED
    until(lambda: not helpers(log), "the end of the environments' processes")


def test_a_finished_run_goes_on_when_asked_for_more(tmp_path, first):
    run_dir, reference, log = tmp_path / "run", tmp_path / "reference", tmp_path / "log"
    changes = dict(replay__capacity=10_000, train__frames=100)
    assert first.run(flags(tiny_run(**changes), run_dir), log) == 0, log.read_text()
    once = saved(run_dir)
    assert first.run(flags(tiny_run(**changes), run_dir), log) == 0
    assert "complete: 100 frames were asked for" in log.read_text()
    assert {name: x.tobytes() for name, x in saved(run_dir).items()} == {k: x.tobytes() for k, x in once.items()}
    assert json.loads(ring(run_dir)[Path("replay/layout.json")])["rows"] == 50

    changes["train__frames"] = 240
    assert first.run(flags(tiny_run(**changes), run_dir), log) == 0, log.read_text()
    assert first.run(flags(tiny_run(**changes), reference), log) == 0
    assert json.loads(ring(run_dir)[Path("replay/layout.json")])["rows"] == 120
    assert_same_run(run_dir, reference)


def test_a_run_follows_from_its_seed(tmp_path, first):
    params = []
    for name, changes in {"a": {}, "b": {"env__vectorization": "async"}, "c": {"seed": 1}}.items():
        config = tiny_run(train__frames=100, **changes)
        assert first.run(flags(config, tmp_path / name), tmp_path / "log") == 0
        leaves = sorted(saved(tmp_path / name).items())
        params.append(b"".join(leaf.tobytes() for path, leaf in leaves if path.startswith("train_state/params")))
    assert params[0] == params[1] != params[2]
    assert_same_run(tmp_path / "a", tmp_path / "b")


def another(name, value):
    kind = FIELDS[name].kind
    if kind is bool:
        return not value
    return value + 1 if kind in (int, float) else value + "x"


@pytest.mark.parametrize("name", FIELDS)
def test_only_what_does_not_change_the_algorithm_may_change(tmp_path: Path, name):
    config = tiny_run()
    (tmp_path / "config.yaml").write_text(dump(config))
    before = flatten(config)[name]
    now = another(name, before)
    if name in RESUMABLE:
        assert check_run(tmp_path, replace(config, {name: now})) == [f"{name}: {before} before, {now} now"]
    else:
        with pytest.raises(ConfigError, match="a run with other settings") as error:
            check_run(tmp_path, replace(config, {name: now}))
        assert f"{name} is {before} there and {now} here; choose" in str(error.value)
    assert check_run(tmp_path, config) == []


def test_what_a_start_left_that_was_killed_at_once_is_no_obstacle(tmp_path):
    for name in ("lock", "config.yaml.tmp"):
        (tmp_path / name).touch()
    assert check_run(tmp_path, tiny_run()) == []
    (tmp_path / "letter.txt").touch()
    with pytest.raises(ConfigError, match="not empty and not a run"):
        check_run(tmp_path, tiny_run())


def test_what_may_change():
    assert {"behavior.chunk_rows", "env.vectorization"} | {f"train.{name}" for name in (
        "devices", "eval_episodes", "eval_frames", "frames", "keep_checkpoints", "log_seconds", "report_frames",
        "save_frames", "save_minutes",
    )} | {"offline.patience", "offline.updates"} == RESUMABLE  # fmt: skip


@pytest.mark.parametrize(("before", "after"), [(1, 2), pytest.param(4, 1, marks=pytest.mark.slow)])
def test_a_run_goes_on_with_another_number_of_devices(tmp_path, first, before, after):
    """As it would have with those it had: the same records and batches, and the same losses until rounding grows."""
    # Five bins in raw space reach to 5e8, and make much of the last digit of a probability.
    heads = dict(reward__dist="symlog_twohot", value__dist="symlog_twohot")
    sizes = dict(train__batch_size=8, train__frames=60, train__train_ratio=16.0, replay__capacity=1000)
    config = tiny_run(**heads, **sizes)
    run_dir, stays, log = tmp_path / "run", tmp_path / "stays", tmp_path / "log"
    assert first.run([*flags(config, run_dir), "--train.devices", str(before)], log, toy=False) == 0, log.read_text()
    shutil.copytree(run_dir, stays)
    begin = saved(run_dir)
    for folder, devices in ((run_dir, after), (stays, before)):
        more = ["--train.frames", "64", "--train.devices", str(devices)]
        assert first.run([*flags(config, folder), *more], log, toy=False) == 0, log.read_text()
    assert (
        f"changed since the run began: train.devices: {before} before, {after} now" in log.with_name("log").read_text()
    )
    assert f"resumed at 60 frames, {begin['facts/grad_steps']} updates" in log.read_text()
    moved, stayed = (
        [line for line in read_jsonl(folder / "metrics.jsonl") if line["agent_steps"] > 60]
        for folder in (run_dir, stays)
    )
    assert [line["grad_steps"] for line in moved] == [line["grad_steps"] for line in stayed]
    mine, theirs = (
        np.array([line["train/loss/total"] for line in lines if "train/loss/total" in line])
        for lines in (moved, stayed)
    )
    assert len(mine) >= 1 and begin["facts/grad_steps"] > 10
    np.testing.assert_allclose(mine[0], theirs[0], rtol=1e-5)
    assert saved(run_dir)["train_state/step"] == saved(stays)["train_state/step"] > begin["train_state/step"]
