"""lambda-returns against numbers of the reference and a loop."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.ops.returns import departure_return, lambda_return, replay_return

REWARD = jnp.arange(5.0)
BOOTSTRAP = jnp.arange(10.0, 51, 10)
replay = jax.jit(partial(replay_return, discount=0.9, lambda_=0.95))
NEVER = jnp.zeros(5, bool)


def replayed(is_last, is_terminal):
    return replay(REWARD, is_last, is_terminal, BOOTSTRAP)


def test_termination_ends_the_sum():
    at = NEVER.at[3].set(True)
    np.testing.assert_allclose(replayed(at, at), [6.957325, 5.915, 3.0, 48.999996], rtol=1e-6)


def test_a_time_limit_keeps_the_bootstrap():
    at = NEVER.at[2].set(True)
    np.testing.assert_allclose(replayed(at, NEVER), [26.694998, 29.0, 46.694996, 48.999996], rtol=1e-6)


def test_nothing_crosses_the_border_of_an_episode():
    at = NEVER.at[2].set(True)
    changed = replay(REWARD.at[3:].add(7), at, NEVER, BOOTSTRAP.at[3:].add(9))
    np.testing.assert_array_equal(changed[:2], replayed(at, NEVER)[:2])
    assert (changed[2:] != replayed(at, NEVER)[2:]).all()


def loop(reward, discount, trace, value):
    following, returns = value[..., -1], []
    for t in reversed(range(value.shape[-1] - 1)):
        mixed = (1 - trace[..., t + 1]) * value[..., t + 1] + trace[..., t + 1] * following
        following = reward[..., t + 1] + discount[..., t + 1] * mixed
        returns.append(following)
    return np.stack(returns[::-1], -1)


def test_lambda_return_equals_a_loop():
    rng = np.random.default_rng(0)
    reward, value = rng.normal(size=(2, 2, 3, 6)).astype(np.float32)
    discount, trace = rng.uniform(size=(2, 2, 3, 6)).astype(np.float32)
    result = jax.jit(lambda_return)(reward, discount, trace, value)
    assert result.shape == (2, 3, 5) and result.dtype == jnp.float32
    np.testing.assert_allclose(result, loop(reward, discount, trace, value), rtol=2e-5)
    constant = lambda_return(reward, discount, 0.95, value)
    np.testing.assert_allclose(constant, loop(reward, discount, np.full_like(trace, 0.95), value), rtol=2e-5)


def test_first_reward_and_discount_are_unused():
    reward, discount = jnp.ones((2, 4)), jnp.full((2, 4), 0.5)
    plain = lambda_return(reward, discount, 0.9, reward)
    changed = lambda_return(reward.at[:, 0].set(99), discount.at[:, 0].set(99), 0.9, reward)
    np.testing.assert_array_equal(plain, changed)


def test_lambda_zero_is_one_step_and_one_is_the_whole_sum():
    reward, value = jnp.array([9.0, 1, 2, 3]), jnp.array([9.0, 10, 20, 30])
    discount = jnp.full(4, 0.5)
    np.testing.assert_allclose(lambda_return(reward, discount, 0.0, value), [6, 12, 18])
    np.testing.assert_allclose(lambda_return(reward, discount, 1.0, value), [1 + 0.5 * (2 + 9), 2 + 9, 18])


def test_a_return_that_begins_with_its_own_reward():
    """By hand: the last one is 2 + 0.5 x 20."""
    reward, discount, value = jnp.array([1.0, 2, 77]), jnp.array([0.25, 0.5, 77]), jnp.array([77.0, 10, 20])
    np.testing.assert_allclose(departure_return(reward, discount, 1.0, value), [1 + 0.25 * 12, 12])
    np.testing.assert_allclose(departure_return(reward, discount, 0.0, value), [1 + 0.25 * 10, 12])
    np.testing.assert_allclose(departure_return(reward, discount, 0.5, value), [1 + 0.25 * 11, 12])
