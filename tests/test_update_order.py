"""The world model's step before imagination: what then changes, and that rows may be on several devices."""

import jax
import numpy as np
import pytest
from agents import KEY, MIXED, assert_trees_equal, largest, quick_jit, random_batch, tiny, tiny_config

from dreamer_jax.agent import make_agent

IN_TURN = {"optimizer__order": "model_first", "loss__replay_value": 0.0, "optimizer__warmup": 0}
STATE, SIZE = tiny().state, 4
BATCH = random_batch(MIXED, tiny().config, size=SIZE)


def state_of(agent):
    """The tiny parameters, with what this agent's optimiser begins with."""
    shapes = jax.eval_shape(agent.init, KEY)
    return STATE.replace(opt_state=jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes.opt_state))


def updated(**changes):
    agent = make_agent(tiny_config(**IN_TURN | changes), MIXED)
    return quick_jit(agent.update)(state_of(agent), KEY, BATCH)


@pytest.fixture(scope="module")
def in_turn():
    return updated()


def test_the_model_takes_the_same_step_and_the_others_learn_from_it(in_turn):
    """Its gradient does not depend on the order, what is imagined afterwards does."""
    (new, metrics, latents), (joint, others, same) = in_turn, updated(optimizer__order="joint")
    assert_trees_equal(latents, same)
    change = largest(jax.tree.map(lambda x, y: x - y, new.params["model"], STATE.params["model"]))
    gap = largest(jax.tree.map(lambda x, y: x - y, new.params["model"], joint.params["model"]))
    assert gap < 1e-3 * change
    assert metrics["loss/dyn"] == pytest.approx(float(others["loss/dyn"]), rel=1e-5)
    assert metrics["ret"] != pytest.approx(float(others["ret"]), rel=1e-5)
    assert metrics["opt/grad_norm"] == pytest.approx(float(others["opt/grad_norm"]), rel=0.05)


def test_rows_on_two_devices_make_the_same_update(in_turn):
    """``vmap`` with an axis name has the collectives of ``pmap``."""
    agent = make_agent(tiny_config(**IN_TURN), MIXED, axis_name="devices")
    halves = jax.tree.map(lambda x: np.asarray(x).reshape(2, SIZE // 2, *x.shape[1:]), BATCH)
    update = jax.vmap(agent.update, axis_name="devices", in_axes=(None, None, 0))
    new, metrics, _ = quick_jit(update)(state_of(agent), KEY, halves)
    jax.tree.map(lambda x: np.testing.assert_array_equal(x[0], x[1]), (new, metrics))
    for name in ("ret", "loss/policy", "loss/dyn", "opt/grad_norm"):
        np.testing.assert_allclose(metrics[name][0], in_turn[1][name], rtol=1e-3, err_msg=name)
