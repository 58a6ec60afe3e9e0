"""What a run takes, known before it begins: arithmetic by hand, memory against the program, what does not fit."""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import plan_memory
import pytest
from trainer import tiny_run

from dreamer_jax.cli import main
from dreamer_jax.config.loading import dump, load
from dreamer_jax.config.loading import replace as changed
from dreamer_jax.profiling.data_sheets import ACCELERATORS
from dreamer_jax.profiling.flops import Work, count_work
from dreamer_jax.profiling.speed import SPECS, update_speed, update_work
from dreamer_jax.terminal import render
from dreamer_jax.training import plan as planning
from dreamer_jax.training.plan import describe, plan


def matrix(*shape):
    return jnp.ones(shape)


@pytest.mark.parametrize(
    "function, args, flops, products",
    [
        (jnp.matmul, (matrix(3, 5), matrix(5, 7)), 2 * 3 * 5 * 7, 1),
        (lambda x, w: jnp.einsum("gni,gio->gno", x, w), (matrix(4, 3, 5), matrix(4, 5, 7)), 4 * 2 * 3 * 5 * 7, 1),
        (lambda x: jax.lax.scan(lambda c, _: (c @ x, None), x, None, 9)[0], (matrix(3, 3),), 9 * 2 * 27, 9),
        (lambda x: jax.lax.cond(True, lambda y: y @ y, lambda y: y @ y @ y, x), (matrix(3, 3),), 2 * 2 * 27, 2),
        (jax.jit(jnp.matmul), (matrix(3, 5), matrix(5, 7)), 2 * 3 * 5 * 7, 1),
        (jax.grad(lambda x, w: (x @ w).sum(), (0, 1)), (matrix(3, 5), matrix(5, 7)), 2 * 2 * 3 * 5 * 7, 2),
        (jnp.sin, (matrix(100, 100),), 0, 0),
    ],
)
def test_products_by_hand(function, args, flops, products):
    assert count_work(function, *args) == Work(flops, products)


def test_a_convolution_by_hand():
    def layer(x, kernel, stride=1):
        return jax.lax.conv(x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1), (stride, stride), "SAME")

    x, kernel = matrix(2, 8, 8, 3), matrix(5, 5, 3, 16)
    assert count_work(layer, x, kernel) == Work(2 * (2 * 8 * 8 * 16) * (5 * 5 * 3), 1)
    assert count_work(lambda *a: layer(*a, stride=2), x, kernel).flops == 2 * (2 * 4 * 4 * 16) * (5 * 5 * 3)
    upsampled = count_work(lambda *a: jax.lax.conv_transpose(*a, (2, 2), "SAME"), x, kernel)
    assert upsampled.flops == 2 * (2 * 16 * 16 * 16) * (5 * 5 * 3) // 4  # three of four inputs are zeros


def by_hand(config, spec):
    """FLOPs of an update: each layer once forward, and twice more where gradients go through it."""
    rssm, behavior = config.rssm, config.behavior
    n, horizon = config.train.batch_size * config.train.batch_length, behavior.imagination_length
    deter, stoch, units, width = rssm.deter, rssm.stoch * rssm.classes, rssm.hidden, rssm.deter // rssm.blocks
    (action,) = (leaf.shape[0] for leaf in spec.action.values())

    def head(part, outputs):
        return (deter + stoch) * part.units + (part.layers - 1) * part.units**2 + part.units * outputs

    core = (
        (deter + stoch + action) * units + rssm.blocks * (width + 3 * units) * width + rssm.blocks * width * 3 * width
    )
    prior = deter * units + (rssm.prior_layers - 1) * units**2 + units * stoch
    policy, value = head(config.policy, 2 * action), head(config.value, config.value.bins)
    rewards = head(config.reward, config.reward.bins) + head(config.cont, 1)
    (seen,) = spec.observation.values()
    if seen.image:
        size, _, channels = seen.shape
        depth, size = config.encoder.depth, size // 2
        # The first layer sees blocks of 2 x 2 pixels, and its input needs no gradient.
        encoder, before = size**2 * 9 * (4 * channels) * (4 * 2 * depth) * 2 // 3, 2 * depth
        for factor in (3, 4, 4):
            encoder += size**2 * 25 * before * factor * depth
            before, size = factor * depth, size // 2
        embedding = size**2 * before
        decoder = (deter // 8 + 2 * config.decoder.units) * embedding + stoch * 2 * config.decoder.units
        for after in (4 * depth, 3 * depth, 2 * depth, channels):  # of twice the size: 9 taps for each of 2 x 2 pixels
            decoder += size**2 * 9 * before * 4 * after
            before, size = after, 2 * size
    else:
        part, embedding = config.encoder, config.encoder.units
        encoder = seen.shape[0] * part.units + (part.layers - 1) * part.units**2
        decoder = head(config.decoder, seen.shape[0])
    posterior = (deter + embedding) * units + units * stoch
    observed = 3 * n * (encoder + core + prior + posterior + decoder + rewards) + 4 * n * value
    imagined = n * horizon * (core + prior + policy) + n * (horizon + 1) * (rewards + 3 * policy + 4 * value)
    return 2 * (observed + imagined)


@pytest.mark.parametrize("size", ["1m", "12m"])
@pytest.mark.parametrize("seen", ["proprio", "vision"])
def test_an_update_by_hand(size, seen):
    config = load(size=size, overrides=[("behavior.chunk_rows", "0")])
    assert update_work(config, SPECS[seen]).flops == pytest.approx(by_hand(config, SPECS[seen]), rel=0.06)


def test_memory_and_parameters_are_those_of_the_program():
    config, messages = tiny_run(train__frames=200), []
    found = plan(config, planning.Path("nowhere"), on=None, note=messages.append)
    assert found["problems"] == [] and messages
    speed = update_speed(config, planning.env_preview(config).spec, 1)
    assert found["parameters"] == speed["parameters"]
    assert found["program_bytes"] == int(1e6 * speed["compiled_memory_mb"])
    assert found["agent_steps"] == 200 and 0 < found["updates"] <= 100
    text = render(describe(found))
    assert f"{found['parameters']:,}" in text and "measured here" in text and "hours" in text


def test_what_does_not_fit_is_named_with_what_does(monkeypatch, tmp_path, capsys):
    path = tmp_path / "tiny.yaml"
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=10_000_000, f_frsize=1))
    path.write_text(dump(tiny_run(train__frames=10**6, replay__capacity=2**20)))
    assert main(["plan", "--config", str(path), "--run-dir", str(tmp_path), "--on", "a100", "--json"]) == 2
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert "free there" in problem["what"]
    flag, number = problem["fits"].split()
    path.write_text(dump(tiny_run(train__frames=10**6, replay__capacity=int(number))))
    assert flag == "--replay.capacity"
    assert main(["plan", "--config", str(path), "--run-dir", str(tmp_path), "--on", "a100"]) == 0
    assert "does not fit" not in capsys.readouterr().out
    path.write_text(dump(tiny_run(train__frames=200)))
    monkeypatch.setitem(ACCELERATORS, "a100", ACCELERATORS["a100"]._replace(memory=1000))
    assert main(["plan", "--config", str(path), "--run-dir", str(tmp_path), "--on", "a100"]) == 2
    assert "a smaller --size" in capsys.readouterr().out


