"""What a run takes, known before it begins: arithmetic by hand, memory against the program, what does not fit."""

import json
import os
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from trainer import tiny_run

from dreamer_jax.cli import main
from dreamer_jax.config.loading import dump, load
from dreamer_jax.config.loading import replace as changed
from dreamer_jax.profiling.data_sheets import ACCELERATORS
from dreamer_jax.profiling.flops import Work, count_work, update_work
from dreamer_jax.profiling.speed import SPECS, update_speed
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
    found = count_work(function, *args)
    assert found.flops == flops or (
        found.flops == flops + 2 * 105 and found.products == products + 1
    )  # a value as well


def test_a_convolution_by_hand():
    def layer(x, kernel, stride=1):
        return jax.lax.conv(x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1), (stride, stride), "SAME")

    x, kernel = matrix(2, 8, 8, 3), matrix(5, 5, 3, 16)
    assert count_work(layer, x, kernel) == Work(2 * (2 * 8 * 8 * 16) * (5 * 5 * 3), 1)
    assert count_work(lambda *a: layer(*a, stride=2), x, kernel).flops == 2 * (2 * 4 * 4 * 16) * (5 * 5 * 3)
    upsampled = count_work(lambda *a: jax.lax.conv_transpose(*a, (2, 2), "SAME"), x, kernel)
    assert upsampled.flops == 2 * (2 * 16 * 16 * 16) * (5 * 5 * 3) // 4  # three of four inputs are zeros


def test_an_update_at_1m_by_hand():
    """The large parts of it: the imagined core, the heads on imagined states with gradients, the observed core."""
    n, h, deter, stoch, units, blocks, bins = 16 * 64, 15, 512, 128, 64, 8, 255
    core = deter * units + stoch * units + 6 * units + blocks * (deter // blocks + 3 * units) * units
    core += blocks * units * 3 * units
    prior = deter * units + units * units + units * stoch
    policy = (deter + stoch) * units + 2 * units * units + 2 * units * 6
    value = (deter + stoch) * units + 2 * units * units + units * bins
    reward = (deter + stoch) * units + units * bins
    cont = (deter + stoch) * units + units
    imagined = n * h * (core + prior + policy)
    heads = n * (h + 1) * (reward + cont + 3 * policy + 3 * value + value)
    observed = 3 * n * (core + prior + prior)
    by_hand = 2 * (imagined + heads + observed)
    config = load(size="1m", overrides=[("behavior.chunk_rows", "0")])
    assert update_work(config, SPECS["proprio"]).flops == pytest.approx(by_hand, rel=0.15)


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
    answer = {"program_bytes": 10_000, "state_bytes": 1000}
    assert planning._smaller_batch(config, answer, 6000) == "--train.batch_size 16"  # (5400 - 1000) / 9000 of 64 are 31
    assert "smaller --size" in planning._smaller_batch(config, answer, 100)
