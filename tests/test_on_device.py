"""Runs on the device: the one program does what its parts do, and a run of it is a run like any other."""

import io
import os
import signal
import subprocess
import sys
from unittest import mock

import jax
import numpy as np
import pytest
from agents import QUICK, assert_trees_equal, many_devices, quickly
from pages import ROOT
from test_pure_environments import counting
from trainer import flags, make_toy, tiny_run

from dreamer_jax.cli import main
from dreamer_jax.config.loading import replace
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.devices.data_parallel import AXIS, axis_of
from dreamer_jax.envs.pure import probes
from dreamer_jax.envs.pure.streams import make_streams
from dreamer_jax.ops.train_ratio import in_prefill, least_windows, updates_after
from dreamer_jax.replay.device import make_device_replay
from dreamer_jax.replay.export import stored_episodes
from dreamer_jax.runs.checkpoint import Checkpoints, read_replays
from dreamer_jax.runs.metrics import read_jsonl
from dreamer_jax.training import device_calls, multi_run, on_device, train
from dreamer_jax.training.device_preflight import chosen
from dreamer_jax.training.interrupt import Stopped
from dreamer_jax.training.learner import NotFinite
from dreamer_jax.training.multi_run import Member, train_together
from dreamer_jax.training.one_program import (
    ACT,
    DRAW,
    ENVS,
    INIT,
    UPDATE,
    make_keys,
    make_program,
    make_training,
    train_on_device,
)

ENV = probes.make("continuous_target")


def settings(**changes):
    return tiny_run(**{"train__where": "device", "train__report_frames": 0, "train__frames": 120} | changes)


def toy(config, devices=1):
    return make_toy(config, ENV.spec, axis_name=axis_of(devices))


