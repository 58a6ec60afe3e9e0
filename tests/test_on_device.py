"""Runs on the device: the one program does what its parts do, and a run of it is a run like any other."""

import io
import os
import signal
from unittest import mock

import jax
import numpy as np
import pytest
from agents import QUICK, assert_trees_equal, quickly
from trainer import make_toy, tiny_run

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.envs.pure import probes
from dreamer_jax.envs.pure.streams import make_streams
from dreamer_jax.ops.train_ratio import in_prefill, least_windows, updates_after
from dreamer_jax.replay.device import make_device_replay
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.metrics import read_jsonl
from dreamer_jax.training import on_device, train
from dreamer_jax.training.interrupt import Stopped
from dreamer_jax.training.learner import NotFinite
from dreamer_jax.training.on_device import chosen
from dreamer_jax.training.one_program import ACT, DRAW, ENVS, INIT, UPDATE, make_keys, make_program, train_on_device

ENV = probes.make("continuous_target")


def settings(**changes):
    return tiny_run(**{"train__where": "device", "train__report_frames": 0, "train__frames": 120} | changes)


def toy(config):
    return make_toy(config, ENV.spec)


def step_by_step(config, steps):
    """The same training, one part after the other."""
    agent, num_envs, settings = toy(config), config.env.num_envs, config.train
    streams = make_streams(ENV, config.env, num_envs)
    ring_options = dict(num_envs=num_envs, batch_length=settings.batch_length, online=config.replay.online)
    replay = make_device_replay(ENV.spec, agent.latent_spec, rows=20, **ring_options)
    begin, take, update = jax.jit(streams.begin), jax.jit(streams.step), jax.jit(agent.update)
    append, sample, back = jax.jit(replay.append), jax.jit(replay.sample, static_argnums=2), jax.jit(replay.write_back)
    policy = jax.jit(agent.policy, static_argnums=4)
    keys = make_keys(np.uint32(config.seed))
    state, (world, timestep), ring = agent.init(keys[INIT]), begin(keys[ENVS]), replay.init()
    carry, started, losses = agent.reset(state.params, num_envs), -1, []
    for step in range(steps):
        mode = "random" if in_prefill(settings, step * num_envs) else "train"
        carry, action, latents = policy(state.params, jax.random.fold_in(keys[ACT], step), carry, timestep, mode)
        ring = append(ring, timestep, action, latents)
        agent_steps = (step + 1) * num_envs
        enough = replay.windows(ring) >= least_windows(settings)
        if started < 0 and enough and not in_prefill(settings, agent_steps):
            started = agent_steps
        while started >= 0 and len(losses) < updates_after(settings, agent_steps - started):
            count = len(losses)
            ring, batch, index, _ = sample(ring, jax.random.fold_in(keys[DRAW], count), settings.batch_size)
            state, metrics, latents = update(state, jax.random.fold_in(keys[UPDATE], count), batch)
            ring = back(ring, index, latents)
            losses.append(float(metrics["loss/total"]))
        world, timestep = take(world, action)
    return (state, carry, ring, timestep), losses


@quickly()
def test_the_program_does_what_its_parts_do():
    """Wherever calls end: random actions at first, a ring that wraps, several updates in a step."""
    config = settings(train__prefill=14, train__train_ratio=12.0)
    program = make_program(config, toy(config), ENV, rows=20, most=30)
    keys = make_keys(np.uint32(config.seed))
    training, counters = jax.jit(program.init)(keys)
    run, total = jax.jit(program.run), 0
    for steps in (1, 8, 30, 1):
        training, counters, found = run(training, counters, keys, np.int32(steps))
        total += float(found.metrics["loss/total"])
        assert found.failure.step == -1 and found.finite[:steps].all() and not found.lacking
    expected, losses = step_by_step(config, 40)
    assert_trees_equal((training.state, training.policy, training.ring, training.timestep), expected)
    assert counters.grad_steps == len(losses) > 60 and total == pytest.approx(sum(losses), rel=1e-5)


def learn(config, run_dir, agent=None):
    """A run with the toy."""
    with quickly(), mock.patch.object(on_device, "compiler_options", lambda: QUICK):
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


def test_a_run_that_goes_on_is_the_run_that_went_through(tmp_path, monkeypatch):
    """Bit for bit, from a checkpoint in the middle or after a signal, whatever the calls are."""
    held_out = dict(replay__validation_fraction=0.4, replay__capacity=400)
    config = settings(**held_out)
    whole = learn(config, tmp_path / "whole")
    learn(settings(**held_out, train__frames=46), tmp_path / "parts")  # its ring is smaller, and grows
    steps = on_device.OnDeviceRun._next_steps
    calls = []

    def interrupted(self):
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return min(3, steps(self))

    monkeypatch.setattr(on_device.OnDeviceRun, "_next_steps", interrupted)
    with pytest.raises(Stopped):
        learn(config, tmp_path / "parts")
    assert 46 < Checkpoints(tmp_path / "parts").latest() < 120
    parts = learn(config, tmp_path / "parts")
    assert_trees_equal(whole, parts)
    both = [Checkpoints(tmp_path / name).restore_arrays(120)[0] for name in ("whole", "parts")]
    assert both[0].keys() == both[1].keys() and any(name.startswith("ring/observation/") for name in both[0])
    for name, array in both[0].items():
        assert array.tobytes() == both[1][name].tobytes(), name
    scores = [(tmp_path / name / "scores.jsonl").read_text() for name in ("whole", "parts")]
    assert scores[0] == scores[1]


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
    assert chosen(settings())[0] is not None
    assert chosen(settings(train__where="host")) == chosen(settings(train__where="auto")) == (None, "")
    with pytest.raises(ConfigError, match=r"'dmc/walker_walk' is not written in JAX; set it to host"):
        chosen(settings(env__task="dmc/walker_walk"))
    with pytest.raises(ConfigError, match=r"no replay.smoothing ema yet; set it to host"):
        chosen(settings(replay__smoothing="ema"))


@pytest.mark.slow
def test_cartpole_is_learnt(tmp_path):
    """The pole stays up for longer and longer; at random it falls after about 22 steps."""
    pytest.importorskip("gymnax")
    from dreamer_jax import load_config
    from dreamer_jax.envs.pure import suites

    names = "configs/on_device.yaml"
    config = load_config(files=[names], overrides=[("train.frames", "12000")])
    _, found = train_on_device(config, suites.find(config.env.task))
    reward, first = np.asarray(found["reward"]), np.asarray(found["is_first"])
    length = [(~first[part]).sum() / max(1, first[part].sum()) for part in (slice(0, 300), slice(-500, None))]
    assert length[0] < 40 and length[1] > 3 * length[0] and reward.max() == 1
