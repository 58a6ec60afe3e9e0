"""Our parameters by the reference's names, and back."""

import dataclasses

import jax
import numpy as np
import pytest
from agents import KEY, MIXED, tiny_config

from dreamer_jax.agent import make_agent
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.reference import from_reference, reference_names, to_reference

CONFIG = tiny_config(rssm__prior_layers=2, rssm__posterior_layers=2, rssm__dynamics_layers=2)


@pytest.fixture(scope="module")
def state():
    shapes = jax.eval_shape(make_agent(CONFIG, MIXED).init, KEY)
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [rng.normal(size=x.shape).astype(x.dtype) for x in leaves])


def test_every_tensor_has_one_name(state):
    names = reference_names(CONFIG, MIXED)
    assert len(set(names.values())) == len(names)
    tensors = jax.tree.leaves((state.params, state.slow, state.moments))
    assert len(tensors) == len(names)
    assert to_reference(state, CONFIG, MIXED)["dyn/dynhid1norm/scale"].shape == (CONFIG.rssm.deter,)


def test_there_and_back(state):
    again = from_reference(to_reference(state, CONFIG, MIXED), CONFIG, MIXED)
    for part in ("params", "slow", "moments"):
        jax.tree.map(np.testing.assert_array_equal, getattr(again, part), getattr(state, part))
    assert again.step == 0


def test_slow_critic_and_range_may_be_missing(state):
    arrays = to_reference(dataclasses.replace(state, slow={}, moments={}), CONFIG, MIXED)
    again = from_reference(arrays, CONFIG, MIXED)
    jax.tree.map(np.testing.assert_array_equal, again.slow, state.params["critic"])
    assert again.moments["high"] == 0


def test_every_problem_is_named(state):
    arrays = to_reference(state, CONFIG, MIXED)
    del arrays["rew/head/logits/bias"]
    arrays["enc/cnn0/kernel"] = np.zeros(3, np.float32)
    arrays["dyn/prior0/kernel"] = arrays["dyn/prior0/kernel"].T
    arrays["slowval_count/value"] = np.int32(3)
    with pytest.raises(ConfigError) as error:
        from_reference(arrays, CONFIG, MIXED)
    problems = str(error.value).split("; ")
    assert problems == [
        "rew/head/logits/bias is missing",
        "enc/cnn0/kernel is not a tensor of this agent",
        "dyn/prior0/kernel has shape (10, 36), expected (36, 10)",
    ]