def step_by_step(config, steps, devices=1):
    """The same training, one part after the other; each device would have its environments, and its rows of a batch."""
    agent, num_envs, settings = toy(config, devices), config.env.num_envs, config.train
    each = num_envs // devices
    streams = make_streams(ENV, config.env, num_envs)
    sizes = dict(num_envs=each, batch_length=settings.batch_length, rows=20)
    replay = make_device_replay(ENV.spec, agent.latent_spec, config.replay, **sizes)
    begin, take = jax.jit(streams.begin), jax.jit(streams.step)
    update = jax.jit(jax.vmap(agent.update, (None, None, 0), axis_name=AXIS))
    append, sample, back = jax.jit(replay.append), jax.jit(replay.sample, static_argnums=2), jax.jit(replay.write_back)
    policy = jax.jit(agent.policy, static_argnums=4)
    keys = make_keys(np.uint32(config.seed))
    state, (world, timestep) = agent.init(keys[INIT]), begin(keys[ENVS])
    rings = [replay.init() for _ in range(devices)]
    carry, started, losses = agent.reset(state.params, num_envs), -1, []
    for step in range(steps):
        mode = "random" if in_prefill(settings, step * num_envs) else "train"
        carry, action, latents = policy(state.params, jax.random.fold_in(keys[ACT], step), carry, timestep, mode)
        for device in range(devices):
            mine = slice(device * each, (device + 1) * each)
            record = jax.tree.map(lambda x, mine=mine: x[mine], (timestep, action, latents))
            rings[device] = append(rings[device], *record)
        agent_steps = (step + 1) * num_envs
        enough = sum(int(replay.windows(ring)) for ring in rings) >= least_windows(settings)
        if started < 0 and enough and not in_prefill(settings, agent_steps):
            started = agent_steps
        while started >= 0 and len(losses) < updates_after(settings, agent_steps - started):
            count = len(losses)
            draw, key = jax.random.fold_in(keys[DRAW], count), jax.random.fold_in(keys[UPDATE], count)
            drawn = []
            for device in range(devices):
                its = jax.random.fold_in(draw, device) if devices > 1 else draw
                rings[device], *rest = sample(rings[device], its, settings.batch_size // devices)
                drawn.append(rest)
            batches = jax.tree.map(lambda *xs: jax.numpy.stack(xs), *(batch for batch, _, _ in drawn))
            each_state, metrics, latents = update(state, key, batches)
            state, metrics = jax.tree.map(lambda x: x[0], (each_state, metrics))
            for device, (_, index, _) in enumerate(drawn):
                mine = jax.tree.map(lambda x, device=device: x[device], latents)
                rings[device] = back(rings[device], index, mine)
            losses.append(float(metrics["loss/total"]))
        world, timestep = take(world, action)
    return (state, carry, rings, timestep), losses


def assert_does_what_its_parts_do(config, devices=1):
    """Wherever calls end."""
    program = make_program(config, toy(config, devices), ENV, rows=20, most=30, num_devices=devices)
    keys = make_keys(np.uint32(config.seed))
    training, counters = jax.jit(program.init)(keys)
    run, total = jax.jit(program.run), 0
    for steps in (1, 8, 30, 1):
        training, counters, found = run(training, counters, keys, np.int32(steps))
        total += float(found.metrics["loss/total"])
        assert found.failure.step == -1 and found.finite[:steps].all() and not found.lacking
    (state, carry, rings, timestep), losses = step_by_step(config, 40, devices)
    assert_trees_equal((training.state, training.policy, training.timestep), (state, carry, timestep))
    whole = jax.tree.map(lambda *xs: np.concatenate(xs, 1), *(ring.fields for ring in rings))
    assert_trees_equal(training.ring.fields, whole)
    assert training.ring.rows == 40 and training.ring.taken == sum(int(ring.taken) for ring in rings) > 0
    assert counters.grad_steps == len(losses) > 60 and total == pytest.approx(sum(losses), rel=1e-5)


@quickly()
def test_the_program_does_what_its_parts_do():
    """Random actions at first, a ring that wraps, several updates in a step."""
    assert_does_what_its_parts_do(settings(train__prefill=14, train__train_ratio=12.0))


@quickly()
def test_what_an_environment_logs_comes_out_with_its_record():
    env, config = counting(time_limit=4), settings(env__num_envs=3)
    program = make_program(config, make_toy(config, env.spec), env, rows=20, most=10)
    keys = make_keys(np.uint32(1))
    found = jax.jit(program.run)(*jax.jit(program.init)(keys), keys, np.int32(10))[2]
    assert (found.log["twice"][found.is_last] > 0).all() and found.is_last.sum() >= 6
    counts = np.zeros(3)
    for row in range(10):
        counts = np.where(found.is_first[row], 0, counts + 1)
        assert (np.where(found.is_first[row], 0, found.log["twice"][row]) == 2 * counts).all()


SHARED = settings(train__prefill=16, train__train_ratio=24.0, train__batch_size=4, env__num_envs=4)
TWO_DEVICES = "import test_on_device; test_on_device.assert_does_what_its_parts_do(test_on_device.SHARED, 2)"


@pytest.mark.skipif(jax.__version_info__ < (0, 9), reason="JAX 0.8 rounds the two ways apart after forty updates")
def test_two_devices_share_environments_and_batches():
    # Other ways to compile differ in how they round the toy's first parameters.
    env = many_devices(2) | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    subprocess.run([sys.executable, "-c", TWO_DEVICES], env=env, check=True)


def learn(config, run_dir, agent=None):
    """A run with the toy."""
    with quickly(), mock.patch.object(device_calls, "compiler_options", lambda: QUICK):
        return jax.device_get(
            train.train(config, run_dir, agent=agent or toy(config), loggers=(), stream=io.StringIO())
        )


def test_a_run_writes_what_every_run_writes(tmp_path):
    config = settings(train__eval_frames=60, train__eval_episodes=2, train__report_frames=60)
    state = learn(config, tmp_path / "run")
    lines, scores = read_jsonl(tmp_path / "run" / "metrics.jsonl"), read_jsonl(tmp_path / "run" / "scores.jsonl")
    assert lines[-1]["agent_steps"] == 120 and lines[-1]["grad_steps"] == int(state.step) > 40
    assert sum("eval/score" in line for line in lines) == 2 and any("replayed/low" in line for line in lines)
    assert {"train/loss/total", "fps/policy", "replay/windows"} <= {name for line in lines for name in line}
    assert [(line["env"], line["agent_steps"], line["length"]) for line in scores[:3]] == [
        (0, 22, 10),
        (1, 22, 10),
        (0, 44, 10),
    ]
    # The same numbers as the same training without files.
    with quickly():
        _, found = train_on_device(config, ENV, agent=toy(config))
    played = np.asarray(found["reward"])[:11, 0].sum()
    assert scores[0]["score"] == pytest.approx(played, abs=1e-6)
    assert int(found["updates"]) == int(state.step)


def test_a_run_on_two_devices(process, tmp_path):
    """Stopped and gone on with it is the same run, and another number of devices can take it over."""
    config = settings(env__num_envs=4, train__batch_size=4, train__report_frames=60)
    two = ["--train.devices", "2"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for run_dir, frames, devices in ((whole, 120, two), (parts, 60, two), (parts, 120, two)):
        words = [*flags(config, run_dir), "--train.frames", str(frames), *devices]
        assert process.run(words, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert "(on the device), custom widths: 15 parameters on 2 x cpu" in (tmp_path / "log").read_text()
    assert_same_files(parts, whole)
    words = [*flags(config, parts), "--train.frames", "160", "--train.devices", "1"]
    assert process.run(words, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert "resumed at 120 frames" in (tmp_path / "log").read_text() and Checkpoints(parts).latest() == 160
    words = [*flags(config, tmp_path / "none"), "--env.num_envs", "3", *two]
    assert process.run(words, tmp_path / "log") == 2
    assert "train.devices: got 2, which can't share env.num_envs 3" in (tmp_path / "log").read_text()


def test_its_replay_is_read_as_any_other(tmp_path):
    """From the newest checkpoint: whole episodes with what they scored, the first one cut off by the ring."""
    run_dir = tmp_path / "run"
    learn(settings(replay__validation_fraction=0.4, replay__capacity=100), run_dir)
    (ring,) = read_replays(run_dir, 4)
    arrays = arrays_of(run_dir)
    order = np.arange(60 - 50, 60) % 50  # slots of the newest rows
    assert len(arrays["ring/reward"]) == len(ring.rows) == 50
    for name in ring.fields:
        if name not in ("episode", "episode_step"):
            whole = np.stack([ring.column(name, env, ring.rows) for env in range(2)], 1)
            np.testing.assert_array_equal(whole, arrays[f"ring/{name}"][order])
    episodes = list(stored_episodes(ring))
    assert len(episodes) == 2 * 6 and not ring.column("is_first", 0, ring.rows)[0]
    scores = {(line["env"], line["episode"]): line["score"] for line in read_jsonl(run_dir / "scores.jsonl")}
    last = ring.column("reward", 0, episodes[4][2]).sum()
    assert last == pytest.approx([score for (env, _), score in scores.items() if env == 0][-1], abs=1e-6)
    assert main(["export", str(run_dir)]) == 0 and len(list((run_dir / "episodes").glob("*.npz"))) == 12


def test_a_training_is_mapped_over_seeds():
    config = settings(train__frames=60)
    training = make_training(config, ENV, agent=toy(config))
    with quickly():
        states, found = jax.jit(jax.vmap(training))(jax.numpy.arange(3, 5, dtype="uint32"))
        for index, seed in enumerate((3, 4)):
            alone = train_on_device(replace(config, {"seed": seed}), ENV, agent=toy(config))
            assert_trees_equal(jax.tree.map(lambda x, index=index: x[index], states), alone[0])
            assert (found["reward"][index] == alone[1]["reward"]).all() and found["updates"][index] > 10
    assert (found["reward"][0] != found["reward"][1]).any()


def arrays_of(run_dir):
    return Checkpoints(run_dir).restore_arrays(120)[0]


def assert_same_files(run_dir, other):
    """The last checkpoint bit for bit, and every score."""
    mine, theirs = arrays_of(run_dir), arrays_of(other)
    assert mine.keys() == theirs.keys() and any(name.startswith("ring/observation/") for name in mine)
    for name in mine:
        assert mine[name].tobytes() == theirs[name].tobytes(), name
    assert (run_dir / "scores.jsonl").read_text() == (other / "scores.jsonl").read_text()


def interrupt_call(monkeypatch, number):
    """Calls of three steps at most; a signal comes before the one of this number."""
    steps, calls = on_device.OnDeviceRun._next_steps, []

    def interrupted(self):
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGINT)
        return min(3, steps(self))

    monkeypatch.setattr(on_device.OnDeviceRun, "_next_steps", interrupted)


def test_a_run_that_goes_on_is_the_run_that_went_through(tmp_path, monkeypatch):
    """Bit for bit, from a checkpoint in the middle or after a signal, whatever the calls are."""
    held_out = dict(replay__validation_fraction=0.4, replay__capacity=400)
    config = settings(**held_out)
    whole = learn(config, tmp_path / "whole")
    learn(settings(**held_out, train__frames=46), tmp_path / "parts")  # its ring is smaller, and grows
    interrupt_call(monkeypatch, 5)
    with pytest.raises(Stopped):
        learn(config, tmp_path / "parts")
    assert 46 < Checkpoints(tmp_path / "parts").latest() < 120
    parts = learn(config, tmp_path / "parts")
    assert_trees_equal(whole, parts)
    assert_same_files(tmp_path / "parts", tmp_path / "whole")


def learn_together(members):
    """Runs with toys, as one program."""
    quick = mock.patch.object(device_calls, "compiler_options", lambda: QUICK)
    with quickly(), quick, mock.patch.object(multi_run, "make_agent", make_toy):
        return jax.device_get(train_together(members, loggers=(), stream=io.StringIO()))


def test_runs_that_learn_together_are_those_they_would_be_alone(tmp_path, monkeypatch):
    """Bit for bit: seeds and learning rates, stopped and gone on with, each with files of its own."""
    changes = dict(replay__validation_fraction=0.4, replay__capacity=400, train__save_frames=40)
    points = [dict(seed=3), dict(seed=4), dict(seed=4, optimizer__learning_rate=2e-3)]
    configs = [settings(**changes, **point) for point in points]
    alone = [learn(config, tmp_path / f"alone{index}") for index, config in enumerate(configs)]
    members = [Member(config, tmp_path / f"run{index}") for index, config in enumerate(configs)]
    interrupt_call(monkeypatch, 20)
    with pytest.raises(Stopped):
        learn_together(members)
    newest = {Checkpoints(run_dir).latest() for _, run_dir in members}
    assert len(newest) == 1 and 0 < newest.pop() < 120
    together = learn_together(members)
    for index, (state, run_dir) in enumerate(zip(together, [run_dir for _, run_dir in members], strict=True)):
        assert_trees_equal(state, alone[index])
        assert_same_files(run_dir, tmp_path / f"alone{index}")
    assert len({str(state.params) for state in together}) == 3


def test_one_that_fails_ends_all_that_learn_together(tmp_path, monkeypatch):
    save = Checkpoints.save

    def full(self, at, *rest):
        if at and "run1" in str(self._path):
            raise OSError(28, "No space left on device")
        return save(self, at, *rest)

    monkeypatch.setattr(Checkpoints, "save", full)
    members = [Member(settings(seed=index), tmp_path / f"run{index}") for index in range(2)]
    with pytest.raises(multi_run.MemberFailed, match="run1 failed"):
        learn_together(members)


def test_losses_that_are_not_finite_end_the_run(tmp_path):
    config = settings()
    agent = toy(config)

    def update(state, key, batch):
        after, metrics, latents = agent.update(state, key, batch)
        return after, metrics | {"loss/total": jax.numpy.where(state.step == 7, jax.numpy.nan, 0.0)}, latents

    with pytest.raises(NotFinite, match="update 7: loss/total is NaN or infinite; the batch is in .*update_7.npz"):
        learn(config, tmp_path / "run", agent._replace(update=update))
    with np.load(tmp_path / "run" / "failures" / "update_7.npz") as batch:
        assert batch["observation/observation"].shape == (2, 4, 1) and batch["observation/observation"].any()


def test_where():
    assert chosen(settings()) is not None
    assert chosen(settings(train__where="host")) is chosen(settings(train__where="auto")) is None
    with pytest.raises(ConfigError, match=r"'dmc/walker_walk' is not written in JAX; set it to host"):
        chosen(settings(env__task="dmc/walker_walk"))


@pytest.mark.slow
def test_cartpole_is_learnt(tmp_path):
    """The pole stays up for longer and longer; at random it falls after about 22 steps."""
    pytest.importorskip("gymnax")
    from dreamer_jax import load_config
    from dreamer_jax.envs.pure import suites

    config = load_config(files=[ROOT / "configs" / "on_device.yaml"])
    _, found = train_on_device(config, suites.find(config.env.task))
    reward, first = np.asarray(found["reward"]), np.asarray(found["is_first"])
    length = [(~first[part]).sum() / max(1, first[part].sum()) for part in (slice(0, 300), slice(-500, None))]
    assert length[0] < 40 and length[1] > 3 * length[0] and reward.max() == 1
