"""Rolling forward: shapes, alignment, and equality with a loop of single steps."""

import jax
import numpy as np
import pytest
from agents import KEY, MIXED, D, H, K, S, assert_trees_equal, quick_jit, tiny

from dreamer_jax.behaviors.imagination import imagine
from dreamer_jax.behaviors.policy import Policy
from dreamer_jax.models.rssm import RSSMState

N = 5
TINY = tiny()
PARAMS = TINY.state.params
POLICY = Policy(TINY.config.policy, MIXED.action, (D, S * K))
RNG = np.random.default_rng(0)
START = RSSMState(
    RNG.uniform(-1, 1, (N, D)).astype(np.float32), np.eye(K, dtype=np.float32)[RNG.integers(K, size=(N, S))]
)


def by_start(path):
    """Features and actions [N, H+1, ...]."""
    join = lambda before, last: np.swapaxes(np.concatenate([before, last[None]]), 0, 1)  # noqa: E731
    return jax.tree.map(join, (path.features, path.action), (path.last_features, path.last_action))


quick_roll = quick_jit(lambda rows, start: imagine(TINY.model, POLICY, PARAMS, KEY, rows=rows, start=start, length=H))
roll = lambda rows, start: by_start(quick_roll(rows, start))  # noqa: E731


@pytest.fixture(scope="module")
def path():
    return roll(np.arange(N), START)


def test_shapes_and_start(path):
    (deter, stoch), action = path
    assert deter.shape == (N, H + 1, D) and stoch.shape == (N, H + 1, S * K)
    assert action["motors"].shape == (N, H + 1, 2) and action["choice"].shape == (N, H + 1, 1, 6)
    assert_trees_equal((deter[:, 0], stoch[:, 0]), TINY.model.dynamics.features(START))


def test_action_at_t_leads_to_the_state_after_t(path):
    (deter, stoch), action = path
    step = quick_jit(TINY.model.imagine_step)
    for t in range(H):
        state = RSSMState(deter[:, t], stoch[:, t].reshape(N, S, K))
        now = {name: x[:, t] for name, x in action.items()}
        after = step(PARAMS["model"], np.zeros((N, S), np.float32), state, POLICY.vector(now))
        np.testing.assert_allclose(after.deter, deter[:, t + 1], rtol=1e-4, atol=1e-5)


def test_every_action_comes_from_its_own_state(path):
    feat, action = path
    key = jax.random.split(KEY)[1]
    noise = POLICY.noise(key, np.arange(N), (H + 1,))
    events = quick_jit(lambda feat: POLICY.draw(POLICY.apply({"params": PARAMS["actor"]}, *feat), noise))(feat)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), action, events)


def test_a_start_has_its_own_noise_wherever_it_is_rolled(path):
    rows = np.array([3, 0, 4, 4, 1])
    shuffled = roll(rows, jax.tree.map(lambda x: x[rows], START))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[rows], rtol=1e-5, atol=1e-6), shuffled, path)
    same_start = roll(np.arange(N), jax.tree.map(lambda x: x[[0] * N], START))
    assert len(np.unique(np.asarray(same_start[1]["motors"])[:, 0, 0])) == N
