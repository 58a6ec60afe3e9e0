"""A behavior that remembers: from decision to decision, not over the start of an episode, and over a resume."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import KEY, MIXED, B, assert_trees_equal, random_batch, random_timestep, tiny_config
from trainer import make_toy, tiny_run

from dreamer_jax.agent import make_agent, make_behavior
from dreamer_jax.config.loading import replace
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.models.rssm import RSSMState
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.training.preflight import env_spec
from dreamer_jax.training.train import train
from dreamer_jax.types import PolicyCarry, TrainState

E = 4


def counting(config, spec, model, /, **options):
    """Chooses the number of its decision in the episode, from 0, as its action."""

    def act(params, key, rows, state, count, mode):
        return count + 1, {"motors": jnp.repeat(count[:, None], 2, 1).astype(jnp.float32), "choice": count % 6}

    return make_behavior(config, spec, model, **options)._replace(
        initial=lambda size: jnp.zeros(size, jnp.int32), act=act
    )


AGENT = make_agent(tiny_config(), MIXED, behavior=counting)


@pytest.fixture(scope="module")
def params():
    return AGENT.init(KEY).params


def test_each_environment_has_its_own_and_begins_anew(params):
    policy = jax.jit(AGENT.policy, static_argnums=4)
    carry, timestep = AGENT.reset(params, E), random_timestep(MIXED, size=E)
    chosen = []
    for first in ([0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]):
        carry, action, _ = policy(params, KEY, carry, timestep.replace(is_first=np.array(first, bool)), "sample")
        chosen.append(np.asarray(action["choice"]).tolist())
    assert chosen == [[0, 0, 0, 0], [1, 1, 1, 1], [2, 0, 2, 2], [3, 1, 3, 0]]
    again, _, _ = policy(params, KEY, carry, timestep, "random")  # nobody asked it
    np.testing.assert_array_equal(again.behavior, carry.behavior)


def test_it_goes_on_in_a_dream(params):
    """Step t of a dream is the behavior's decision number t."""
    seen = random_batch(MIXED, tiny_config())
    steps = np.broadcast_to(np.arange(3), (B, 3))
    counted = {"motors": np.float32(np.repeat(steps[..., None], 2, -1)), "choice": np.int32(steps)}
    still = jax.tree.map(np.zeros_like, counted)
    own, given, other = (
        np.asarray(AGENT.dream(params, KEY, seen, actions, 3).observation["place"])
        for actions in (None, counted, still)
    )
    np.testing.assert_allclose(own, given, rtol=1e-4, atol=1e-5)
    assert (np.abs(own - other)[:, -1] > 1e-4).any()


def test_it_survives_a_resume(tmp_path):
    """Stopped between two decisions of an episode and gone on with, as in one piece."""
    config = tiny_run(train__frames=20, env__task="probe/echo", train__train_ratio=0.0)
    toy = make_toy(config, env_spec(config))

    def reset(params, num_envs):
        return toy.reset(params, num_envs).replace(
            behavior={"count": jnp.zeros(num_envs), "other": (jnp.ones((num_envs, 2)),)}
        )

    def policy(params, key, carry, timestep, mode="sample", env_offset=0):
        count = jnp.where(timestep.is_first, 0.0, carry.behavior["count"])
        after, action, latents = toy.policy(params, key, carry, timestep, mode, env_offset)
        action = {name: x + count[:, None] / 100 for name, x in action.items()}
        return after.replace(behavior=carry.behavior | {"count": count + 1}), action, latents

    agent = toy._replace(reset=reset, policy=policy)

    def run(folder, *frames):
        for some in frames:
            longer = replace(config, {"train.frames": some})
            train(longer, tmp_path / folder, agent=agent, loggers=(), stream=io.StringIO())
        checkpoints = Checkpoints(tmp_path / folder)
        state = jax.eval_shape(agent.init, KEY)
        carry = jax.eval_shape(lambda params: reset(params, config.env.num_envs), state.params)
        found = checkpoints.restore(frames[-1], state, carry)[1]
        checkpoints.close()
        return found

    broken, whole = run("broken", 20, 30), run("whole", 30)
    assert jax.tree.structure(broken) == jax.tree.structure(whole)
    jax.tree.map(np.testing.assert_array_equal, broken, whole)
    assert (np.asarray(whole.behavior["count"]) > 1).all()


def test_what_holds_no_array_may_come_and_go_between_checkpoints(tmp_path):
    checkpoints, state = Checkpoints(tmp_path, keep=1), TrainState(np.int32(3), {"model": np.ones(2)}, {}, (), {})
    latent = {"deter": np.ones((2, 3)), "stoch": np.zeros((2, 1))}
    before = {"latent": latent | {"stats": {}, "cell": None}, "prev_action": {"a": np.ones(2)}, "records": None}
    checkpoints.save(7, state, before, {"x": np.ones(1)}, {})
    checkpoints.completed(wait=True)
    carry = checkpoints.restore(7, state, PolicyCarry(RSSMState(**latent), before["prev_action"]))[1]
    assert_trees_equal(carry, PolicyCarry(RSSMState(**latent), before["prev_action"]))
    with pytest.raises(ConfigError, match="no policy state .*behavior"):
        checkpoints.restore(7, state, PolicyCarry(RSSMState(**latent), before["prev_action"], None, np.ones(2)))
    checkpoints.close()
