"""What ``config`` takes can be built: agent, policy and update have shapes, or there is one line that says why not."""

from typing import Literal, get_args, get_origin

import jax
import pytest
from hostile import many, proper
from hypothesis import given
from hypothesis import strategies as st
from trainer import SETTINGS

from dreamer_jax.agent import make_agent
from dreamer_jax.config.loading import load
from dreamer_jax.config.schema import FIELDS, ConfigError
from dreamer_jax.devices.memory import check_room
from dreamer_jax.envs.preview import Preview
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.training.preflight import example_batch, ring_plan
from dreamer_jax.types import TimeStep

VECTOR, IMAGE = ArraySpec((3,), "float32"), ArraySpec((32, 48, 3), "uint8")
SPECS = [
    EnvSpec({"eye": VECTOR}, {"arm": ArraySpec((2,), "float32")}),
    EnvSpec({"eye": VECTOR, "hour": ArraySpec((), "int32", 4)}, {"leg": ArraySpec((), "int32", 3)}),
    EnvSpec({"image": IMAGE}, {"arm": ArraySpec((2,), "float32"), "leg": ArraySpec((), "int32", 3)}),
]
SMALL = [(name, str(value).lower() if isinstance(value, bool) else str(value)) for name, value in SETTINGS.items()]
SMALL += [
    ("encoder.depth", "2"),
    ("decoder.depth", "2"),
    ("decoder.blocks", "2"),
    ("planner.candidates", "4"),
    ("planner.elites", "2"),
]
CHOICES = [name for name in sorted(FIELDS) if name not in ("env.task", "revision", "benchmark")]
CHANGES = st.lists(
    st.sampled_from(CHOICES).flatmap(lambda name: proper(name).map(lambda value: (name, value))), min_size=1, max_size=8
)


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def check_build(tmp, changes, spec):
    """Whatever goes wrong is a ConfigError of one line; no program is compiled."""
    try:
        config = load(overrides=[*SMALL, *changes])
        agent = make_agent(config, spec)
        check_room(config, spec, agent)
        ring_plan(config, tmp, Preview(spec, (), 0.0, 0), agent, 1)
    except ConfigError as error:
        assert str(error) and "\n" not in str(error)
        return
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(agent.init, key)
    num_envs = config.env.num_envs
    carry = jax.eval_shape(lambda params: agent.reset(params, num_envs), state.params)
    seen = {name: jax.ShapeDtypeStruct((num_envs, *leaf.shape), leaf.dtype) for name, leaf in spec.observation.items()}
    flag, number = (jax.ShapeDtypeStruct((num_envs,), kind) for kind in ("bool", "float32"))
    step = TimeStep(seen, number, flag, flag, flag)
    for mode in ("train", "random", config.policy.evaluate):
        after, action, _ = jax.eval_shape(
            lambda *given, mode=mode: agent.policy(*given, mode=mode), state.params, key, carry, step
        )
        assert shapes(after) == shapes(carry)
        assert {name: x.shape for name, x in action.items()} == {
            name: (num_envs, *leaf.shape) for name, leaf in spec.action.items()
        }
    batch = shapes(example_batch(config, spec, agent.latent_spec, config.train.batch_size))
    updated, metrics, _ = jax.eval_shape(agent.update, state, key, batch)
    assert shapes(updated) == shapes(state) and metrics


BUILDS = given(changes=CHANGES, spec=st.sampled_from(SPECS))


@BUILDS
@many(12)
def test_what_config_takes_can_be_built(tmp_path_factory, changes, spec):
    check_build(tmp_path_factory.getbasetemp(), changes, spec)


@pytest.mark.slow
@BUILDS
@many(500)
def test_much_that_config_takes_can_be_built(tmp_path_factory, changes, spec):
    check_build(tmp_path_factory.getbasetemp(), changes, spec)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CHOICES if FIELDS[name].kind not in (bool, str)])
def test_every_extreme_can_be_built(tmp_path, name):
    kind, _, low, high = FIELDS[name]
    for value in get_args(kind) if get_origin(kind) is Literal else (kind(low), kind(high)):
        for spec in SPECS[1:]:
            check_build(tmp_path, [(name, str(value))], spec)
