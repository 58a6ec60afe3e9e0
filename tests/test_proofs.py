"""Tiny agents trained for real, for what recorded numbers can't show: how records are aligned, what an end means."""

import io

import jax
import numpy as np
import pytest
from agents import KEY, quick_jit
from test_probes_learning import PARTS, SMALL

from dreamer_jax.agent import make_agent
from dreamer_jax.config.checks import check
from dreamer_jax.config.loading import load, replace
from dreamer_jax.config.schema import flatten
from dreamer_jax.envs.vector import make_envs
from dreamer_jax.models.world_model import make_world_model
from dreamer_jax.ops.transforms import symexp
from dreamer_jax.training.train import train
from dreamer_jax.types import TrajectoryBatch

ROWS = np.arange(16)
HORIZON = 15
GOES_ON = 1 - 1 / HORIZON  # the discount, which is the most that the continue head learns
FRAMES = {"echo": 500, "terminal_reward": 400, "time_limit": 500, "constant_reward": 600}
STEPS = {"echo": 9, "terminal_reward": 5, "time_limit": 7, "constant_reward": 11}
"""Records of an episode."""
FASTER = {"train.train_ratio": 256.0, "train.updates_per_dispatch": 8, "train.log_seconds": 1e6}


def settings(probe, seed):
    config = load("dreamer_v3", "1m")
    widths = {name: PARTS[name.rpartition(".")[2]] for name in flatten(config) if name.rpartition(".")[2] in PARTS}
    task = {"env.task": f"probe/{probe}", "train.frames": FRAMES[probe], "seed": seed}
    return check(replace(config, widths | SMALL | FASTER | task | {"behavior.discount_horizon": HORIZON}))


def play(config, length, seed):
    """Whole episodes of random actions, one in each row."""
    rng = np.random.default_rng(seed)
    envs = make_envs(config.env, seed=seed, purpose=1, num_envs=len(ROWS))
    (name, leaf), *_ = envs.spec.action.items()
    shape = (length, len(ROWS), *leaf.shape)
    actions = rng.integers(leaf.classes, size=shape) if leaf.discrete else rng.uniform(-1, 1, shape)
    actions = actions.astype(leaf.dtype)
    records = [envs.reset(), *(envs.step({name: action}) for action in actions[1:])]
    envs.close()
    rows = jax.tree.map(lambda *xs: np.stack(xs, 1), *records)
    signals = {name: getattr(rows, name) for name in ("reward", "is_first", "is_last", "is_terminal")}
    # Nothing reads the action before the first record.
    return envs.spec, TrajectoryBatch(rows.observation, {name: np.swapaxes(actions, 0, 1)}, **signals)


def trained(probe, path, seed=0):
    """Configuration, spec, state after training, and episodes that it has not seen."""
    config = settings(probe, seed)
    state = train(config, path, loggers=(), stream=io.StringIO())
    spec, batch = play(config, STEPS[probe], seed)
    assert batch.is_first[:, 0].all() and batch.is_last[:, -1].all() and batch.is_last.sum() == len(ROWS)
    return config, spec, state, batch


def ahead(config, spec, state, batch):
    """Values of the replayed states [B, T], and rewards and discounts of imagination from them [B, T, H+1]."""
    _, aux = quick_jit(make_agent(config, spec).loss)(state.params, state, KEY, batch)
    path = aux.behavior.details.imagined
    reward, discount = (np.asarray(x).reshape(*batch.reward.shape, -1) for x in (path.reward, path.discount))
    return np.asarray(aux.behavior.details.replayed.value), reward, discount


def imagined_observations(config, spec, state, batch, start, shift):
    """What the prior expects at the records after ``start``, led to by actions ``shift`` records earlier."""
    model, params = make_world_model(config, spec), state.params["model"]
    (name,) = spec.observation
    latent = jax.tree.map(lambda x: x[:, start], quick_jit(model.observe)(params, KEY, ROWS, batch))
    actions = model.action_vector(batch.prev_action)
    length = batch.reward.shape[1]
    noise = model.dynamics.noise(KEY, ROWS, (length,))

    @quick_jit
    def step(latent, noise, action):
        latent = model.imagine_step(params, noise, latent, action)
        return latent, symexp(model.decode(params, model.dynamics.features(latent))[name])

    outputs = []
    for t in range(start + 1, length):
        latent, output = step(latent, noise[:, t], actions[:, t - shift])
        outputs.append(output)
    return np.stack(outputs, 1)


def mean_error(left, right):
    return np.abs(np.asarray(left) - right).mean(axis=(0, 2))


@pytest.mark.slow
def test_an_action_leads_to_the_next_observation(tmp_path):
    """Open loop, the model expects the actions that it is fed, and errs if they come one record late."""
    case = trained("echo", tmp_path)
    ((_, seen),) = case[3].observation.items()
    start = 2
    after = seen[:, start + 1 :]
    error = mean_error(imagined_observations(*case, start, 0), after)
    late = mean_error(imagined_observations(*case, start, 1), after)
    assert mean_error(np.zeros_like(after), after).min() > 0.4
    assert error.max() < 0.15
    assert late.min() > 0.4


@pytest.mark.slow
def test_the_reward_of_a_terminal_record_reaches_imagination(tmp_path):
    _, reward, discount = ahead(*trained("terminal_reward", tmp_path))
    # One step ahead of the four states before the end; the last of them leads to it.
    np.testing.assert_allclose(reward[:, :4, 1], np.broadcast_to([0, 0, 0, 1], reward[:, :4, 1].shape), atol=0.1)
    expected = np.broadcast_to([GOES_ON, GOES_ON, GOES_ON, 0], discount[:, :4, 1].shape)
    np.testing.assert_allclose(discount[:, :4, 1], expected, atol=0.05)


@pytest.mark.slow
def test_a_time_limit_is_not_an_end(tmp_path):
    """Episodes pay 6 in all, but the value is that of a reward of 1 for ever."""
    value, reward, discount = ahead(*trained("time_limit", tmp_path))
    np.testing.assert_allclose(value, HORIZON, atol=2)
    np.testing.assert_allclose(reward[..., 1:], 1, atol=0.1)
    np.testing.assert_allclose(discount, GOES_ON, atol=0.05)


@pytest.mark.slow
def test_a_termination_is_an_end(tmp_path):
    """The value is what is left until the end, discounted."""
    value, _, discount = ahead(*trained("constant_reward", tmp_path))
    left = [sum(GOES_ON**step for step in range(10 - t)) for t in range(10)]
    np.testing.assert_allclose(value[:, :10], np.broadcast_to(left, value[:, :10].shape), atol=0.7)
    np.testing.assert_allclose(discount[:, :9, 1], GOES_ON, atol=0.05)
    assert discount[:, 9, 1].max() < 0.05