def test_a_smaller_batch_fits():
    config = changed(load(), {"train.batch_size": 64})
    assert planning._smaller_batch(config, 10_000, 1000, 6000) == "--train.batch_size 16"  # (5400 - 1000) / 9000 of 64
    assert "smaller --size" in planning._smaller_batch(config, 10_000, 1000, 100)


def test_a_run_on_the_device(monkeypatch):
    """Its replay takes memory there, not on the disk, and is part of the one program."""
    changes = dict(env__task="probe/echo", train__where="device", train__frames=40_000, replay__capacity=40_000)
    config, said = tiny_run(**changes), []
    found = plan(config, planning.Path("nowhere"), on=None, note=said.append)
    assert (found["where"], found["problems"]) == ("device", []) and found["hours"] > 0
    alone = update_speed(config, planning.env_preview(config).spec, 1)["compiled_memory_mb"] * 1e6
    assert found["replay_bytes"] > 2 * alone
    assert found["program_bytes"] == pytest.approx(found["replay_bytes"] + alone, rel=0.3)
    text = render(describe(found))
    assert "replay on the device" in text and "replay included" in text and "disk" not in text

    room = found["replay_bytes"] + 1000  # for replay alone
    monkeypatch.setitem(ACCELERATORS, "a100", ACCELERATORS["a100"]._replace(memory=room))
    (problem,) = plan(config, planning.Path("nowhere"), on="a100", note=said.append)["problems"]
    flag, number = problem["fits"].split()
    assert flag == "--replay.capacity" and "with replay they take" in problem["what"]
    smaller = changed(config, {"replay.capacity": int(number)})
    assert plan(smaller, planning.Path("nowhere"), on="a100", note=said.append)["problems"] == []


def test_memory_is_measured_where_it_is_planned(monkeypatch, capsys):
    """Each point has the observations and the place that it names, and the error is of what the kernel counted."""
    found = {"plan": {"program_bytes": 150e6}, "run": {"risen_bytes": 200e6}}
    monkeypatch.setattr(plan_memory, "part_of", lambda point, part: found[part])
    monkeypatch.setattr("sys.argv", ["plan_memory", "--sizes", "1m"])
    plan_memory.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["where"], line["observation"]) for line in lines] == list(plan_memory.TASKS)
    assert all((line["planned_mb"], line["measured_mb"], line["error_percent"]) == (150, 200, -25) for line in lines)
    for where, seen in plan_memory.TASKS:
        config = plan_memory.settings(where, seen, "1m")
        assert config.train.where == where
        assert (config.env.observation == "image" or "Pixels" in config.env.task) == (seen == "pictures")


def risen_bytes(where):
    plan_memory.RECORDS = 2_000_000  # 100 MB, more than what else a run takes
    changes = {"env__task": "probe/echo", "train__where": where, "train__frames": 4_000, "replay__capacity": 4_000}
    return plan_memory.measured(tiny_run(**changes))["risen_bytes"]


@pytest.mark.parametrize("where", ["host", "device"])
def test_the_memory_of_a_tiny_run_is_measured(where):
    """In a process of its own, as the program does it: this one may have memory left that it has given back."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        assert (alone.submit(risen_bytes, where).result() > 50e6) == (where == "device")
